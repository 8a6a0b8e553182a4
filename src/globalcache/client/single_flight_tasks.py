"""Loads without a lease, one at a time for a key and process, for tasks; threads need no asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.flights import Flight, Flights, aboard, is_in_load, outer_flights
from globalcache.client.holder import Holder
from globalcache.client.load_slots import LoadSlot, slot_of
from globalcache.client.raised import Raised
from globalcache.client.runner_tasks import AsyncRunner
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from globalcache.client.guard import Guard
    from globalcache.client.single_flight import Run

# Seconds after which a task looks again whether what it waits for has come, though nobody has woken it.
_LOOK_AGAIN = 1.0


class AsyncSingleFlight:
    """The flights of a cache as its tasks lead and join them."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights
        # The tasks that lead flights, since loops refer to their tasks weakly. By the loops themselves: the number of
        # one that was collected may be another's.
        self._leaders: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}

    def _leaders_of(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        found = self._leaders.get(loop)
        if found is None:
            self._forget_closed()
            found = self._leaders[loop] = set()
        return found

    def _forget_closed(self) -> None:
        """Forget the loops that were closed: the loads that they had not finished never end."""
        for loop in [loop for loop in list(self._leaders) if loop.is_closed()]:
            self._leaders.pop(loop, None)
        self._flights.forget_lost()

    async def do(
        self, names: Iterable[bytes], guard: Guard, run: Run, end: float
    ) -> tuple[Flight, dict[bytes, Flight]]:
        """Load those of these keys that nobody loads in this process, and then wait for who loads the others.

        Returns the flight of the caller, and those of the other keys, which are over or have lasted until `end`. What
        the load raises is in its flight; then nothing is waited for. Raises DeadlineError if it has no slot in time.

        The load is a task of its own, so that a caller that is cancelled takes nothing from the others. It waits for a
        slot as long as any of them waits for it.
        """
        loop = asyncio.get_running_loop()
        caller = Holder()
        flight = Flight(names, guard, caller, lambda: None if loop.is_closed() else loop, loop)
        others: dict[bytes, Flight] = {}
        try:
            others = self._flights.claim(flight)
            if flight.names:
                others |= await self._led(loop, flight, run, end)
            if flight.raised is None:
                for other in set(others.values()):
                    await self._wait(loop, other, end)
        finally:
            del caller
            if flight.task is None:
                # Interrupted before there was a task that ends it.
                self._flights.end(flight)
            elif not flight.has_begun and not flight.callers:
                # Interrupted while that stood in line, perhaps before it ended the flight when it is cancelled.
                self._flights.end(flight)
                flight.task.cancel()
            self._flights.leave(others.values())
        return flight, others

    async def _led(self, loop: asyncio.AbstractEventLoop, flight: Flight, run: Run, end: float) -> dict[bytes, Flight]:
        leaders = self._leaders_of(loop)
        task = flight.task = loop.create_task(self._lead(flight, run))
        # One that is cancelled before it begins runs no line of its own.
        task.add_done_callback(functools.partial(self._landed, flight, leaders))
        leaders.add(task)
        await asyncio.wait([task], timeout=max(0.0, end - time.monotonic()))
        if not flight.has_begun and not task.done():
            raise DeadlineError(f"{self._flights.slots.most} loads run already")
        return await asyncio.shield(task)

    async def _lead(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        try:
            # `do` cancels it if its own caller goes last. It looks itself whether one who has joined was the last.
            end = lambda: math.inf if flight.callers else 0.0  # noqa: E731 - an argument
            return await self._limited(lambda: self._fly(flight, run), end)  # type: ignore[no-any-return]
        finally:
            self._flights.end(flight)

    async def _fly(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        others = self._flights.begin(flight)
        aboard.set((*outer_flights(), flight))  # of this task
        try:
            if flight.names:
                await run(flight.names, flight.outcomes)
        except BaseException as error:
            if not isinstance(error, Exception) and not AsyncRunner.is_own(error):
                raise
            flight.raised = Raised(error)
        finally:
            # The traceback holds this frame, which must not hold the exception.
            del flight
        return others

    def _landed(self, flight: Flight, leaders: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        leaders.discard(task)
        self._flights.end(flight)
        if not task.cancelled():
            task.exception()  # seen: all who waited may be gone

    @staticmethod
    async def _wait(loop: asyncio.AbstractEventLoop, flight: Flight, end: float) -> None:
        """Wait until a flight is over, or until `end`."""
        while True:
            future, left = flight.future(loop), end - time.monotonic()
            if flight.is_over or left <= 0:
                return
            # A thread that is lost wakes nobody.
            await asyncio.wait([future], timeout=left if flight.loop is loop else min(left, _LOOK_AGAIN))

    async def limited(self, load: Callable[[], Awaitable[Any]], wait: float) -> Any:
        """Run a load as soon as a slot is free. Raises DeadlineError if there was none within `wait` seconds."""
        end = time.monotonic() + wait
        return await self._limited(load, lambda: end)

    async def _limited(self, load: Callable[[], Awaitable[Any]], end: Callable[[], float]) -> Any:
        # A load inside a load has its slot already.
        if is_in_load():
            return await load()
        holder = Holder()
        slot = slot_of(holder, self._flights.slots, asyncio.get_running_loop())
        try:
            await self._enter(slot, end)
            return await load()
        finally:
            del holder
            self._flights.slots.leave(slot)

    async def _enter(self, slot: LoadSlot, end: Callable[[], float]) -> None:
        """Wait for a slot until `end`, which may change meanwhile."""
        slots, bell = self._flights.slots, asyncio.Event()
        wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, bell.set)
        while not slots.enter(slot, wake):
            left = end() - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{slots.most} loads run already")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN)):
                    await bell.wait()
            bell.clear()
