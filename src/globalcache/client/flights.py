"""Loads without a lease: one at a time for each key, and so many in all, for the threads and tasks of a process.

Whoever wants keys leads a flight of those that nobody loads, and joins the flights of the others. All keys of a batch
are one flight, loaded by one call. Its leader runs its own function first and waits for other flights only after that,
so two batches with keys in common never wait for each other:

    A: a, b  -> leads {a, b}
    B: b, c  -> leads {c}, has loaded it, then waits for the flight of A and takes b

A load that asks for keys itself holds up whoever waits for its flight. It does not wait for a flight that waits for it
in turn, nor for one that has no slot yet, as the slot may be its own: it leads another flight of such a key.

Knows neither caches nor what is loaded; single_flight.py and single_flight_tasks.py wait here, each in its way.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from globalcache.client.fork import when_forked
from globalcache.client.holder import Holder
from globalcache.client.load_slots import LoadSlots, is_in_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from globalcache.client.guard import Guard
    from globalcache.client.raised import Raised

    LoadKeys: TypeAlias = tuple[dict[bytes, None], Callable[[bytes], object]]

# Seconds after which a thread looks again whether what it waits for has come, though nobody has woken it.
LOOK_AGAIN = 0.04


class Running(Holder):
    """The keys of a load and where each of them is stored, held by the frame that runs it."""

    __slots__ = ("keys",)

    def __init__(self, names: Iterable[bytes], store_of: Callable[[bytes], object]) -> None:
        # In their order; a batch may load thousands, and each call within it asks for one of them.
        self.keys: LoadKeys = dict.fromkeys(names), store_of


# The loads within which this code runs, outermost first: a load that asks for a key of theirs would wait for itself.
# A task or thread that a load began may outlive it, and an exception from outside may end it before it is taken out.
loading: contextvars.ContextVar[tuple[weakref.ref[Running], ...]] = contextvars.ContextVar(
    "globalcache_loading", default=()
)


def loads_around() -> tuple[weakref.ref[Running], ...]:
    """Return the loads within which the caller runs, of those that have not ended."""
    running = loading.get()
    return tuple([load for load in running if load() is not None]) if running else running


def keys_in_loads() -> list[LoadKeys]:
    """Return the keys of each of these loads, with what tells where one of them is stored."""
    # No variable has the load itself: a traceback would keep it.
    return [keys for load in loading.get() if (keys := getattr(load(), "keys", None))]


def is_in_load() -> bool:
    """Return whether the caller runs within a load that has not ended."""
    return bool(loads_around())


class Flight:
    """One load of some keys, which others of the process may wait for. It is over when it was ended, or is lost.

    Then `outcomes` has what came of each key, and `raised` is for all others of `names`. A key that is in neither has
    no outcome, because the leader was interrupted or had no slot in time: whoever waits looks again.
    """

    def __init__(
        self,
        names: Iterable[bytes],
        guard: Guard,
        caller: Holder,
        leader: Callable[[], object | None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.names = dict.fromkeys(names)
        # Whose function it runs.
        self.guard = guard
        # When it had a slot; never yet.
        self.begun = float("inf")
        self.outcomes: dict[bytes, Any] = {}
        self.raised: Raised | None = None
        # Those who want it, each as long as it waits: a load that nobody wants any more needs no slot.
        self.callers = weakref.WeakSet([caller])
        # The loop of its leader, if that is a task, and the task.
        self.loop = loop
        self.task: asyncio.Task[Any] | None = None
        # The flights that its load waits for.
        self.waits_for: set[Flight] = set()
        self._leader = leader
        self._has_ended = False
        # Locked until the end. Not an Event: an exception from outside could leave that locked for ever.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._futures: dict[asyncio.AbstractEventLoop, asyncio.Future[None]] = {}

    @property
    def has_begun(self) -> bool:
        """Whether it has a slot, so that its load runs or has run."""
        return self.begun != float("inf")

    @property
    def is_over(self) -> bool:
        """Whether nobody runs it any more."""
        return self._has_ended or self._leader() is None

    def outcome(self, name: bytes) -> Any:
        """Return what came of a key: what the load gave, a Raised, or None if there is neither."""
        return self.outcomes.get(name) or (self.raised if name in self.names else None)

    def end(self) -> None:
        """Wake all who wait."""
        self._has_ended = True
        with contextlib.suppress(RuntimeError):  # it has ended before
            self._bell.release()
        for loop, future in self._futures.copy().items():
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_set, future)

    def wait(self, end: float) -> None:
        """Wait until it is over, or until `end`."""
        while not self.is_over and (left := end - time.monotonic()) > 0:
            # A leader that is lost rings no bell, nor does a waiter that is interrupted here.
            if self._bell.acquire(timeout=min(left, LOOK_AGAIN)):
                self._bell.release()

    def future(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return what tasks of a loop wait for. Whoever does looks at `is_over` after that, and now and then."""
        return self._futures.get(loop) or self._futures.setdefault(loop, loop.create_future())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# The flights within whose loads this code runs, outermost first. What was interrupted may have left some behind.
