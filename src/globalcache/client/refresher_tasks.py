"""Refreshes in the background, for tasks; refresher.py has them for threads, who need no asyncio."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from globalcache.client.flights import loading
from globalcache.client.refresher import MOST_QUEUED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from globalcache.client.leases import Lease

_log = logging.getLogger("globalcache")
# Refreshes of one loop that run at a time.
_REFRESHES = 32


class AsyncRefresher:
    """Tasks that refresh; their limit is that of one event loop."""

    def __init__(self) -> None:
        # By the loops themselves: the number of one that was collected may be another's. See `_forget_closed`.
        self._semaphores: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def refresh(self, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Awaitable[Any]]) -> bool:
        """Run something as a task of its own; False if too many wait already.

        `work` is given those leases whose load begins within 10 s; all are released when it ends.
        """
        loop = asyncio.get_running_loop()
        semaphore = self._semaphore_of(loop)
        if len(self._tasks) >= MOST_QUEUED:
            return False
        for lease in leases:
            lease.queue()
        task = loop.create_task(_refresh(semaphore, leases, work))
        self._tasks.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            # A task that was cancelled before it began has run no line of its own.
            for lease in leases:
                lease.release()

        task.add_done_callback(ended)
        return True

    def _semaphore_of(self, loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
        found = self._semaphores.get(loop)
        if found is None:
            self._forget_closed()
            found = self._semaphores[loop] = asyncio.Semaphore(_REFRESHES)
        return found

    def _forget_closed(self) -> None:
        """Forget the loops that were closed: what they had not finished never ends, and must not count any more."""
        for loop in [loop for loop in list(self._semaphores) if loop.is_closed()]:
            self._semaphores.pop(loop, None)
        self._tasks.difference_update([task for task in list(self._tasks) if task.get_loop().is_closed()])


async def _refresh(
    semaphore: asyncio.Semaphore, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Awaitable[Any]]
) -> None:
    # It may outlast the load that asked for it, and nobody waits for it.
    loading.set(())
    try:
        async with semaphore:
            begun = [lease for lease in leases if lease.start()]
            if begun:
                await work(begun)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - nobody waits for it, and SystemExit would end the loop
        _log.warning("globalcache: in the background: %s: %s", type(error).__name__, error)
