"""What a cache does beside answering its caller, for threads; tasking.py has it for tasks.

Running a load, refreshing in the background, and, while the server is away, one load per key within the process and a
limit on all of them.
"""

from __future__ import annotations

import _thread
import contextvars
import logging
import threading
import time
import weakref
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from globalcache.client.home import when_forked
from globalcache.client.raised import Raised
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from globalcache.client.leases import Lease

_log = logging.getLogger("globalcache")
# Threads that refresh, and refreshes that may wait for one. What is beyond them is left to the next caller.
_REFRESHERS = 4
MOST_QUEUED = 1000
# Seconds without work after which such a thread ends.
_IDLE = 5.0
# Seconds after which a load looks again whether there is room for it, doubled up to eight times as much.
_LOOK_AGAIN = 0.005


class Running:
    """The keys of a load while it runs; none afterwards, for a task or thread that the load began may outlive it."""

    __slots__ = ("names",)

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self.names = names


# The loads within which this code runs, outermost first: a load that asks for a key of theirs would wait for itself.
loading: contextvars.ContextVar[tuple[Running, ...]] = contextvars.ContextVar("globalcache_loading", default=())


def keys_in_load() -> tuple[bytes, ...]:
    """Return the keys of the loads within which the caller runs, of those that have not ended."""
    return tuple(name for load in loading.get() for name in load.names)


class _Flight:
    """A load that other threads of the process wait for: `result`, or `raised`, or neither if it is for its caller."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.done = threading.Event()
        self.is_shared = False
        self.result: Any = None
        self.raised: Raised | None = None


class _Room:
    """The room of a load among those that run at a time. One that is lost with its frame is free again."""

    __slots__ = ("__weakref__",)


class Failed:
    """What stands among results for an error."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Refresher:
    """A few threads that run refreshes, started when there are any. They end with the interpreter, without a wait."""

    def __init__(self) -> None:
        # Not a Condition, nor a count: an exception that a signal or gevent raises here must leave neither wrong.
        self._jobs: SimpleQueue[tuple[Sequence[Lease], contextvars.Context, Callable[[Sequence[Lease]], Any]]] = (
            SimpleQueue()
        )
        self._lock = threading.Lock()
        # An object for each thread that runs.
        self._threads: set[object] = set()

    def put(self, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Any]) -> bool:
        """Have `work` run with those leases whose load begins within 10 s; False if too many wait already."""
        for lease in leases:
            lease.queue()
        if self._jobs.qsize() >= MOST_QUEUED or not self._has_thread():
            return False
        self._jobs.put((leases, contextvars.copy_context(), work))
        return True

    def _has_thread(self) -> bool:
        with self._lock:
            if len(self._threads) == _REFRESHERS:
                return True
            me = object()
            self._threads.add(me)
            try:
                # Not by Thread.start, whose caller would wait for ever if a signal handler raised in it.
                _thread.start_new_thread(self._run, (me,))
            except BaseException as error:
                # If it was started all the same, it ends.
                self._threads.discard(me)
                if not isinstance(error, RuntimeError):
                    raise
                # At the end of the interpreter no thread can be started.
                return bool(self._threads)
            return True

    def _run(self, me: object) -> None:
        try:
            threading.current_thread().name = "globalcache-refresh"
            while me in self._threads:
                self._run_next(me)
        finally:
            self._threads.discard(me)

    def _run_next(self, me: object) -> None:
        try:
            leases, context, work = self._jobs.get(timeout=_IDLE)
        except Empty:
            # Whoever puts something into the queue does so after it has seen this thread: so it is looked at last.
            with self._lock:
                if self._jobs.empty():
                    self._threads.discard(me)
            return
        # It may outlast the load that asked for it, and nobody waits for it.
        context.run(loading.set, ())
        context.run(_refresh, leases, work)


def _refresh(leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Any]) -> None:
    try:
        begun = [lease for lease in leases if lease.start()]
        if begun:
            work(begun)
    except BaseException as error:  # noqa: BLE001 - nobody waits for it, and the thread has others to run
        _log.warning("globalcache: in the background: %s: %s", type(error).__name__, error)
    finally:
        for lease in leases:
            lease.release()


class Work:
    """The form for threads."""

    def __init__(self, local_loads: int, around_load: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self._local_loads = local_loads
        self._around = around_load
        self.after_fork()
        when_forked(self)

    def after_fork(self) -> None:
        """Start anew: the threads of the parent are not here, and one of them may have held a lock."""
        self._running: weakref.WeakSet[_Room] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}
        self._refresher = Refresher()

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

    def refresh(self, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Any]) -> bool:
        """Run something in the background, with the caller's context variables; tells whether it will be run.

        `work` is given those leases whose load begins within 10 s; all are released when it ends.
        """
        return self._refresher.put(leases, work)

    def alone(
        self,
        key: bytes,
        load: Callable[[], Any],
        wait: float,
        private: tuple[type[BaseException], ...] = (),
        *,
        joins: bool,
    ) -> Any:
        """Run a load unless another thread runs it already; then return what that one gets, if it `joins` that.

        Else a load that had begun before is waited for, and nothing more: what it has read may be older than an
        invalidation that another process was told of before this call. All who came meanwhile share the next one. An
        exception among `private` is given to the caller whose load raised it; those who waited load for themselves, one
        after another, each for `wait` seconds at most.
        """
        arrived = time.monotonic()
        end = arrived + wait
        while True:
            with self._lock:
                flight = self._flights.get(key)
                mine = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
            if mine:
                return self._lead(key, flight, load, end, private)
            try:
                if not flight.done.wait(max(0.0, end - time.monotonic())):
                    raise DeadlineError(f"{key.decode(errors='replace')}: its load took longer than {wait:g} s")
                if joins or flight.begun > arrived:
                    if flight.raised is not None:
                        flight.raised.again()
                    if flight.is_shared:
                        return flight.result
            finally:
                # A traceback holds this frame, which must not hold the exception.
                del flight

    def _lead(
        self, key: bytes, flight: _Flight, load: Callable[[], Any], end: float, private: tuple[type[BaseException], ...]
    ) -> Any:
        has_room = False
        try:
            with self._limited(end - time.monotonic()):
                has_room = True
                flight.result = load()
            flight.is_shared = True
        except Exception as error:
            # That there was no room in the time that this caller has is no outcome for others, who may have longer.
            if has_room and not isinstance(error, private):
                flight.raised = Raised(error)
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

    @contextmanager
    def _limited(self, wait: float) -> Iterator[None]:
        # A load inside a load has its room already.
        if keys_in_load():
            yield
            return
        end, pause, room = time.monotonic() + wait, _LOOK_AGAIN, _Room()
        self._running.add(room)
        while len(self._running) > self._local_loads:
            self._running.discard(room)
            if time.monotonic() >= end:
                raise DeadlineError(f"{self._local_loads} loads run already")
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(pause * 2, _LOOK_AGAIN * 8)
            self._running.add(room)
        try:
            yield
        finally:
            self._running.discard(room)

    def deliver(self, send: Callable[[Any], Any], parts: Sequence[Any], missed: Callable[[Any], object]) -> list[Any]:
        """Return what `send` gave for each part. If the caller is interrupted, `missed` is called with the others."""
        results: list[Any] = []
        try:
            for part in parts:
                results.append(send(part))  # noqa: PERF401 - what was sent has to be known after an exception
        except BaseException:
            for part in parts[len(results) :]:
                missed(part)
            raise
        return results

    def detach(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join the flights of these keys any more; None: of any key."""
        if self._flights:
            with self._lock:
                for key in list(self._flights) if keys is None else keys:
                    self._flights.pop(key, None)
