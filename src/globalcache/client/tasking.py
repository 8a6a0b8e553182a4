"""What a cache does beside answering its caller, for tasks; work.py has it for threads, who need no asyncio."""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from globalcache.client.work import Failed, Lease, loading, renewals
from globalcache.errors import CacheError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

_log = logging.getLogger("globalcache")
_RENEW_EVERY = 1.0


class AsyncWork:
    """The form for tasks. Flights and limits are those of one event loop."""

    def __init__(self, local_loads: int) -> None:
        self._local_loads = local_loads
        self._flights: dict[tuple[int, bytes], asyncio.Future[Any]] = {}
        self._rooms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
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

    @contextmanager
    def renewing(self, leases: Sequence[Lease]) -> Iterator[None]:
        """Keep leases while the load runs."""
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []

        def renew() -> None:
            for server, commands in renewals(leases):
                self.background(server.call_many, commands)
            timers[:] = [loop.call_later(_RENEW_EVERY, renew)]

        timers.append(loop.call_later(_RENEW_EVERY, renew))
        try:
            yield
        finally:
            timers[0].cancel()

    def background(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something as a task of its own."""
        task = asyncio.get_running_loop().create_task(_quietly_async(work, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def alone(self, key: bytes, load: Callable[[], Awaitable[Any]], wait: float) -> Any:
        """Run a load unless another task of this loop runs it already; then return what that one gets.

        The load is a task of its own, so that whoever is cancelled takes nothing from the others.
        """
        loop = asyncio.get_running_loop()
        place = id(loop), key
        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = loop.create_task(self._limited(loop, load))
            flight.add_done_callback(lambda done: self._landed(place, done))
        try:
            async with asyncio.timeout(wait):
                return await asyncio.shield(flight)
        except TimeoutError as error:
            if flight.done() or isinstance(error, CacheError):
                raise
            raise DeadlineError(f"{key.decode(errors='replace')}: its load took longer than {wait:g} s") from None
        finally:
            # A traceback holds this frame, which must not hold the exception.
            del flight

    def _landed(self, place: tuple[int, bytes], flight: asyncio.Future[Any]) -> None:
        if self._flights.get(place) is flight:
            del self._flights[place]
        if not flight.cancelled():
            flight.exception()  # seen: all who waited may be gone

    async def _limited(self, loop: asyncio.AbstractEventLoop, load: Callable[[], Awaitable[Any]]) -> Any:
        if loading.get():
            return await load()
        room = self._rooms.get(loop)
        if room is None:
            room = self._rooms[loop] = asyncio.Semaphore(self._local_loads)
        async with room:
            return await load()

    def detach(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join the flights of these keys any more; None: of any key."""
        if self._flights:
            gone = None if keys is None else set(keys)
            for place in list(self._flights):
                if gone is None or place[1] in gone:
                    self._flights.pop(place, None)


async def _quietly_async(work: Callable[..., Awaitable[Any]], *args: Any) -> None:
    try:
        await work(*args)
    except Exception as error:  # noqa: BLE001 - nobody waits for it
        _log.warning("globalcache: in the background: %s: %s", type(error).__name__, error)
