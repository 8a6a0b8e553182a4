"""The loading protocol of one key: what a fetch gave, else a load with a lease, or one without.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from globalcache.client._sync.lease_answers import TOO_LARGE, LeaseAnswers
from globalcache.client._sync.local_loading import LocalLoad, LocalLoading, value_or_raise
from globalcache.client._sync.transport import NO_SERVER, read_again
from globalcache.client.bound import to_run_later
from globalcache.client.failures import is_lost, is_private
from globalcache.client.flights import keys_in_loads
from globalcache.client.guard import Absent, Guard, cause_of
from globalcache.client.raised import Handled
from globalcache.client.values import UNREADABLE
from globalcache.client.wire import Fetched, as_text, fetched, translate
from globalcache.errors import AWAY, CacheError, DeadlineError, LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from globalcache.client._sync.transport import Transport
    from globalcache.client._sync.writer import Writer
    from globalcache.client.cache_state import CacheState
    from globalcache.client.keyspace import Keyspace
    from globalcache.client.leases import Lease
    from globalcache.policy import Policy

# The states of a key that somebody else loads, and not within the time that the caller waits.
_LOADED_ELSEWHERE = {b"waiting", b"timeout"}


class LoadSpec(NamedTuple):
    """What a caller of get_or_load wants."""

    load: Callable[[], Any]
    policy: Policy
    type: Any
    wait: float
    guard: Guard
    # Whether a value of another type may be invalidated, to be fetched once more.
    again: bool = True
    # Whether a load without a lease is left to the caller, as a DeferredLoad.
    defers: bool = False


class DeferredLoad:
    """What stands for a key that is to be loaded without a lease, together with others.

    `failure` is that of another process; None if nobody has failed whom this caller would believe.
    """

    def __init__(self, failure: LoadError | None = None) -> None:
        self.failure = failure


class Loading:
    """Loads the keys of a namespace, one by one."""

    def __init__(self, state: CacheState, keyspace: Keyspace[Transport], writer: Writer) -> None:
        self._state = state
        self._keyspace = keyspace
        self._writer = writer
        self.local = LocalLoading(state, keyspace)
        self.answers = LeaseAnswers(state, keyspace)
        self._decode = state.values.decode
        self._stats = state.stats
        self._failures = state.failures
        self._refresher = state.refresher

    def resolve(self, server: Transport, name: bytes, reply: Any, spec: LoadSpec) -> Any:
        """Return what a fetch gave, or load it.

        The lease of `reply`, if any, is released by the caller.
        """
        if reply is NO_SERVER:
            return self._load_locally(name, spec, joins=True)
        if isinstance(reply, Exception):
            return self._after_failure(server, name, reply, spec)
        reply = reply if reply.__class__ is Fetched else fetched(reply)
        value = self._value_of_fetch(reply, spec)
        lease = reply.lease
        if value is not UNREADABLE:
            return value if lease is None else self._refresh(lease, spec, value)
        if lease is None and reply.value is not None and spec.again:
            # It was written by other code, as another type: make room for one that can be read.
            self._writer.invalidate([self._keyspace.key_of(name)], [])
            return self.fetch_again(server, name, spec._replace(again=False), spec.wait)
        self._stats.misses += 1
        if lease is not None:
            return self._load(lease, spec)
        return self._load_locally(name, spec)

    def fetch_again(self, server: Transport, name: bytes, spec: LoadSpec, wait: float, *, alone: bool = False) -> Any:
        """Ask again, after an invalidation: somebody has a value, or it is this caller's turn to load.

        `alone`: a load has failed for its caller alone, and all who waited for it ask at the same moment. One of them
        is granted the lease; the others load without one, since others may fail so as well.
        """
        lease: Lease | None = None
        try:
            reply = self._fetch(server, name, wait)
            # As in `get_or_load`.
            lease = reply.lease if reply.__class__ is Fetched else None
            reply = fetched(reply)
            if lease is not None:
                lease.taken = True
            elif alone and (is_private(reply) or (reply.__class__ is Fetched and reply.state in _LOADED_ELSEWHERE)):
                self._stats.misses += 1
                if spec.defers:
                    return DeferredLoad()
                return value_or_raise(self.local.load_unshared([name], _local_load_of(spec), spec.wait), name)
            return self.resolve(server, name, reply, spec)
        finally:
            if lease is not None and not lease.is_handed_over:
                lease.release()

    def _fetch(self, server: Transport, name: bytes, wait: float) -> Any:
        try:
            return server.fetch(name, wait)
        except AWAY as error:
            return read_again(self._state, error, server.fetch, name, wait)

    def _refresh(self, lease: Lease, spec: LoadSpec, value: Any) -> Any:
        """Return a value that is to be refreshed, and have that done in the background, or do it here."""
        load = to_run_later(spec.load, spec.guard, spec.policy)
        if load is None:
            try:
                return self._load(lease, spec)
            except Exception:  # noqa: BLE001 - counted and told; the value is still good
                return value

        def refresh(leases: Sequence[Lease]) -> None:
            for one in leases:
                self._load(one, spec._replace(load=load))

        lease.is_handed_over = self._refresher.refresh((lease,), refresh)
        return value

    def _value_of_fetch(self, reply: Fetched, spec: LoadSpec) -> Any:
        """Return what a fetch gave; UNREADABLE if that is nothing, or nothing of this type."""
        if reply.state == b"absent":
            self._stats.hits += 1
            return Absent(as_text(reply.value)) if reply.value else None
        if reply.state in _LOADED_ELSEWHERE:
            raise DeadlineError(f"somebody else loads it, and not within {spec.wait:g} s")
        if reply.value is None:
            return UNREADABLE
        value = self._decode(reply.value, reply.flags, spec.type)
        if value is UNREADABLE:
            self._stats.unreadable += 1
        elif reply.state == b"stale":
            self._stats.stale += 1
        else:
            self._stats.hits += 1
        return value

    def _load(self, lease: Lease, spec: LoadSpec) -> Any:
        """Load with a lease in hand, and fill in what came. Whoever gave the lease releases it if that fails."""
        begun = time.monotonic()
        handled = Handled()
        ran = False
        try:
            if self._failures.has_any:
                self._failures.check(self._keyspace.key_of(lease.name), spec.guard)
            self._stats.loads += 1
            value = self.local.run((lease.name,), spec.load)
            ran = True
            loaded = self.local.encode(lease.name, value, spec.type, spec.guard)
        except Exception as error:
            stand_in = self._load_failed(lease, error, spec, handled, ran=ran)
            if stand_in is UNREADABLE:
                raise
            return stand_in
        except BaseException as error:
            self.answers.fail_interrupted((lease,), error)
            raise
        self._failures.succeeded(spec.guard)
        cost = time.monotonic() - begun
        self.answers.fill(lease, loaded, cost, spec.policy, spec.guard)
        if self._state.events.hook is not None:
            self._state.events("load", key=as_text(lease.name), seconds=cost)
        return loaded.value

    def _load_failed(self, lease: Lease, error: Exception, spec: LoadSpec, handled: Handled, *, ran: bool) -> Any:
        """Tell the server; return a stale value that may stand in, UNREADABLE if there is none.

        The exception is kept before the server hears of the failure, so that whoever waits here finds it.
        """
        self._stats.load_errors += 1
        self._state.events("load_error", key=as_text(lease.name), error=cause_of(error))
        words = self._failures.failed((lease.name,), error, spec.guard, handled, ran=ran)
        try:
            self.answers.answer(lease, b"CACHE.FAIL", *words)
            if spec.policy.stale_if_error and not ran and not isinstance(error, spec.guard.pass_through):
                return self.stale_value(lease.server.fetch(lease.name, 0, 0), spec.type)
        except CacheError:
            self._stats.errors += 1
        return UNREADABLE

    def stale_value(self, reply: Any, type: Any) -> Any:
        """Return the value in a reply after a load that failed; UNREADABLE if there is none."""
        reply = fetched(reply)
        if reply.__class__ is not Fetched or reply.value is None or reply.state == b"absent":
            return UNREADABLE
        value = self._decode(reply.value, reply.flags, type)
        self._stats.stale += value is not UNREADABLE
        return value

    def _after_failure(self, server: Transport, name: bytes, reply: Exception, spec: LoadSpec) -> Any:
        """Return what came of a load that failed: what this process has of it, else what its own function gives.

        That is the value if it was too long to be stored, or the exception of this process; another process's failure
        is believed only beyond so many tries of one's own, and one that concerned its caller alone not at all.
        """
        if is_private(reply):
            return self.fetch_again(server, name, spec, 0, alone=True)
        kept = self._state.unstored.find(name, str(reply), time.monotonic())
        value = UNREADABLE if kept is None else self._decode(*kept, spec.type)
        if value is not UNREADABLE:
            return value
        failure = translate(reply, name, self._keyspace.prefix)
        try:
            if failure.__class__ is not LoadError or is_lost(failure):
                raise failure
            failed = None
            if f"{as_text(name)}: {TOO_LARGE}" not in str(reply):
                failed = self._failures.elsewhere(name, failure)
            return self._load_locally(name, spec, failed)
        finally:
            # A traceback holds this frame, which must not hold what the traceback belongs to.
            failure = failed = None  # type: ignore[assignment]

    def _load_locally(
        self, name: bytes, spec: LoadSpec, failure: LoadError | None = None, *, joins: bool = False
    ) -> Any:
        """Load without a lease: one thread of this process for a key, and so many at a time. Nothing is stored.

        `failure` is that of another process. `joins`: there is no server, so a load that runs already is as good as a
        new one.
        """
        if spec.defers:
            return DeferredLoad(failure)
        self._keyspace.tag_names(spec.policy.tags)  # what is wrong with them is told now as well
        failures = {} if failure is None else {name: failure}
        return value_or_raise(
            self.local.load_shared([name], _local_load_of(spec), spec.wait, failures, joins=joins), name
        )

    def check_recursion(self, names: Iterable[bytes]) -> None:
        """Raise LoadError if one of these keys is asked for by its own load, which would wait for itself."""
        around, store_of = keys_in_loads(), self._state.servers.store_of
        for name in names:
            if any(name in load and stored(name) == store_of(name) for load, stored in around):
                key, chained = self._keyspace.key_of(name), chain(*[load for load, _ in around])
                raise LoadError(f"{key}: its load asks for itself: {_chain_text(chained, name)}", key=key)


def _local_load_of(spec: LoadSpec) -> LocalLoad:
    return LocalLoad(lambda _: spec.load(), lambda _, value: (value,), spec.type, spec.guard)


def _chain_text(keys: Iterable[bytes], name: bytes) -> str:
    return " -> ".join(map(as_text, (*keys, name)))
