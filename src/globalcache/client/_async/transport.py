"""How a cache reaches a server, whatever is behind it: connections, the engine in this process, or nothing.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from globalcache.client.leases import NoLease
from globalcache.client.wire import Fetched
from globalcache.errors import AWAY, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from globalcache.client.cache_state import CacheState
    from globalcache.client.endpoint import Endpoint
    from globalcache.client.wire import Words
    from globalcache.errors import CacheError

# What a read gives whose server is away, where the cache goes on without it.
NO_SERVER: Final[Any] = object()
_ANSWERS: dict[bytes, Any] = {b"PING": b"PONG", b"CACHE.SET": 1, b"CACHE.INSPECT": {b"state": b"miss"}, b"INFO": b""}
_NO_ENTRY = [b"miss", None, 0, 0, -2, 0, -1]


class AsyncTransport(Protocol):
    """The requests of a cache to one server.

    Replies are as the server gives them. Calls raise UnavailableError, DeadlineError, ReplyError or its children; where
    several replies come together, an element may be the exception.
    """

    @property
    def endpoint(self) -> Endpoint | None:
        """What all that reaches this server shares; None where there is no server."""

    @property
    def max_value(self) -> int | None:
        """Bytes of the longest value that the server takes; None if it did not say."""

    def get(self, key: bytes, /) -> Awaitable[Any]:
        """Return the value: its text, a list of that and its flags, or None."""

    def get_many(self, keys: Sequence[bytes], /) -> Awaitable[Any]:
        """Return the values in the order of their keys, or an exception for all."""

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None, /) -> Awaitable[Any]:
        """Return what there is, after at most `wait` seconds if others load it.

        That is Fetched if it brings a lease. Else it is the list that the server sent, for `fetched` to read: to make a
        Fetched of every hit would cost 4 % of it.
        """

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None, /) -> Awaitable[list[Any]]:
        """Return what `fetch` returns for each. Leases that came are released if the caller is interrupted."""

    def call(self, *words: bytes, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Awaitable[Any]:
        """Return the reply to a command; one with `keys` or `tags` is a write, made good if it may have been lost."""

    def call_many(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> Awaitable[list[Any]]:
        """Return the replies to several commands; `keys` as for `call`."""

    def close(self) -> Awaitable[Any]:
        """Close the connections. A later call opens new ones."""


async def read_again(state: CacheState, error: CacheError, read: Callable[..., Awaitable[Any]], *given: Any) -> Any:
    """Return what a read gives that has failed by `error`, one of AWAY: NO_SERVER if it fails again.

    A read that lost its connection is sent once more, over another one: the server may have closed no more than that,
    and nothing changes if it ran twice. A read that took too long is not, since the time of its call has passed.
    Transports do not do this themselves: a task that hits would await a coroutine more, 3 % of its instructions.
    """
    try:
        if isinstance(error, UnavailableError):
            return await read(*given)
    except AWAY as second:
        state.on_unavailable(second)
    else:
        state.on_unavailable(error)
    return NO_SERVER


class AsyncNullTransport:
    """No server: the switch that turns caching off. Every read is a miss, and no write is stored."""

    endpoint = None
    max_value = None

    async def get(self, key: bytes) -> None:
        """Return nothing."""

    async def get_many(self, keys: Sequence[bytes]) -> list[None]:
        """Return nothing for each."""
        return [None] * len(keys)

    async def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Fetched:  # noqa: ARG002
        """Have the caller load."""
        return self._miss(key)

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:  # noqa: ARG002
        """Have the caller load all."""
        return [self._miss(key) for key in keys]

    async def call(self, *words: bytes, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Any:  # noqa: ARG002
        """Do nothing."""
        return _answer(words)

    async def call_many(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Any]:  # noqa: ARG002
        """Do nothing."""
        return [_answer(words) for words in commands]

    async def close(self) -> None:
        """Nothing is open."""

    def _miss(self, key: bytes) -> Fetched:
        # A lease, so that the caller loads; what it fills in goes nowhere.
        return Fetched(b"miss", None, 0, -2, 0, NoLease(self, key))  # type: ignore[arg-type]


def _answer(words: Words) -> Any:
    if words[0] == b"CACHE.ENTRY":
        return _NO_ENTRY
    # A counter that is never kept counts from nothing.
    return int(words[2]) if words[0] == b"CACHE.INCR" else _ANSWERS.get(words[0], 0)
