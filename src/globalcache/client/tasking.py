"""What a cache does beside answering its caller, for tasks; work.py has it for threads, who need no asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.flights import Flight, Flights, Place, aboard, is_in_load, loading, outer_flights, place_of
from globalcache.client.holder import Holder
from globalcache.client.raised import Raised
from globalcache.client.work import MOST_QUEUED, Failed
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from globalcache.client.guard import Guard
    from globalcache.client.leases import Lease
    from globalcache.client.work import Run

_log = logging.getLogger("globalcache")
# Refreshes of one loop that run at a time.
_REFRESHES = 32
# Seconds after which a task looks again whether what it waits for has come, though nobody has woken it.
_LOOK_AGAIN = 1.0


class _OfLoop:
    """The room for refreshes of one loop, and its tasks that lead flights: loops refer to their tasks weakly."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(_REFRESHES)
        self.leaders: set[asyncio.Task[Any]] = set()


class AsyncWork:
    """The form for tasks; refreshes and their limit are those of one event loop."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights
        # By the loops themselves: the number of one that was collected may be another's. See `_forget_closed`.
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def call(self, load: Callable[[], Any]) -> Any:
        """Run a load: a function, or one that gives an awaitable."""
        return await self.settle(load())

    def is_own(self, error: BaseException) -> bool:
        """Return whether a load raised this by itself, rather than that its caller was cancelled or interrupted."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            return task is not None and not task.cancelling()
        return isinstance(error, SystemExit)

    async def settle(self, value: Any) -> Any:
        """Return what a load gave, or gives when it is awaited."""
        return await value if inspect.isawaitable(value) else value

    async def each(self, work: Callable[[str], Awaitable[Any]], keys: Iterable[str]) -> list[Any]:
        """Return what came of each key, or Failed; all at once."""

        async def run(key: str) -> Any:
            try:
                return await work(key)
            except Exception as error:  # noqa: BLE001 - kept until all are done
                return Failed(error)

        return await asyncio.gather(*map(run, keys))

    def refresh(self, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Awaitable[Any]]) -> bool:
        """Run something as a task of its own; tells whether it will be run.

        `work` is given those leases whose load begins within 10 s; all are released when it ends.
        """
        loop = asyncio.get_running_loop()
        room = self._of(loop).room
        if len(self._tasks) >= MOST_QUEUED:
            return False
        for lease in leases:
            lease.queue()
        task = loop.create_task(_refresh(room, leases, work))
        self._tasks.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            # A task that was cancelled before it began has run no line of its own.
            for lease in leases:
                lease.release()

        task.add_done_callback(ended)
        return True

    def _of(self, loop: asyncio.AbstractEventLoop) -> _OfLoop:
        found = self._loops.get(loop)
        if found is None:
            self._forget_closed()
            found = self._loops[loop] = _OfLoop()
        return found

    def _forget_closed(self) -> None:
        """Forget the loops that were closed: what they had not finished never ends, and must not count any more."""
        for loop in [loop for loop in list(self._loops) if loop.is_closed()]:
            self._loops.pop(loop, None)
        self._flights.forget_lost()
        self._tasks.difference_update([task for task in list(self._tasks) if task.get_loop().is_closed()])

    async def alone(
        self, names: Iterable[bytes], guard: Guard, run: Run, end: float
    ) -> tuple[Flight, dict[bytes, Flight]]:
        """Load those of these keys that nobody loads in this process, and then wait for who loads the others.

        Returns the flight of the caller, and those of the other keys, which are over or have lasted until `end`. What
        the load raises is in its flight; then nothing is waited for. Raises DeadlineError if it has no room in time.

        The load is a task of its own, so that a caller that is cancelled takes nothing from the others.
        """
        loop = asyncio.get_running_loop()
        flight = Flight(names, guard, lambda: None if loop.is_closed() else loop, loop)
        others: dict[bytes, Flight] = {}
        try:
            others = self._flights.claim(flight)
            if flight.names:
                others |= await self._led(loop, flight, run, end)
            if flight.raised is None:
                for other in set(others.values()):
                    await self._wait(loop, other, end)
        finally:
            if flight.task is None:
                # Interrupted before there was a task that ends it.
                self._flights.end(flight)
            self._flights.leave(others.values())
        return flight, others

    async def _led(self, loop: asyncio.AbstractEventLoop, flight: Flight, run: Run, end: float) -> dict[bytes, Flight]:
        leaders = self._of(loop).leaders
        task = flight.task = loop.create_task(self._lead(flight, run))
        # One that is cancelled before it begins runs no line of its own.
        task.add_done_callback(functools.partial(self._landed, flight, leaders))
        leaders.add(task)
        await asyncio.wait([task], timeout=max(0.0, end - time.monotonic()))
        if not flight.has_begun and not task.done():
            raise DeadlineError(f"{self._flights.rooms.most} loads run already")
        return await asyncio.shield(task)

    async def _lead(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        try:
            return await self._limited(lambda: self._fly(flight, run))  # type: ignore[no-any-return]
        finally:
            self._flights.end(flight)

    async def _fly(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        others = self._flights.begin(flight)
        aboard.set((*outer_flights(), flight))  # of this task
        try:
            if flight.names:
                await run(flight.names, flight.outcomes)
        except BaseException as error:
            if not isinstance(error, Exception) and not self.is_own(error):
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
        """Run a load as soon as there is room for it. Raises DeadlineError if there was none within `wait` seconds."""
        return await self._limited(load, time.monotonic() + wait)

    async def _limited(self, load: Callable[[], Awaitable[Any]], end: float = math.inf) -> Any:
        # A load inside a load has its room already.
        if is_in_load():
            return await load()
        room = Holder()
        place = place_of(room, self._flights.rooms, asyncio.get_running_loop())
        try:
            await self._enter(place, end)
            return await load()
        finally:
            del room
            self._flights.rooms.leave(place)

    async def _enter(self, place: Place, end: float) -> None:
        """Wait for room."""
        rooms, bell = self._flights.rooms, asyncio.Event()
        wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, bell.set)
        while not rooms.enter(place, wake):
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{rooms.most} loads run already")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN)):
                    await bell.wait()
            bell.clear()

    async def deliver(
        self, send: Callable[[Any], Awaitable[Any]], parts: Sequence[Any], missed: Callable[[Any], object]
    ) -> list[Any]:
        """Return what `send` gave for each part; all at once, so that they are on their way if the caller is cancelled.

        `missed` is called then with those that had not begun.
        """
        waiting = dict(enumerate(parts))
        try:
            return await asyncio.gather(*(_begin(number, waiting, send) for number in range(len(parts))))
        except BaseException:
            for part in waiting.values():
                missed(part)
            raise


async def _refresh(
    room: asyncio.Semaphore, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Awaitable[Any]]
) -> None:
    # It may outlast the load that asked for it, and nobody waits for it.
    loading.set(())
    try:
        async with room:
            begun = [lease for lease in leases if lease.start()]
            if begun:
                await work(begun)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - nobody waits for it, and SystemExit would end the loop
        _log.warning("globalcache: in the background: %s: %s", type(error).__name__, error)


async def _begin(number: int, waiting: dict[int, Any], send: Callable[[Any], Awaitable[Any]]) -> Any:
    return await send(waiting.pop(number))
