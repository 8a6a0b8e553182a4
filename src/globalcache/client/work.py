"""What a cache does beside answering its caller, for threads; tasking.py has it for tasks.

Running a load, renewing its lease meanwhile, refreshing in the background, and, while the server is away, one load per
key within the process and a limit on all of them.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from globalcache.errors import CacheError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from types import TracebackType

_log = logging.getLogger("globalcache")
# Leases last 3 s unless renewed.
LEASE_MS = 3000
_RENEW_EVERY = 1.0
_REFRESHERS = 4

# The keys that are being loaded here, outermost first: a load that asks for one of them would wait for itself.
loading: contextvars.ContextVar[tuple[bytes, ...]] = contextvars.ContextVar("globalcache_loading", default=())

# A lease: the server, the key and the token.
Lease = tuple[Any, bytes, int]


def renewals(leases: Sequence[Lease]) -> Iterator[tuple[Any, list[tuple[Any, ...]]]]:
    """Give for each server the commands that renew its leases."""
    servers = {id(server): server for server, _, _ in leases if server is not None}
    for server in servers.values():
        yield server, [(b"CACHE.RENEW", key, token, LEASE_MS) for owner, key, token in leases if owner is server]


class _Flight:
    """A load that other threads of the process wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.trace: TracebackType | None = None


class Failed:
    """What stands among results for an error."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Work:
    """The form for threads."""

    def __init__(self, local_loads: int, around_load: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self._local_loads = local_loads
        self._around = around_load
        self._room = threading.BoundedSemaphore(local_loads)
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}
        self._leases: dict[int, tuple[Sequence[Lease], float]] = {}
        self._renewer: threading.Thread | None = None
        self._wake = threading.Event()
        self._pool: Executor | None = None
        self._pid = os.getpid()

    def _own(self) -> None:
        """Start anew in a forked child: the threads of the parent are not here."""
        if self._pid != os.getpid():
            self.__init__(self._local_loads, self._around)  # type: ignore[misc]

    def call(self, load: Callable[[], Any]) -> Any:
        """Run a load."""
        return load() if self._around is None else self._around(load)

    def is_own(self, error: BaseException) -> bool:
        """Return whether a load raised this by itself, rather than that its caller was interrupted."""
        return isinstance(error, SystemExit)

    def settle(self, value: Any) -> Any:
        """Return what a load gave."""
        return value

    def each(self, work: Callable[[str], Any], keys: Iterable[str]) -> list[Any]:
        """Return what came of each key, or Failed. In turn: what others load goes on while one of it is waited for."""
        results: list[Any] = []
        for key in keys:
            try:
                results.append(work(key))
            except Exception as error:  # noqa: BLE001 - kept until all are done
                results.append(Failed(error))
        return results

    @contextmanager
    def renewing(self, leases: Sequence[Lease]) -> Iterator[None]:
        """Keep leases while the load runs; a thread renews those that last."""
        self._own()
        me = id(leases)
        with self._lock:
            self._leases[me] = leases, time.monotonic()
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="globalcache-renew", daemon=True)
                self._renewer.start()
            elif len(self._leases) == 1:
                self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                del self._leases[me]

    def _renew(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                old = [
                    leases for leases, since in self._leases.values() if time.monotonic() - since >= _RENEW_EVERY * 0.9
                ]
                idle = not self._leases
            for leases in old:
                for server, commands in renewals(leases):
                    try:
                        server.call_many(commands)
                    except CacheError as error:
                        _log.debug("globalcache: a lease could not be renewed: %s", error)
            self._wake.wait(None if idle else _RENEW_EVERY)

    def background(self, work: Callable[..., Any], *args: Any) -> None:
        """Run something in the background, with the caller's context variables."""
        self._own()
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - few need it

                self._pool = ThreadPoolExecutor(_REFRESHERS, "globalcache-refresh")
        self._pool.submit(contextvars.copy_context().run, _quietly, work, *args)

    def alone(self, key: bytes, load: Callable[[], Any], wait: float) -> Any:
        """Run a load unless another thread runs it already; then return what that one gets."""
        self._own()
        with self._lock:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        return self._lead(key, flight, load, wait) if mine else self._join(key, flight, load, wait)

    def _lead(self, key: bytes, flight: _Flight, load: Callable[[], Any], wait: float) -> Any:
        try:
            with self._limited(wait):
                flight.result = load()
        except BaseException as error:
            flight.error, flight.trace = error, error.__traceback__
            raise
        else:
            return flight.result
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()
            # A traceback holds this frame, which must not hold the exception.
            del flight

    def _join(self, key: bytes, flight: _Flight, load: Callable[[], Any], wait: float) -> Any:
        begun = time.monotonic()
        if not flight.done.wait(wait):
            raise DeadlineError(f"{key.decode(errors='replace')}: its load took longer than {wait:g} s")
        try:
            if isinstance(flight.error, Exception):
                # With the traceback of the load: that of the object would grow with every caller.
                raise flight.error.with_traceback(flight.trace)
            if flight.error is None:
                return flight.result
        finally:
            del flight
        # The thread that loaded was interrupted, which is nobody else's concern.
        return self.alone(key, load, max(0.0, wait - (time.monotonic() - begun)))

    @contextmanager
    def _limited(self, wait: float) -> Iterator[None]:
        # A load inside a load has its room already.
        if loading.get():
            yield
            return
        if not self._room.acquire(timeout=wait):
            raise DeadlineError(f"{self._local_loads} loads run already")
        try:
            yield
        finally:
            self._room.release()

    def detach(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join the flights of these keys any more; None: of any key."""
        if self._flights:
            with self._lock:
                for key in list(self._flights) if keys is None else keys:
                    self._flights.pop(key, None)


def _quietly(work: Callable[..., Any], *args: Any) -> None:
    try:
        work(*args)
    except Exception as error:  # noqa: BLE001 - nobody waits for it
        _log.warning("globalcache: in the background: %s: %s", type(error).__name__, error)
