"""Writes on their way to their servers, and what is noted when one of them is away or the caller is interrupted.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.runner import Failed
from globalcache.client.wire import translate
from globalcache.errors import AWAY, ValueTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globalcache.client._sync.transport import Transport
    from globalcache.client.cache_state import CacheState
    from globalcache.client.keyspace import Keyspace
    from globalcache.client.wire import Words

# A server with what it has to do, and the keys and tags that this changes.
Write: TypeAlias = "tuple[Transport, Words, tuple[bytes, ...], tuple[bytes, ...]]"
ManyWrites: TypeAlias = "tuple[Transport, list[Words], tuple[bytes, ...], tuple[()]]"


def send_one(write: Write) -> Any:
    """Send a command that writes; returns its reply."""
    server, words, keys, tags = write
    return server.call(*words, keys=keys, tags=tags)


def send_many(write: ManyWrites) -> Any:
    """Send several commands that write; returns their replies."""
    server, commands, keys, _ = write
    return server.call_many(commands, keys=keys)


class Writer:
    """What writes to the servers of a namespace."""

    def __init__(self, state: CacheState, keyspace: Keyspace[Transport]) -> None:
        self._state = state
        self._stats = state.stats
        self._keyspace = keyspace
        self._runner = state.runner

    def deliver(self, send: Callable[[Any], Any], writes: Sequence[Write | ManyWrites]) -> list[Any]:
        """Send each write to its server; returns what they gave. Every server has its turn before anything is raised.

        An invalidation that ended at the first server would leave old values at the others, and none of them would
        hear of it later.
        """
        if len(writes) == 1:
            # Nearly always, so without what several need.
            try:
                return [send(writes[0])]
            except AWAY as error:
                self._state.on_unavailable(error)
                return []

        def attempt(write: Any) -> Any:
            try:
                return send(write)
            except Exception as error:  # noqa: BLE001 - raised when all had their turn
                return Failed(error)

        results = self._runner.deliver(attempt, writes, _note_undelivered)
        self._raise_first([result.error for result in results if result.__class__ is Failed])
        return [result for result in results if result.__class__ is not Failed]

    def _raise_first(self, errors: Sequence[Exception]) -> None:
        """Go on without servers that are away, as the cache was told; raise what one has refused."""
        away = [error for error in errors if isinstance(error, AWAY)]
        self._stats.errors += len(away)
        for error in errors:
            if self._state.raises or not isinstance(error, AWAY):
                raise error

    def write_many(self, writes: Sequence[ManyWrites]) -> int:
        """Send commands that write a value each; returns how many were written. Raises what a server has refused."""
        written = 0
        refused: Exception | None = None
        for replies in self.deliver(send_many, writes):
            for reply in replies:
                error = translate(reply) if isinstance(reply, Exception) else None
                if error is None:
                    written += bool(reply)
                elif isinstance(error, ValueTooLargeError):
                    self._stats.errors += 1
                else:
                    refused = refused or error
        if refused is not None:
            raise refused
        return written

    def invalidate(self, keys: list[str], tags: list[bytes]) -> int:
        """Forget keys, and what has one of these tags as they are sent; returns how many keys and tags that were."""
        parts = [(server, tuple(names)) for server, _, names in self._keyspace.by_server(keys)]
        writes: list[Write] = []
        for server in self._keyspace.servers if tags else ():
            # In one step with the first of the keys, which are nearly always all.
            first = next((part for part in parts if part[0] is server), (server, ()))
            parts = [part for part in parts if part is not first]
            writes.append(_invalidation(*first, tuple(tags)))
        writes += [_invalidation(server, names, ()) for server, names in parts]
        # Who joined a load in this process before this may have its value; nobody after it.
        for _, _, names, with_tags in writes:
            self._state.forget_loads(None if with_tags else names)
        return sum(self.deliver(send_one, writes))


def _invalidation(server: Transport, names: tuple[bytes, ...], tags: tuple[bytes, ...]) -> Write:
    words: Words = (b"CACHE.INVALIDATE",)
    if names:
        words += (b"KEYS", b"%d" % len(names), *names)
    if tags:
        words += (b"TAGS", b"%d" % len(tags), *tags)
    return server, words, names, tags


def _note_undelivered(write: Write | ManyWrites) -> None:
    """Have a write that was never sent made good before its server is read again; memory:// has nothing to lose."""
    server, _, keys, tags = write
    if server.endpoint is not None:
        server.endpoint.undelivered(keys, tags, sent=False)
