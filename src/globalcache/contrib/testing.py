"""A cache for tests: memory://, a clock that the test moves, and faults that it injects; pytest.py hands it out.

    cache.clock.advance("5m")                 five minutes pass at once
    with cache.faults.dead(): ...             no server answers
    with cache.faults.slow("3s"): ...         every call takes so long, by the clock of the test
    with cache.faults.lost_reply(): ...       commands are done, but nobody is told
    cache.stand_in_for(shop.cache)            until the test is over what uses shop.cache uses this cache's values

What a write did not deliver under a fault is pending, and is invalidated before the next read, as with a server.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from globalcache.client._sync.cache import Cache
from globalcache.client.address import Address
from globalcache.client.connection_pool import ConnectionPool
from globalcache.client.failures import Failures
from globalcache.client.local import LocalConnectionPool, LocalServer
from globalcache.client.local_tasks import LocalMultiplexedTransport
from globalcache.client.pending_invalidations import PendingInvalidations
from globalcache.errors import DeadlineError, UnavailableError
from globalcache.policy import Duration, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from globalcache import AsyncCache
    from globalcache.client.cache_state import CacheState
    from globalcache.client.endpoint import Endpoint
    from globalcache.client.wire import Words

Keys = tuple[bytes, ...]


class Clock:
    """The time of a cache in seconds; it stands until the test moves it."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, text such as "5m", or a timedelta."""
        self._now += seconds("advance", duration)

    def __repr__(self) -> str:
        return f"Clock({self._now:g})"


class Faults:
    """What goes wrong between a cache and its server while a `with` block lasts; the innermost block counts."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._pending = PendingInvalidations()
        self._fault: str | float | None = None

    @contextmanager
    def _during(self, fault: str | float) -> Iterator[None]:
        before, self._fault = self._fault, fault
        try:
            yield
        finally:
            self._fault = before

    def dead(self) -> Any:
        """No server answers."""
        return self._during("dead")

    def slow(self, duration: Duration) -> Any:
        """Every call takes so long; beyond the time-out of the cache it fails and nothing was done."""
        return self._during(seconds("slow", duration))

    def lost_reply(self) -> Any:
        """Commands are done, but their replies are lost: the caller has waited for the time-out."""
        return self._during("lost reply")

    @contextmanager
    def around(self, server: ConnectionPool, keys: Keys = (), tags: Keys = ()) -> Iterator[None]:
        """Do to one call what is to go wrong; `keys` and `tags` are what it writes, `server` is one without faults."""
        fault = self._fault
        if fault == "dead":
            self._pending.add(keys, tags, sent=False)
            raise UnavailableError("no server: the test has it dead")
        if isinstance(fault, float):
            self._clock.advance(min(fault, self._timeout))
            if fault > self._timeout:
                self._pending.add(keys, tags, sent=True)
                raise DeadlineError(f"no answer in {self._timeout:g} s: the test has it slow")
        self._replay(server)
        yield
        if fault == "lost reply":
            self._clock.advance(self._timeout)
            self._pending.add(keys, tags, sent=True)
            raise DeadlineError(f"no answer in {self._timeout:g} s: the test has it lost")

    def _replay(self, server: ConnectionPool) -> None:
        if len(self._pending):
            snapshot = self._pending.snapshot()
            server.call_many(snapshot.commands())
            self._pending.acknowledge(snapshot)

    def __repr__(self) -> str:
        return f"Faults({self._fault or 'none'})"


class _Faulty:
    """What both ways to the engine have to do with faults."""

    def __init__(self, endpoint: Endpoint, local: LocalServer, faults: Faults) -> None:
        super().__init__(endpoint, local)  # type: ignore[call-arg]  # of the other base
        self._faults = faults
        self._plain = ConnectionPool(endpoint)

    def _around(self, keys: Keys = (), tags: Keys = ()) -> Any:
        return self._faults.around(self._plain, keys, tags)


class _FaultyPool(_Faulty, LocalConnectionPool):
    """The engine for threads, reached through faults."""

    def get(self, key: bytes) -> Any:
        with self._around():
            return super().get(key)

    def get_many(self, keys: Sequence[bytes]) -> Any:
        with self._around():
            return super().get_many(keys)

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None, *how: Any) -> Any:
        with self._around():
            return super().fetch(key, wait, lease_ms, *how)

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        with self._around():
            return self._plain.fetch_many(keys, wait, lease_ms)  # once, for they travel together

    def call(self, *words: bytes, keys: Keys = (), tags: Keys = ()) -> Any:
        with self._around(keys, tags):
            return super().call(*words)

    def call_many(self, commands: Sequence[Words], keys: Keys = ()) -> list[Any]:
        with self._around(keys):
            return super().call_many(commands)


class _FaultyMultiplexed(_Faulty, LocalMultiplexedTransport):
    """The engine for tasks, reached through faults."""

    async def get(self, key: bytes) -> Any:
        with self._around():
            return await super().get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[Any]:
        with self._around():
            return await super().get_many(keys)

    async def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Any:
        with self._around():
            return await super().fetch(key, wait, lease_ms)

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        with self._around():
            return await super().fetch_many(keys, wait, lease_ms)

    async def call(self, *words: bytes, keys: Keys = (), tags: Keys = ()) -> Any:
        with self._around(keys, tags):
            return await super().call(*words)

    async def call_many(self, commands: Sequence[Words], keys: Keys = ()) -> list[Any]:
        with self._around(keys):
            return await super().call_many(commands)


class CacheForTests(Cache):
    """A Cache on memory:// of its own. It takes the options of Cache."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        super().__init__("memory://", clock=self.clock, **{"namespace": "test"} | options)

    def _set_up(self, state: CacheState, names: Sequence[str]) -> None:
        if not hasattr(self, "faults"):
            self._engine = LocalServer(self.clock)
            self.faults = Faults(self.clock, state.servers.timeout)
            self._replaced: list[tuple[Any, dict[str, Any]]] = []
            self._take(state)
        super()._set_up(state, names)

    def _take(self, state: CacheState) -> None:
        """Have a cache use this cache's engine, through its faults."""
        servers = state.servers = copy.copy(state.servers)
        endpoint = servers.endpoint(Address("memory"), local=self._engine)
        servers.endpoints = [endpoint]
        servers.transports = [_FaultyPool(endpoint, self._engine, self.faults)]
        servers.async_transports = [_FaultyMultiplexed(endpoint, self._engine, self.faults)]
        # Failures are held off by the clock of the test, and end with it.
        state.failures = Failures(self.clock, tell_text=state.failures.tell_text)

    @classmethod
    def _of(cls, state: CacheState, names: Sequence[str]) -> Any:
        # A namespace is a plain cache; the clock and the faults of this one are its as well.
        return Cache._of(state, names)

    def stand_in_for(self, *caches: Cache | AsyncCache) -> None:
        """Have these caches, and functions decorated with them, use the values of this one until the test is over.

        They keep their namespaces and options. A namespace object made before is a cache of its own: name it as well.
        """
        for cache in caches:
            state = copy.copy(cache._state)
            self._take(state)
            for face in (cache, cache._other):
                if face is not None:
                    self._replaced.append((face, dict(face.__dict__)))
                    other = face._other
                    face._set_up(state, face._names)
                    face._other = other

    def give_back(self) -> None:
        """Let the caches that this one stands in for be what they were."""
        while self._replaced:
            face, before = self._replaced.pop()
            face.__dict__.clear()
            face.__dict__.update(before)
