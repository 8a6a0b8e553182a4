"""Loaded values that the server did not store, for they are too long. Pure: no sockets, `now` is an argument.

The server cannot hand such a value to those who wait for it, so the process that loaded it keeps it for its own waiters
until the server lets the key be loaded again. A value belongs to one failure, which the server repeats in its cause:
after an invalidation the next load may fail as well, and an older value must not stand in for that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from globalcache.client.fork import ProcessLock
from globalcache.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger("globalcache")
# Seconds: the longest hold-off of a key after a load that was not stored.
_KEPT = 1.0
# Values that are kept at most.
_MOST = 16
# Seconds between two warnings about one function, and functions that are remembered for that.
_WARN_EVERY = 3600.0
_MOST_WARNED = 1000


class Unstored:
    """Values that were not stored, by key, and which functions were warned about."""

    def __init__(self) -> None:
        # Encoded values with their flags, until when they are kept, and how their load failed.
        self._kept: dict[bytes, tuple[bytes, int, float, str]] = {}
        self._warned: dict[str, float] = {}
        self._lock = ProcessLock()

    def keep(self, key: bytes, data: bytes, flags: int, cause: str, now: float) -> None:
        """Keep a value for a moment; `cause` is what the server is told, and no other load's."""
        self.forget_old(now)
        # Other threads keep and forget meanwhile.
        for oldest in list(self._kept)[: 1 - _MOST]:
            self._kept.pop(oldest, None)
        self._kept[key] = data, flags, now + _KEPT, cause

    def find(self, key: bytes, failure: str, now: float) -> tuple[bytes, int] | None:
        """Return the value that is kept of this failure, and its flags."""
        if not self._kept:
            return None
        self.forget_old(now)
        found = self._kept.get(key)
        return None if found is None or not failure.endswith(found[3]) else found[:2]

    def forget(self, keys: Iterable[bytes] | None) -> None:
        """Forget what is out of date; None: all."""
        if self._kept:
            for key in list(self._kept) if keys is None else keys:
                self._kept.pop(key, None)

    def forget_old(self, now: float) -> None:
        """Forget what was kept for long enough: these are the longest of all values."""
        for key, (_, _, until, _) in self._kept.copy().items():
            if until <= now:
                self._kept.pop(key, None)

    def warn(self, function: str, key: str, size: int, most: int, now: float) -> None:
        """Log that a value is not stored, once an hour for a function."""
        with self._lock.own:
            if now < self._warned.get(function, 0.0):
                return
            if len(self._warned) >= _MOST_WARNED:
                self._warned.clear()
            self._warned[function] = now + _WARN_EVERY
        _log.warning("globalcache: %s: %s", function, too_long(key, size, most))


def too_long(key: str, size: int, most: int) -> str:
    """Say that a value is too long."""
    return f"the value of {key} is {_rounded(size)}; the server takes {format_size(most)} (--max-value): not stored"


def _rounded(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} bytes"
