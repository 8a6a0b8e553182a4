"""The store inside any Python process: a cache of bytes with an exact budget and no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from globalcache import _core
from globalcache.errors import ConfigError
from globalcache.units import format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from datetime import timedelta

_LONGEST_VALUE = 16 << 20


class Store:
    """Keys and values of this process alone, in `memory` bytes at most (`Store(memory="64MiB")`).

    Keys are str or bytes, values bytes. When memory is full, what was not asked for goes; with `eviction="none"`
    writes raise MemoryError instead. Unless `max_value` tells otherwise the longest value is 16 MiB, or an eighth of
    the memory if that is less. Every call is one step for all threads. Expired values go when they are asked for, and
    bit by bit while others are written. Raises ConfigError for a wrong option.
    """

    def __init__(
        self,
        *,
        memory: str | int = "256MiB",
        eviction: Literal["s3fifo", "none"] = "s3fifo",
        max_value: str | int | None = None,
    ) -> None:
        if eviction not in ("s3fifo", "none"):
            raise ConfigError("eviction: should be s3fifo or none")
        try:
            size = parse_size(memory)
            longest = min(_LONGEST_VALUE, size // 8) if max_value is None else parse_size(max_value)
            self._core = _core.Store(memory=size, evict=eviction == "s3fifo", max_value=longest)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._memory = size

    def get(self, key: str | bytes) -> bytes | None:
        """Return the value, None if there is none."""
        return self._core.get(key)

    def set(self, key: str | bytes, value: bytes, *, ttl: str | float | timedelta | None = None) -> None:
        """Write a value, which expires after `ttl` (seconds, `"5m"` or a timedelta) if one is given.

        Raises ValueError for a value that is too long or a `ttl` that is not positive, MemoryError if there is no room.
        """
        if ttl is None:
            self._core.set(key, value, None)
            return
        milliseconds = round(parse_duration(ttl) * 1000)
        if milliseconds <= 0:
            raise ValueError("ttl: should be positive")
        self._core.set(key, value, milliseconds)

    def delete(self, key: str | bytes) -> bool:
        """Remove a value; whether there was one."""
        return self._core.delete(key)

    def clear(self) -> None:
        """Remove everything."""
        self._core.clear()

    def stats(self) -> dict[str, int]:
        """Return `items`, `used` and `memory` (bytes), and since the start `hits`, `misses`, `evicted`, `expired`."""
        return self._core.stats()

    def __contains__(self, key: str | bytes) -> bool:
        return key in self._core

    def __len__(self) -> int:
        """Count the values; expired ones too until they go."""
        return len(self._core)

    def __repr__(self) -> str:
        return f"Store({len(self)} items, memory={format_size(self._memory)})"
