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
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.holder import Holder
from globalcache.client.home import when_forked
from globalcache.client.raised import Raised
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from globalcache.client.leases import Lease

# What one load is for: a key, or those of a batch.
Names: TypeAlias = "bytes | tuple[bytes, ...]"

_log = logging.getLogger("globalcache")
# Threads that refresh, and refreshes that may wait for one. What is beyond them is left to the next caller.
_REFRESHERS = 4
MOST_QUEUED = 1000
# Seconds without work after which such a thread ends.
_IDLE = 5.0
# Seconds after which a load looks again whether there is room for it, doubled up to eight times as much.
_LOOK_AGAIN = 0.005


def named(names: Names) -> str:
    """Return what a load is for, as people read it."""
    if isinstance(names, bytes):
        return names.decode(errors="replace")
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0].decode(errors="replace") + more


class Running:
    """The keys of a load while it runs; none afterwards, for a task or thread that the load began may outlive it."""

    __slots__ = ("names",)

    def __init__(self, names: Iterable[bytes]) -> None:
        # In their order; a batch may load thousands, and each call within it asks for one of them.
        self.names: dict[bytes, None] = dict.fromkeys(names)


# The loads within which this code runs, outermost first: a load that asks for a key of theirs would wait for itself.
loading: contextvars.ContextVar[tuple[Running, ...]] = contextvars.ContextVar("globalcache_loading", default=())


def keys_in_load() -> Iterator[bytes]:
    """Return the keys of the loads within which the caller runs, of those that have not ended."""
    return (name for load in loading.get() for name in load.names)


def is_in_load() -> bool:
    """Return whether the caller runs within a load that has not ended."""
    return any(load.names for load in loading.get())


class _Flight:
    """A load that other threads of the process wait for. It is over when its leader has ended it, or is lost.

    Then there is `result` if it `is_shared`, or `raised`, or neither: if it `is_private`, everybody loads for himself.
    """

    def __init__(self, leader: Holder) -> None:
        self.begun = time.monotonic()
        self.is_shared = self.is_private = False
        self.result: Any = None
        self.raised: Raised | None = None
        self._leader = weakref.ref(leader)
        self._has_ended = False
        # Locked until the end. Not an Event: an exception from outside could leave that locked for ever.
        self._bell = threading.Lock()
        self._bell.acquire()

    @property
    def is_over(self) -> bool:
        """Whether nobody runs it any more."""
        return self._has_ended or self._leader() is None

    def end(self) -> None:
        """Wake all who wait. For the leader, once."""
        self._has_ended = True
        self._bell.release()

    def wait(self, end: float) -> bool:
        """Return whether it was over before `end`."""
        while not self.is_over:
            left = end - time.monotonic()
            if left <= 0:
                return False
            # A leader that is lost rings no bell, nor does a waiter that is interrupted here.
            if self._bell.acquire(timeout=min(left, _LOOK_AGAIN * 8)):
                self._bell.release()
        return True


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
        # A weak reference for each thread that runs: its Holder is the argument that it was started with.
        self._threads: set[weakref.ref[Holder]] = set()

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
            me = Holder()
            try:
                self._threads.add(weakref.ref(me, self._threads.discard))
                # Not by Thread.start, whose caller would wait for ever if a signal handler raised in it.
                _thread.start_new_thread(self._run, (me,))
            except RuntimeError:
                # At the end of the interpreter no thread can be started.
                return len(self._threads) > 1
            finally:
                del me
            return True

    def _run(self, me: Holder) -> None:
        threading.current_thread().name = "globalcache-refresh"
        place = weakref.ref(me)
        while place in self._threads:
            self._run_next(place)

    def _run_next(self, place: weakref.ref[Holder]) -> None:
        try:
            leases, context, work = self._jobs.get(timeout=_IDLE)
        except Empty:
            # Whoever puts something into the queue does so after it has seen this thread: so it is looked at last.
            with self._lock:
                if self._jobs.empty():
                    self._threads.discard(place)
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
        # A weak reference for each load that has a room.
        self._running: set[weakref.ref[Holder]] = set()
        self._lock = threading.Lock()
        self._flights: dict[Names, _Flight] = {}
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
        key: Names,
        load: Callable[[], Any],
        wait: float,
        private: tuple[type[BaseException], ...] = (),
        *,
        joins: bool,
    ) -> Any:
        """Run a load unless another thread runs it already; then return what that one gets, if it `joins` that.

        Else a load that had begun before is waited for, and nothing more: what it has read may be older than an
        invalidation that another process was told of before this call. All who came meanwhile share the next one. An
        exception among `private` is given to the caller whose load raised it; all who waited then load for themselves
        at once. Raises DeadlineError if that takes longer than `wait` seconds, or has no room in that time.
        """
        arrived = time.monotonic()
        end = arrived + wait
        while True:
            leader, flight = Holder(), None
            try:
                with self._lock:
                    flight = self._flights.get(key)
                    mine = flight is None or flight.is_over
                    if flight is None or mine:
                        flight = self._flights[key] = _Flight(leader)
                if mine:
                    return self._lead(key, flight, load, end, private)
                if not flight.wait(end):
                    raise DeadlineError(f"{named(key)}: its load took longer than {wait:g} s")
                if flight.is_private:
                    return self._limited(load, end)
                if joins or flight.begun > arrived:
                    if flight.raised is not None:
                        flight.raised.again()
                    if flight.is_shared:
                        return flight.result
            finally:
                # A traceback holds this frame, which must hold neither the exception nor the lead: however this ends,
                # the flight is over. Nothing can interrupt this, since it calls nothing.
                del leader, flight

    def _lead(
        self, key: Names, flight: _Flight, load: Callable[[], Any], end: float, private: tuple[type[BaseException], ...]
    ) -> Any:
        has_room = False

        def run() -> Any:
            nonlocal has_room
            has_room = True
            return load()

        try:
            flight.result = self._limited(run, end)
            flight.is_shared = True
        except Exception as error:
            # That there was no room in the time that this caller has is no outcome for others, who may have longer.
            if has_room and isinstance(error, private):
                flight.is_private = True
            elif has_room:
                flight.raised = Raised(error)
            raise
        else:
            return flight.result
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.end()
            # A traceback holds this frame, which must not hold the exception.
            del flight

    def limited(self, load: Callable[[], Any], wait: float) -> Any:
        """Run a load as soon as there is room for it. Raises DeadlineError if there was none within `wait` seconds."""
        return self._limited(load, time.monotonic() + wait)

    def _limited(self, load: Callable[[], Any], end: float) -> Any:
        # A load inside a load has its room already.
        if is_in_load():
            return load()
        pause, running, room = _LOOK_AGAIN, self._running, Holder()
        try:
            running.add(weakref.ref(room, running.discard))
            while len(running) > self._local_loads:
                room = None  # type: ignore[assignment]  # it is free again
                if time.monotonic() >= end:
                    raise DeadlineError(f"{self._local_loads} loads run already")
                time.sleep(min(pause, max(0.0, end - time.monotonic())))
                pause = min(pause * 2, _LOOK_AGAIN * 8)
                room = Holder()
                running.add(weakref.ref(room, running.discard))
            result = load()
        finally:
            # It calls nothing, so nothing can interrupt it.
            del room
        return result

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
