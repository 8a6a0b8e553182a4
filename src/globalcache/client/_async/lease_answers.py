"""Answers for leases: a value that was loaded, or a failure. What is not answered is released by whoever has it.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.wire import as_text
from globalcache.errors import CacheError, ReplyError, ValueTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client.cache_state import CacheState
    from globalcache.client.guard import Guard
    from globalcache.client.keyspace import Keyspace
    from globalcache.client.leases import Lease
    from globalcache.client.loaded_value import LoadedValue
    from globalcache.client.wire import Words
    from globalcache.policy import Policy

# What a server is told of a value that it does not take. The function has not failed, so others may run it as well.
TOO_LARGE = "too large"


class AsyncLeaseAnswers:
    """Sends the answers of a namespace to the servers that granted the leases."""

    def __init__(self, state: CacheState, keyspace: Keyspace[AsyncTransport]) -> None:
        self._state = state
        self._stats = state.stats
        self._failures = state.failures
        self._keyspace = keyspace
        self._runner = state.async_runner

    async def fill(self, lease: Lease, loaded: LoadedValue, cost: float, policy: Policy, guard: Guard) -> None:
        """Store a value that was loaded; a server that does not take it is told that the load is over."""
        words = self.fill_options(lease.server, policy, loaded, cost)
        try:
            most = lease.server.max_value
            if most is not None and len(loaded.data) > most:
                self._state.warn_too_long(most, guard.name, self._keyspace.key_of(lease.name), loaded.data)
                await self._fail_unstored(lease, loaded, TOO_LARGE, policy)
                return
            self._stats.refused_fills += not await self.answer(lease, b"CACHE.FILL", loaded.data, *words)
        except CacheError as error:
            self._stats.errors += 1
            self._state.events("fill_error", key=as_text(lease.name), error=str(error))
            if isinstance(error, ReplyError | ValueTooLargeError):
                await self._fail_unstored(lease, loaded, f"it could not be stored: {error}"[:200], policy)

    async def _fail_unstored(self, lease: Lease, loaded: LoadedValue, cause: str, policy: Policy) -> None:
        """End a lease whose value is not stored, with a pause, for the next would not be either.

        Those who wait for it in this process get a value nevertheless.
        """
        cause = self.keep_unstored(lease, loaded, cause, policy)
        try:
            await self.answer(lease, b"CACHE.FAIL", encode_cause(cause))
        except CacheError:
            self._stats.errors += 1

    def keep_unstored(self, lease: Lease, loaded: LoadedValue, cause: str, policy: Policy) -> str:
        """Keep a value that is not stored for those who wait here; returns the cause, which names its load.

        A server that was not given the tags of a value cannot know when they are invalidated, so one that has tags is
        not kept: whoever waits for it loads it again.
        """
        cause = f"{cause} (load {lease.token})"
        if not loaded.is_absent and not self._keyspace.own_tags and not policy.tags:
            self._state.unstored.keep(lease.name, loaded.data, loaded.flags, cause, time.monotonic())
        return cause

    async def answer(self, lease: Lease, command: bytes, *words: bytes) -> Any:
        """Answer for a lease; 0 if it is not this process's any more, as in a child that was forked since."""
        if not lease.is_open:
            return 0
        reply = await lease.server.call(command, *lease.words, *words)
        lease.close()
        return reply

    async def fail_interrupted(self, leases: Sequence[Lease], error: BaseException) -> None:
        """Fail a load that ended by no Exception, if it raised that by itself.

        The next holder would meet it too, and SystemExit would end one process after another. A caller that was
        cancelled or interrupted hands its leases on.
        """
        if self._runner.is_own(error):
            cause = self._failures.message(error)
            await self.answer_all([(lease, (b"CACHE.FAIL", encode_cause(cause))) for lease in leases])

    def fill_options(self, server: AsyncTransport, policy: Policy, loaded: LoadedValue, cost: float) -> list[bytes]:
        """Return the words of CACHE.FILL after the value."""
        return policy.words(
            draw=random.random(),  # noqa: S311 - spreads the ends of values
            absent=loaded.is_absent,
            least_absence=server.endpoint.least_absence if server.endpoint else 0,
            cost=cost,
            flags=loaded.flags,
            tags=self._keyspace.tag_names(policy.tags),
        )

    async def answer_all(self, answers: list[tuple[Lease, Words]]) -> None:
        """Answer for leases, each at its server; what a server does not store is failed there."""
        failures: list[tuple[Lease, Words]] = []
        answers = [(lease, words) for lease, words in answers if lease.is_open]
        for server in {id(lease.server): lease.server for lease, _ in answers}.values():
            part = [(lease, words) for lease, words in answers if lease.server is server]
            commands = [(words[0], *lease.words, *words[1:]) for lease, words in part]
            try:
                replies = await server.call_many(commands)
            except CacheError:
                self._stats.errors += 1
                continue
            for (lease, words), reply in zip(part, replies, strict=True):
                if not isinstance(reply, Exception):
                    self._stats.refused_fills += words[0] == b"CACHE.FILL" and not reply
                    lease.close()
                elif words[0] == b"CACHE.FILL":
                    self._stats.errors += 1
                    failures.append((lease, (b"CACHE.FAIL", encode_cause(f"it could not be stored: {reply}"[:200]))))
        if failures:
            await self.answer_all(failures)


def encode_cause(cause: str) -> bytes:
    """Return why a load failed as it is sent; a reply that it quotes may be no UTF-8."""
    return cause.encode(errors="backslashreplace")
