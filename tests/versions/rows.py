"""What loads of either version raise."""

from __future__ import annotations


class NoRow(Exception):  # noqa: N818 - the name of an application
    """There is no such row."""


class Gone(NoRow):
    """There is none any more."""


class Broken(Exception):  # noqa: N818 - the name of an application
    """The database does not answer."""
