"""Leases for tasks: a timer of the event loop renews and releases them; leases.py says what a lease is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.leases import RENEW_EVERY, Grant, Lease, Leases, log
from globalcache.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from globalcache.client.wire import Words


class LoopLeases(Leases):
    """The open leases of one server and event loop.

    `send_now` sends commands whose replies nobody needs, and tells whether there is a connection to do so.
    """

    def __init__(self, server: Any, send_now: Callable[[list[Words]], bool]) -> None:
        super().__init__(server)
        self.loop = asyncio.get_running_loop()
        self._send_now = send_now
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def grant_to(self, future: asyncio.Future[Any], name: bytes, reply: Any) -> None:
        """Give a reply to the task that awaits `future`, and take its lease back if that was cancelled meanwhile."""
        future.set_result(self.own(name, reply))
        # The task is woken in this order as well, so it has had its chance.
        self.loop.call_soon(self._reclaim, future)

    @staticmethod
    def _reclaim(future: asyncio.Future[Any]) -> None:
        lease: Lease = future.result().lease
        if not lease.taken:
            lease.release()

    def release(self, grant: Grant) -> None:
        """Send RELEASE in this turn of the loop, if it is the loop that asks."""
        self.mark(grant)
        try:
            is_here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            is_here = False
        if is_here:
            # Without a connection there is nothing to release: the server passes on what a closed one held.
            self._send_now([(b"CACHE.RELEASE", *grant.words)])
            self.released([grant])
        else:
            self._wake()

    def renew_now(self) -> None:
        """Renew everything over the next connection, since one was lost."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            if self.hasten():
                self.loop.call_soon(self._tend)

    def _watch(self) -> None:
        # A new grant is the last one to be renewed, so a timer that is set is early enough.
        if self._timer is None:
            self._timer = self.loop.call_later(RENEW_EVERY, self._tend)

    def _wake(self) -> None:
        # In a finalizer, so perhaps in another thread, or when the loop has ended: then its connection has as well.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._tend)

    def _tend(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        commands, releases = self.due(time.monotonic())
        # Without a connection there is nothing to release: the server passes on what a closed one held.
        self.released(releases)
        renewals = commands[len(releases) :]
        if commands and not self._send_now(commands) and renewals:
            self._later(renewals)
        pause = self.pause(time.monotonic())
        if pause is not None:
            self._timer = self.loop.call_later(pause, self._tend)

    def _later(self, commands: list[Words]) -> None:
        """Send over a new connection."""
        task = self.loop.create_task(_quietly(self.server.call_many, commands))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _quietly(send: Callable[..., Awaitable[Any]], commands: list[Words]) -> None:
    try:
        await send(commands)
    except CacheError as error:
        log.debug("globalcache: leases could not be renewed: %s", error)
    except Exception:  # noqa: BLE001 - nobody awaits it
        log.warning("globalcache: leases could not be renewed", exc_info=True)
