"""What a cache does beside answering its caller, for tasks; work.py has it for threads, who need no asyncio."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.raised import Raised
from globalcache.client.work import MOST_QUEUED, Failed, Names, is_in_load, loading, named
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from globalcache.client.leases import Lease

_log = logging.getLogger("globalcache")
# Refreshes of one loop that run at a time.
_REFRESHES = 32


class _Outcome:
    """What came of a load: `result`, or `raised`; `is_private` if that is for the caller whose load it was alone."""

    __slots__ = ("begun", "is_private", "raised", "result")

    def __init__(
        self, begun: float, result: Any = None, raised: Raised | None = None, *, is_private: bool = False
    ) -> None:
        self.begun = begun
        self.result = result
        self.raised = raised
        self.is_private = is_private


class AsyncWork:
    """The form for tasks. Flights and limits are those of one event loop."""

    def __init__(self, local_loads: int) -> None:
        self._local_loads = local_loads
        # By the loops themselves: the number of one that was collected may be another's. See `_forget_closed`.
        self._flights: dict[tuple[asyncio.AbstractEventLoop, Names], asyncio.Task[_Outcome]] = {}
        self._rooms: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._refreshing: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
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
        room = self._room(self._refreshing, loop, _REFRESHES)
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

    def _room(
        self,
        rooms: dict[asyncio.AbstractEventLoop, asyncio.Semaphore],
        loop: asyncio.AbstractEventLoop,
        most: int,
    ) -> asyncio.Semaphore:
        room = rooms.get(loop)
        if room is None:
            self._forget_closed()
            room = rooms[loop] = asyncio.Semaphore(most)
        return room

    def _forget_closed(self) -> None:
        """Forget the loops that were closed: what they had not finished never ends, and must not count any more."""
        for rooms in (self._rooms, self._refreshing):
            for loop in [loop for loop in list(rooms) if loop.is_closed()]:
                rooms.pop(loop, None)
        for place in [place for place in list(self._flights) if place[0].is_closed()]:
            self._flights.pop(place, None)
        self._tasks.difference_update([task for task in list(self._tasks) if task.get_loop().is_closed()])

    async def alone(
        self,
        key: Names,
        load: Callable[[], Awaitable[Any]],
        wait: float,
        private: tuple[type[BaseException], ...] = (),
        *,
        joins: bool,
    ) -> Any:
        """Run a load unless another task of this loop runs it already; then return what that gets, if it `joins` it.

        Else a load that had begun before is waited for, and nothing more: what it has read may be older than an
        invalidation that another process was told of before this call. All who came meanwhile share the next one.

        The load is a task of its own, so that a caller that is cancelled takes nothing from the others. An exception
        among `private` is given to the caller whose load raised it; all who waited then load for themselves at once,
        each for what is left of `wait` seconds.
        """
        loop = asyncio.get_running_loop()
        place, arrived = (loop, key), time.monotonic()
        outcome = None
        try:
            async with asyncio.timeout(wait):
                while outcome is None:
                    flight = self._flights.get(place)
                    # One that has ended stands there until the next turn of the loop.
                    mine = flight is None or flight.done()
                    if flight is None or flight.done():
                        flight = loop.create_task(self._outcome(loop, load, private))
                        flight.add_done_callback(functools.partial(self._landed, place))
                        self._flights[place] = flight
                    outcome = await asyncio.shield(flight)
                    if not mine and outcome.is_private:
                        # Nobody joins this one, so it ends with its caller.
                        flight = loop.create_task(self._outcome(loop, load, private))
                        outcome = await flight
                    elif not mine and not joins and outcome.begun <= arrived:
                        outcome = None
        except TimeoutError:
            raise DeadlineError(f"{named(key)}: its load took longer than {wait:g} s") from None
        try:
            if outcome.raised is not None:
                outcome.raised.again()
            return outcome.result
        finally:
            # A traceback holds this frame, which must not hold the exception.
            del outcome, flight

    async def _outcome(
        self,
        loop: asyncio.AbstractEventLoop,
        load: Callable[[], Awaitable[Any]],
        private: tuple[type[BaseException], ...],
    ) -> _Outcome:
        begun = time.monotonic()
        try:
            return _Outcome(begun, await self._limited(loop, load))
        except Exception as error:  # noqa: BLE001 - raised in all who wait
            return _Outcome(begun, raised=Raised(error), is_private=isinstance(error, private))

    def _landed(self, place: tuple[asyncio.AbstractEventLoop, Names], flight: asyncio.Task[_Outcome]) -> None:
        if self._flights.get(place) is flight:
            # Another thread may detach it between the two; a flight of this loop alone would take its place.
            self._flights.pop(place, None)
        if not flight.cancelled():
            flight.exception()  # seen: all who waited may be gone

    async def limited(self, load: Callable[[], Awaitable[Any]], wait: float) -> Any:
        """Run a load as soon as there is room for it. Raises DeadlineError if there was none within `wait` seconds."""
        if is_in_load():
            return await load()
        room = self._room(self._rooms, asyncio.get_running_loop(), self._local_loads)
        try:
            async with asyncio.timeout(wait):
                await room.acquire()
        except TimeoutError:
            raise DeadlineError(f"{self._local_loads} loads run already") from None
        try:
            return await load()
        finally:
            room.release()

    async def _limited(self, loop: asyncio.AbstractEventLoop, load: Callable[[], Awaitable[Any]]) -> Any:
        if is_in_load():
            return await load()
        async with self._room(self._rooms, loop, self._local_loads):
            return await load()

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

    def detach(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join the flights of these keys any more; None: of any key."""
        if self._flights:
            gone = None if keys is None else set(keys)
            for place in list(self._flights):
                if gone is None or place[1] in gone:
                    self._flights.pop(place, None)


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
