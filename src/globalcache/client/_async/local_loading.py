"""Loads without a lease: for a key whose server is away, or that others have failed to load. Nothing is stored.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import functools
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from globalcache.client.flights import Running, loading, loads_around
from globalcache.client.guard import Absent, Guard, qualified, text_of
from globalcache.client.loaded_value import LoadedValue
from globalcache.client.raised import Handled, Raised
from globalcache.client.values import UNREADABLE
from globalcache.errors import DeadlineError, LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client.cache_state import CacheState
    from globalcache.client.flights import Flight
    from globalcache.client.keyspace import Keyspace

_NO_FAILURES: Mapping[bytes, LoadError] = {}
# Stands for what came of a key whose load failed for its caller alone.
_PRIVATE: Any = object()


class LocalLoad(NamedTuple):
    """A load without a lease: `run` loads keys, and `rows` gives what came of each of them in their order."""

    run: Callable[[list[str]], Any]
    rows: Callable[[list[str], Any], Sequence[Any]]
    type: Any
    guard: Guard


class AsyncLocalLoading:
    """Runs loads, those of leases too; without a lease one at a time for a key, and so many in all."""

    def __init__(self, state: CacheState, keyspace: Keyspace[AsyncTransport]) -> None:
        self._keyspace = keyspace
        self._store_of = state.servers.store_of
        self._values = state.values
        self._decode = state.values.decode
        self._stats = state.stats
        self._failures = state.failures
        self._runner = state.async_runner
        self._single_flight = state.async_single_flight

    async def run(self, names: tuple[bytes, ...], load: Callable[[], Any]) -> Any:
        """Run a load of these keys, which may not ask for them itself."""
        running, around = Running(names, self._store_of), loads_around()
        try:
            loading.set((*around, weakref.ref(running)))
            result = await self._runner.call(load)
        finally:
            # First what calls nothing, so that nothing can interrupt it: the load is over, whatever comes next.
            del running
            loading.set(around)
        return result

    async def load_shared(
        self,
        names: Sequence[bytes],
        load: LocalLoad,
        wait: float,
        failures: Mapping[bytes, LoadError] = _NO_FAILURES,
        *,
        joins: bool,
    ) -> dict[bytes, Any]:
        """Return what loads without a lease give for these keys: values of this caller's own, and Raised.

        What nobody loads is loaded in one call, and only then are the loads of others waited for. Raises what the own
        call raises.
        """
        arrived = time.monotonic()
        end, since = arrived + wait, 0.0 if joins else arrived
        found: dict[bytes, Any] = {}
        left: Sequence[bytes] = names
        while left:
            run = functools.partial(self._run_load, load, failures)
            mine, others = await self._single_flight.do(left, load.guard, run, end)
            try:
                if mine.raised is not None:
                    mine.raised.again()
                found |= {name: _value_of(mine.outcome(name)) for name in mine.names}
                came = {
                    name: self._outcome_of(name, flight, load, since)
                    if flight.is_over
                    else self._deadline_error(name, wait)
                    for name, flight in others.items()
                }
            finally:
                # A traceback holds this frame, which must not hold the exception.
                del mine, others
            left = [name for name, value in came.items() if value is UNREADABLE]
            alone = [name for name, value in came.items() if value is _PRIVATE]
            found |= {name: value for name, value in came.items() if value is not UNREADABLE}
            if alone:
                found |= await self.load_unshared(alone, load, end - time.monotonic())
        return found

    def _outcome_of(self, name: bytes, flight: Flight, load: LocalLoad, since: float) -> Any:
        """Return what a caller has of another one's load; _PRIVATE if that failed for the other alone.

        UNREADABLE if there is nothing: none has begun after `since`, it was interrupted, it gave a value of another
        type, or another function than that of the caller has failed.
        """
        outcome = flight.outcome(name) if flight.begun > since else None
        if outcome is None:
            return UNREADABLE
        if outcome.__class__ is not Raised:
            return self._copy_of(outcome, load.type)
        if flight.guard is not load.guard:
            return UNREADABLE
        if not isinstance(outcome.error, Exception):
            # It would end this caller as well, or look as if that had been cancelled.
            key, cause = self._keyspace.key_of(name), qualified(type(outcome.error))
            return Raised(LoadError(f"{key}: {cause}", key=key, cause_class=cause))
        return _PRIVATE if isinstance(outcome.error, load.guard.pass_through) else outcome

    def _deadline_error(self, name: bytes, wait: float) -> Raised:
        return Raised(DeadlineError(f"{self._keyspace.key_of(name)}: its load took longer than {wait:g} s"))

    async def load_unshared(self, names: Sequence[bytes], load: LocalLoad, wait: float) -> dict[bytes, Any]:
        """Load without a lease, whoever else does, as soon as there is room. Raises what the call raises."""
        outcomes: dict[bytes, Any] = {}
        await self._single_flight.limited(lambda: self._run_load(load, _NO_FAILURES, names, outcomes), wait)
        return {name: _value_of(outcome) for name, outcome in outcomes.items()}

    async def _run_load(
        self, load: LocalLoad, failures: Mapping[bytes, LoadError], names: Iterable[bytes], outcomes: dict[bytes, Any]
    ) -> None:
        """Load those of these keys that may be tried, in one call; what came of each is put into `outcomes`."""
        guard = load.guard
        outcomes |= self._failures.refused(names, guard, failures)
        tried = tuple(name for name in names if name not in outcomes)
        if not tried:
            return
        keys = list(map(self._keyspace.key_of, tried))
        self._failures.check(keys[0], guard)
        self._stats.local_loads += 1
        handled = Handled()
        ran = False
        try:
            rows = await self.run(tried, lambda: load.run(list(keys)))
            ran = True
            pairs = zip(tried, load.rows(keys, rows), strict=True)
            loaded_values = {name: self.encode(name, row, load.type, guard) for name, row in pairs}
        except Exception as error:
            self._failures.failed(tried, error, guard, handled, ran=ran)
            raise
        self._failures.succeeded(guard)
        outcomes |= loaded_values

    def encode(self, name: bytes, value: Any, type: Any, guard: Guard) -> LoadedValue:
        """Return what a load gave for a key. Raises TypeError, which names function and key, if it cannot be stored."""
        if value is None:
            return LoadedValue(b"", 0, None)
        if value.__class__ is Absent:
            return LoadedValue(value.name.encode(), 0, value)
        try:
            return LoadedValue(*self._values.encode(value, type), value)
        except TypeError as error:
            raise TypeError(f"{guard.name}: {self._keyspace.key_of(name)}: {error}") from error.__cause__
        except Exception as error:  # whatever a class raises that is pickled
            key = self._keyspace.key_of(name)
            raise TypeError(f"{guard.name}: {key}: value cannot be stored: {text_of(error)}") from error

    def _copy_of(self, loaded: LoadedValue, type: Any) -> Any:
        """Return what another caller's load gave as one's own, as a server would: callers may change what they get."""
        if loaded.value is None:
            return None
        if loaded.value.__class__ is Absent:
            return Absent(loaded.value.name)
        return self._decode(loaded.data, loaded.flags, type)

    async def load_keys(
        self,
        keys: list[str],
        load: LocalLoad,
        wait: float,
        failures: Mapping[bytes, LoadError] = _NO_FAILURES,
        *,
        joins: bool,
    ) -> dict[str, Any]:
        """Load without leases, in one call, what nobody loads in this process; nothing is stored."""
        names = list(map(self._keyspace.name, keys))
        found = await self.load_shared(names, load, wait, failures, joins=joins)
        return {key: found[name] for key, name in zip(keys, names, strict=True)}


def _value_of(outcome: LoadedValue | Raised) -> Any:
    return outcome if isinstance(outcome, Raised) else outcome.value


def value_or_raise(outcomes: Mapping[bytes, Any], name: bytes) -> Any:
    """Return the value of a key, or raise what its load raised."""
    value = outcomes[name]
    try:
        if value.__class__ is Raised:
            value.again()
        return value
    finally:
        # A traceback holds this frame, which must not hold the exception.
        del outcomes, value
