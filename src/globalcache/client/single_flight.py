"""Loads without a lease, one at a time for a key and process, for threads; single_flight_tasks.py is for tasks."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.flights import LOOK_AGAIN, Flight, Flights, aboard, is_in_load, outer_flights
from globalcache.client.holder import Holder
from globalcache.client.load_slots import LoadSlot, slot_of
from globalcache.client.raised import Raised
from globalcache.client.runner import Runner
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from globalcache.client.guard import Guard

    # Loads some keys, and puts what came of each where it is told; what it raises is for those that are missing there.
    Run: TypeAlias = Callable[[Iterable[bytes], dict[bytes, Any]], Any]


class SingleFlight:
    """The flights of a cache as its threads lead and join them."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights

    def do(self, names: Iterable[bytes], guard: Guard, run: Run, end: float) -> tuple[Flight, dict[bytes, Flight]]:
        """Load those of these keys that nobody loads in this process, and then wait for who loads the others.

        Returns the flight of the caller, and those of the other keys, which are over or have lasted until `end`. What
        the load raises is in its flight; then nothing is waited for. Raises DeadlineError if it has no slot in time.
        """
        leader = Holder()
        others: dict[bytes, Flight] = {}
        try:
            flight = Flight(names, guard, leader, weakref.ref(leader))
            others = self._flights.claim(flight)
            if flight.names:
                others |= self._lead(flight, run, end)
            if flight.raised is None:
                for other in set(others.values()):
                    other.wait(end)
            found = flight, others
        finally:
            # First, for it calls nothing, so nothing can interrupt it: however this ends, the flight is over.
            del leader
            self._flights.leave(others.values())
        return found

    def _lead(self, flight: Flight, run: Run, end: float) -> dict[bytes, Flight]:
        try:
            return self._limited(lambda: self._fly(flight, run), end)  # type: ignore[no-any-return]
        finally:
            self._flights.end(flight)

    def _fly(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        others = self._flights.begin(flight)
        before = aboard.set((*outer_flights(), flight))
        try:
            if flight.names:
                run(flight.names, flight.outcomes)
        except BaseException as error:
            if not isinstance(error, Exception) and not Runner.is_own(error):
                raise
            flight.raised = Raised(error)
        finally:
            aboard.reset(before)
            # The traceback holds this frame, which must not hold the exception.
            del flight
        return others

    def limited(self, load: Callable[[], Any], wait: float) -> Any:
        """Run a load as soon as a slot is free. Raises DeadlineError if there was none within `wait` seconds."""
        return self._limited(load, time.monotonic() + wait)

    def _limited(self, load: Callable[[], Any], end: float) -> Any:
        # A load inside a load has its slot already.
        if is_in_load():
            return load()
        holder = Holder()
        slot = slot_of(holder, self._flights.slots)
        try:
            self._enter(slot, end)
            result = load()
        finally:
            # First, for it calls nothing, so nothing can interrupt it.
            del holder
            self._flights.slots.leave(slot)
        return result

    def _enter(self, slot: LoadSlot, end: float) -> None:
        """Wait for a slot."""
        slots, bell = self._flights.slots, threading.Lock()
        bell.acquire()
        while not slots.enter(slot, bell.release):
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{slots.most} loads run already")
            bell.acquire(timeout=min(left, LOOK_AGAIN))
