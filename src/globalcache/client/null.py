"""A server that keeps nothing: the switch to turn caching off. Every read is a miss, every write goes nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from globalcache.client.leases import NoLease

if TYPE_CHECKING:
    from collections.abc import Sequence

_ANSWERS: dict[bytes, Any] = {b"PING": b"PONG", b"CACHE.SET": 1, b"CACHE.INSPECT": {b"state": b"miss"}, b"INFO": b""}
_ENTRY = [b"miss", None, 0, 0, -2, 0, -1]


def _miss(server: Any, key: bytes) -> list[Any]:
    # A lease, so that the caller loads; what it fills in goes nowhere.
    return [b"miss", None, NoLease(server, key), 0, -2, 0]


def _answer(words: Sequence[Any]) -> Any:
    if words[0] == b"CACHE.ENTRY":
        return _ENTRY
    # A counter that is never kept counts from nothing.
    return int(words[2]) if words[0] == b"CACHE.INCR" else _ANSWERS.get(words[0], 0)


class BlockingNull:
    """Called as a BlockingServer is."""

    max_value = None

    def get(self, key: bytes) -> None:
        """Return nothing."""

    def get_many(self, keys: Sequence[bytes]) -> list[None]:
        """Return nothing for each."""
        return [None] * len(keys)

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> list[Any]:  # noqa: ARG002
        """Have the caller load."""
        return _miss(self, key)

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:  # noqa: ARG002
        """Have the caller load all."""
        return [_miss(self, key) for key in keys]

    def call(self, *words: Any, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Any:  # noqa: ARG002
        """Do nothing."""
        return _answer(words)

    def call_many(self, commands: Sequence[tuple[Any, ...]], keys: tuple[bytes, ...] = ()) -> list[Any]:  # noqa: ARG002
        """Do nothing."""
        return [_answer(words) for words in commands]

    def close(self) -> None:
        """Nothing is open."""


class MultiplexedNull:
    """Called as a MultiplexedServer is."""

    max_value = None

    async def get(self, key: bytes) -> None:
        """Return nothing."""

    async def get_many(self, keys: Sequence[bytes]) -> list[None]:
        """Return nothing for each."""
        return [None] * len(keys)

    async def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> list[Any]:  # noqa: ARG002
        """Have the caller load."""
        return _miss(self, key)

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:  # noqa: ARG002
        """Have the caller load all."""
        return [_miss(self, key) for key in keys]

    async def call(self, *words: Any, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Any:  # noqa: ARG002
        """Do nothing."""
        return _answer(words)

    async def call_many(self, commands: Sequence[tuple[Any, ...]], keys: tuple[bytes, ...] = ()) -> list[Any]:  # noqa: ARG002
        """Do nothing."""
        return [_answer(words) for words in commands]

    async def close(self) -> None:
        """Nothing is open."""
