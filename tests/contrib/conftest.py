"""Coroutines as tests here as well."""

from __future__ import annotations

from tests.client.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
