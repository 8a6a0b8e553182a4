"""Refreshes in the background, for threads; refresher_tasks.py has them for tasks."""

from __future__ import annotations

import _thread
import contextvars
import logging
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from globalcache.client.flights import loading
from globalcache.client.fork import when_forked
from globalcache.client.holder import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globalcache.client.leases import Lease

_log = logging.getLogger("globalcache")
# Threads that refresh, and refreshes that may wait for one. What is beyond them is left to the next caller.
_REFRESHERS = 4
MOST_QUEUED = 1000
# Seconds without work after which such a thread ends.
_IDLE = 5.0


class Refresher:
    """A few threads that run refreshes, started when there are any. They end with the interpreter, without a wait."""

    def __init__(self) -> None:
        self.after_fork()
        when_forked(self)

    def after_fork(self) -> None:
        """Start anew: the threads of the parent are not here, and one of them may have held a lock."""
        # Not a Condition, nor a count: an exception that a signal or gevent raises here must leave neither wrong.
        self._jobs: SimpleQueue[tuple[Sequence[Lease], contextvars.Context, Callable[[Sequence[Lease]], Any]]] = (
            SimpleQueue()
        )
        self._lock = threading.Lock()
        # A weak reference for each thread that runs: its Holder is the argument that it was started with.
        self._threads: set[weakref.ref[Holder]] = set()

    def refresh(self, leases: Sequence[Lease], work: Callable[[Sequence[Lease]], Any]) -> bool:
        """Run something in the background, with the caller's context variables; False if too many wait already.

        `work` is given those leases whose load begins within 10 s; all are released when it ends.
        """
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
