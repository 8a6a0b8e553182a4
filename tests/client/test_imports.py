"""What importing the client costs: what it must not bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = {
    "asyncio",
    "globalcache._core",
    "globalcache.client.memory",
    "hashlib",
    "hmac",
    "pickle",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "ssl",
    "zstandard",
}


@pytest.mark.parametrize(("face", "needed"), [("Cache", set()), ("AsyncCache", {"asyncio", "ssl"})])
def test_a_cache_imports_what_it_needs_and_no_more(face: str, needed: set[str]) -> None:
    code = f"import sys, globalcache; globalcache.{face}('globalcache://127.0.0.1:1'); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert _HEAVY & set(told.split()) == needed
