"""A value that a load gave, as it is stored and as callers get it."""

from __future__ import annotations

from typing import Any, NamedTuple

from globalcache.client.guard import Absent


class LoadedValue(NamedTuple):
    """A value that was loaded: as it is stored, and as callers get it."""

    data: bytes
    flags: int
    value: Any

    @property
    def is_absent(self) -> bool:
        """Whether there is no such row."""
        return self.value is None or self.value.__class__ is Absent