aboard: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("globalcache_aboard", default=())


def outer_flights() -> list[Flight]:
    """Return the flights within whose loads this code runs, outermost first."""
    return [flight for flight in aboard.get() if not flight.is_over]


class Flights:
    """The flights of one cache, and the slots for their loads."""

    def __init__(self, local_loads: int) -> None:
        self._local_loads = local_loads
        self.after_fork()
        when_forked(self)

    def after_fork(self) -> None:
        """Start anew: the threads of the parent are not here, and one of them may have held a lock."""
        self.slots = LoadSlots(self._local_loads)
        self._lock = threading.Lock()
        self._by_name: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len({id(flight) for flight in list(self._by_name.values())})

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def claim(self, flight: Flight) -> dict[bytes, Flight]:
        """Have a flight lead those of its keys that nobody loads; return the flights of the others, to be waited for.

        The caller drops them by `leave` when it waits no more.
        """
        outer = outer_flights()
        with self._lock:
            others = self._led_by_others(flight, outer)
            if is_in_load():
                flight.begun = time.monotonic()  # a load inside a load has its slot already
            for other in outer:
                other.waits_for.update(others.values())
        return others

    def begin(self, flight: Flight) -> dict[bytes, Flight]:
        """Note that a flight has a slot; return the flights of those keys that such loads have taken meanwhile."""
        if flight.has_begun:
            return {}
        with self._lock:
            others = self._led_by_others(flight, ())
            flight.begun = time.monotonic()
        return others

    def _led_by_others(self, flight: Flight, outer: Sequence[Flight]) -> dict[bytes, Flight]:
        others = {}
        for name in flight.names:
            other = self._by_name.get(name)
            if other is None or other is flight or not _may_wait_for(other, flight, outer):
                self._by_name[name] = flight
            else:
                others[name] = other
                other.callers.update(flight.callers)
        if others:
            flight.names = {name: None for name in flight.names if name not in others}
        return others

    def leave(self, others: Iterable[Flight]) -> None:
        """Note that the caller waits for these flights no more."""
        for flight in outer_flights():
            with self._lock:
                flight.waits_for.difference_update(others)

    def end(self, flight: Flight) -> None:
        """Let nobody join a flight any more, and wake all who have."""
        with self._lock:
            for name in flight.names:
                if self._by_name.get(name) is flight:
                    del self._by_name[name]
        flight.end()

    def forget_lost(self) -> None:
        """Let go of flights whose leader is gone, as in a loop that was closed."""
        with self._lock:
            for name in [name for name, flight in self._by_name.items() if flight.is_over]:
                del self._by_name[name]

    def forget(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join the flights of these keys any more; None: of any key."""
        if self._by_name:
            with self._lock:
                for key in list(self._by_name) if keys is None else keys:
                    self._by_name.pop(key, None)


def _may_wait_for(other: Flight, flight: Flight, outer: Sequence[Flight]) -> bool:
    """Tell whether a caller may wait for a flight; `outer` are those within whose loads it runs."""
    if other.is_over or (other.loop is not None and flight.loop is None and is_in_loop()):
        # A plain call within a loop would hold up the tasks that it waits for.
        return False
    return not outer or (other.has_begun and not _leads_to(other, outer))


def _leads_to(flight: Flight, wanted: Sequence[Flight]) -> bool:
    """Tell whether a flight is one of these, or waits for one of them, also by way of others."""
    seen, left = set[Flight](), [flight]
    while left:
        one = left.pop()
        if one in wanted:
            return True
        if one not in seen:
            seen.add(one)
            # A flight may be of another cache, whose lock this is not.
            left += [other for other in one.waits_for.copy() if not other.is_over]
    return False
