"""What a cache counts, and the hook that hears of events."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("globalcache")


class Stats(msgspec.Struct):
    """Counts since the cache object was made. Exact for one thread, nearly so for many."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    loads: int = 0
    load_errors: int = 0
    local_loads: int = 0
    refused_fills: int = 0
    unreadable: int = 0
    errors: int = 0
    undelivered: int = 0
    connects: int = 0
    away_seconds: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """Return all counts by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Events:
    """Where what happened goes: a hook of the user, for OpenTelemetry for instance."""

    __slots__ = ("hook",)

    def __init__(self, hook: Callable[[str, dict[str, Any]], object] | None) -> None:
        self.hook = hook

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell the hook, whose own errors are logged and harm nobody."""
        if self.hook is not None:
            try:
                self.hook(event, facts)
            except Exception:  # noqa: BLE001 - code of the user
                _log.exception("globalcache: the on_event hook failed at %s", event)
