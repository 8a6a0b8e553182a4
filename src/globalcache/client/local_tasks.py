"""memory:// for tasks: a transport that carries bytes to the engine of local.py, and the server behind it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from globalcache.client.local import LOOK_AGAIN, LocalServer
from globalcache.client.multiplexed import MultiplexedTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from globalcache.client.endpoint import Endpoint
    from globalcache.client.wire import Reply


class LocalTransport(asyncio.Transport):
    """A connection for the tasks of one loop, used as a transport is."""

    def __init__(self, server: LocalServer, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._server = server
        self._loop = loop
        self._protocol = protocol
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._place = server.connect(self._wake)
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        """Send all of it; what it is answered arrives in a later turn of the loop."""
        self._exchange(data, lambda arrived: self._loop.call_soon(self._deliver, arrived))

    def _look(self) -> None:
        self._timer = None
        self._exchange(b"", self._deliver)

    def _exchange(self, data: bytes, deliver: Callable[[bytes], object]) -> None:
        if self._closed:
            return
        try:
            arrived, waits = self._server.ask(self._place, bytes(data))
        except ConnectionResetError as error:
            self._loop.call_soon(self._protocol.connection_lost, error)
            return
        if arrived:
            deliver(arrived)
        if waits and self._timer is None:
            self._timer = self._loop.call_later(LOOK_AGAIN, self._look)

    def _deliver(self, arrived: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(arrived)

    def _wake(self) -> None:
        # A loop that has ended hears of nothing.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._exchange, b"", self._deliver)

    def abort(self) -> None:
        """Close it at once."""
        if not self._closed:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._server.close(self._place)


class LocalMultiplexedTransport(MultiplexedTransport):
    """The engine for tasks: a fresh value is read at once, everything else as from a server."""

    def __init__(self, endpoint: Endpoint, local: LocalServer) -> None:
        super().__init__(endpoint)
        self._fresh = local.fresh

    async def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        if len(self._pending):
            # Nothing is read before what is pending was invalidated.
            return await super().fetch(key, wait, lease_ms)
        return self._fresh(key) or await super().fetch(key, wait, lease_ms)
