"""memory://, the engine of a server inside this process.

It is the engine of `globalcache serve`, so its leases, tags, limits and errors are the same. ConnectionPool uses it
through a socket that carries bytes to the engine instead of a network; local_tasks.py has that for tasks. Nothing
happens there between two calls: whoever waits calls again every 10 ms, so that leases and waits whose time is over end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.connection_pool import ConnectionPool
from globalcache.client.fork import ProcessLock
from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from globalcache.client.endpoint import Endpoint
    from globalcache.client.wire import Reply

# Bytes that a cache holds before it evicts, and of its longest value.
MEMORY, LONGEST_VALUE = 256 << 20, 16 << 20
# Seconds after which whoever waits looks whether the time of somebody's lease, or of its wait, is over.
LOOK_AGAIN = 0.01


class LocalServer:
    """An engine and its connections, safe for threads. `clock` returns seconds, and may be one that a test moves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            from globalcache._core import LocalServer as Engine  # noqa: PLC0415 - others need no native module
        except ImportError as error:
            raise ConfigError(
                "memory:// needs the native module of globalcache, which is not installed here"
            ) from error
        self.clock = clock
        self._engine = Engine(memory=MEMORY, max_value=LONGEST_VALUE, now=int(clock() * 1000))
        self._wake: dict[int, Callable[[], object]] = {}

    def connect(self, wake: Callable[[], object]) -> int:
        """Open a connection; `wake` is called, in any thread, when something arrives that it did not just ask for."""
        place = self._engine.connect()
        self._wake[place] = wake
        return place

    def ask(self, place: int, data: bytes) -> tuple[bytes, bool]:
        """Send bytes over a connection; returns what has arrived there, and whether an answer is to follow.

        Raises ConnectionResetError if the engine has closed it.
        """
        arrived, woken, waits = self._engine.ask(place, data, int(self.clock() * 1000))
        if woken:
            self._wake_all(woken, place)
        return arrived, waits

    def fresh(self, key: bytes) -> list[Any] | None:
        """Return what CACHE.FETCH answers if there is a value that nobody needs to load anew; else None."""
        found = self._engine.fresh(key, int(self.clock() * 1000))
        if found is None:
            return None
        value, version, ttl, flags = found
        return [b"hit", value, 0, version, ttl, flags]

    def close(self, place: int) -> None:
        """Close a connection: its leases pass on."""
        if self._wake.pop(place, None) is not None:
            self._wake_all(self._engine.close(place, int(self.clock() * 1000)), place)

    def after_fork(self) -> None:
        """Close all connections: they are the parent's. What is stored stays, and may be loaded anew at once.

        Nothing of the engine is half done: its steps hold the interpreter's lock, and so does a fork.
        """
        self._engine.after_fork(int(self.clock() * 1000))

    def _wake_all(self, places: list[int], asker: int) -> None:
        for place in places:
            if place != asker and (wake := self._wake.get(place)) is not None:
                wake()


class _Shared:
    """The engines of memory://NAME, which all caches of the process share."""

    def __init__(self) -> None:
        self._servers: dict[str, LocalServer] = {}
        self._lock = ProcessLock()

    def get(self, name: str) -> LocalServer:
        """Return the engine of that name."""
        with self._lock.own:
            if name not in self._servers:
                self._servers[name] = LocalServer()
            return self._servers[name]


_shared = _Shared()


def local_server(name: str) -> LocalServer:
    """Return the engine of that name; without a name a new one."""
    return _shared.get(name) if name else LocalServer()


class _Bell:
    """What rings when something arrives. Unlike an event it has no lock that an exception could leave locked."""

    def __init__(self) -> None:
        self.has_rung = False
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake whoever waits."""
        self.has_rung = True
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, seconds: float) -> None:
        """Wait until it rings, or for so long."""
        self._lock.acquire(timeout=seconds)


class LocalSocket:
    """A connection for one thread at a time, used as a socket is."""

    # Until it has one: an exception from outside may end its making.
    _place = -1

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._bell = _Bell()
        self._place = server.connect(self._bell.ring)
        self._arrived = b""
        self._timeout = 0.0

    def settimeout(self, seconds: float) -> None:
        """Let `recv` wait so long."""
        self._timeout = seconds

    def send(self, data: bytes) -> int:
        """Send all of it."""
        arrived, _ = self._server.ask(self._place, data)
        self._arrived = self._arrived + arrived if self._arrived else arrived
        return len(data)

    def recv(self, _: int) -> bytes:
        """Return what has arrived, however long. Raises BlockingIOError or TimeoutError if nothing has in time."""
        arrived, self._arrived = self._arrived, b""
        return arrived or self._wait()

    def _wait(self) -> bytes:
        end = time.monotonic() + self._timeout
        while True:
            self._bell.has_rung = False
            arrived, _ = self._server.ask(self._place, b"")
            if arrived:
                return arrived
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing arrived in time") if self._timeout else BlockingIOError
            self._bell.wait(min(left, LOOK_AGAIN))

    def poll(self, _: int) -> bool:
        """Tell whether something has arrived, without waiting."""
        return bool(self._arrived) or self._bell.has_rung

    def close(self) -> None:
        """Close it. Nothing may be sent after that."""
        # Once: another connection may have its place by now.
        place, self._place = self._place, -1
        if place >= 0:
            self._server.close(place)

    def __del__(self) -> None:
        self.close()


class LocalConnectionPool(ConnectionPool):
    """The engine for threads: a fresh value is read at once, everything else as from a server."""

    def __init__(self, endpoint: Endpoint, local: LocalServer) -> None:
        super().__init__(endpoint)
        self._fresh = local.fresh

    def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        found = None if len(self._pending) else self._fresh(key)
        if found is None:
            return super().get(key)
        return [found[1], found[5]] if found[5] else found[1]

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None, *how: Any) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds; a token comes as a Lease."""
        if len(self._pending):
            # Nothing is read before what is pending was invalidated.
            return super().fetch(key, wait, lease_ms, *how)
        return self._fresh(key) or super().fetch(key, wait, lease_ms, *how)
