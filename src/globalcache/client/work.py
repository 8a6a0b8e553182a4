"""What a cache does beside answering its caller, for threads; tasking.py has it for tasks.

Running a load, refreshing in the background, and loads without a lease, one for a key and process.
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

from globalcache.client.flights import (
    LOOK_AGAIN,
    Flight,
    Flights,
    Place,
    aboard,
    is_in_load,
    loading,
    outer_flights,
    place_of,
)
from globalcache.client.holder import Holder
from globalcache.client.home import when_forked
from globalcache.client.raised import Raised
from globalcache.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from globalcache.client.guard import Guard
    from globalcache.client.leases import Lease

    # Loads some keys, and puts what came of each where it is told; what it raises is for those that are missing there.
    Run: TypeAlias = Callable[[Iterable[bytes], dict[bytes, Any]], Any]

_log = logging.getLogger("globalcache")
# Threads that refresh, and refreshes that may wait for one. What is beyond them is left to the next caller.
_REFRESHERS = 4
MOST_QUEUED = 1000
# Seconds without work after which such a thread ends.
_IDLE = 5.0


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

    def __init__(self, flights: Flights, around_load: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self._flights = flights
        self._around = around_load
        self.after_fork()
        when_forked(self)

    def after_fork(self) -> None:
        """Start anew: the threads of the parent are not here, and one of them may have held a lock."""
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

    def alone(self, names: Iterable[bytes], guard: Guard, run: Run, end: float) -> tuple[Flight, dict[bytes, Flight]]:
        """Load those of these keys that nobody loads in this process, and then wait for who loads the others.

        Returns the flight of the caller, and those of the other keys, which are over or have lasted until `end`. What
        the load raises is in its flight; then nothing is waited for. Raises DeadlineError if it has no room in time.
        """
        leader = Holder()
        others: dict[bytes, Flight] = {}
        try:
            flight = Flight(names, guard, weakref.ref(leader))
            others = self._flights.claim(flight)
            if flight.names:
                others |= self._lead(flight, run, end)
            if flight.raised is None:
                for other in set(others.values()):
                    other.wait(end)
            found = flight, others
        finally:
            # First, for it calls nothing, so nothing can interrupt it: however this ends, the flight is over.
            del leader
            self._flights.leave(others.values())
        return found

    def _lead(self, flight: Flight, run: Run, end: float) -> dict[bytes, Flight]:
        try:
            return self._limited(lambda: self._fly(flight, run), end)  # type: ignore[no-any-return]
        finally:
            self._flights.end(flight)

    def _fly(self, flight: Flight, run: Run) -> dict[bytes, Flight]:
        others = self._flights.begin(flight)
        before = aboard.set((*outer_flights(), flight))
        try:
            if flight.names:
                run(flight.names, flight.outcomes)
        except BaseException as error:
            if not isinstance(error, Exception) and not self.is_own(error):
                raise
            flight.raised = Raised(error)
        finally:
            aboard.reset(before)
            # The traceback holds this frame, which must not hold the exception.
            del flight
        return others

    def limited(self, load: Callable[[], Any], wait: float) -> Any:
        """Run a load as soon as there is room for it. Raises DeadlineError if there was none within `wait` seconds."""
        return self._limited(load, time.monotonic() + wait)

    def _limited(self, load: Callable[[], Any], end: float) -> Any:
        # A load inside a load has its room already.
        if is_in_load():
            return load()
        room = Holder()
        place = place_of(room, self._flights.rooms)
        try:
            self._enter(place, end)
            result = load()
        finally:
            # First, for it calls nothing, so nothing can interrupt it.
            del room
            self._flights.rooms.leave(place)
        return result

    def _enter(self, place: Place, end: float) -> None:
        """Wait for room."""
        rooms, bell = self._flights.rooms, threading.Lock()
        bell.acquire()
        while not rooms.enter(place, bell.release):
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{rooms.most} loads run already")
            bell.acquire(timeout=min(left, LOOK_AGAIN))

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
