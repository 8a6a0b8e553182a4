"""Leases: the loads that a server has assigned to this process, each owned from the reply that grants it to its answer.

Whoever reads a reply with a token makes a Lease of it at once. From then on the lease is renewed, until it is closed by
an answer that the server took (FILL or FAIL) or released. A Lease that is dropped without either is released by its
finalizer, and nothing is renewed without its Lease, so no path of an exception can forget one. Here for threads;
leases_tasks.py has it for tasks.

    granted  -> renewed every second -> closed (answered)
                                     -> released: RELEASE is sent until the server takes it or the lease has lapsed
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import itertools
import logging
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from globalcache.client.holder import Holder, nobody
from globalcache.client.wire import Fetched, fetched
from globalcache.errors import CacheError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from globalcache.client.wire import Words

log = logging.getLogger("globalcache")
# Leases last 3 s unless renewed. Renewed every second, they survive two renewals that are late.
LEASE_MS = 3000
RENEW_EVERY = 1.0
# A refresh that could not begin within so many seconds is left to somebody else.
START_WITHIN = 10.0
# The thread that renews ends when there was nothing to renew for so many seconds.
_IDLE = 5.0
# Pause before RELEASE is sent again.
_RETRY_AFTER = 0.1
_NEVER = float("inf")


class Grant:
    """What is known of a lease: `due` is when it is to be renewed, or released again; `owner` refers to its Lease.

    `at` is the time of its entry in the agenda of its table.
    """

    __slots__ = ("at", "due", "lapses", "name", "owner", "place", "released", "start_by", "token")

    owner: weakref.ref[Lease]

    def __init__(self, name: bytes, token: int, now: float) -> None:
        self.name = name
        self.token = token
        self.place = (name, token)
        self.due = now + RENEW_EVERY
        self.start_by = _NEVER
        self.released = False
        self.lapses = _NEVER
        self.at = _NEVER

    @property
    def next(self) -> float:
        """When it is to be looked at."""
        return min(self.due, self.start_by)

    @property
    def words(self) -> Words:
        """Its key and token in a command."""
        return self.name, b"%d" % self.token


class Lease:
    """A load that this process has to run, or to hand on by `release`. Usable from any thread."""

    __slots__ = ("__weakref__", "_grant", "_table", "is_handed_over", "name", "server", "taken")

    def __init__(self, table: Leases, grant: Grant) -> None:
        # The key as the server knows it, and the server that granted it.
        self.name = grant.name
        self.server: Any = table.server
        self._table = table
        self._grant = grant
        grant.owner = weakref.ref(self)
        # Whether a caller has it; one that was granted to nobody is released by whoever read it.
        self.taken = False
        # Whether a refresh in the background answers for it, and no more the call that was granted it.
        self.is_handed_over = False

    @property
    def token(self) -> int:
        """What the answer has to carry."""
        return self._grant.token

    @property
    def words(self) -> Words:
        """Key and token, as every answer carries them."""
        return self._grant.words

    @property
    def is_open(self) -> bool:
        """Whether this process still has to answer. False in a child that was forked since the grant."""
        return self._table.grants.get(self._grant.place) is self._grant and not self._grant.released

    def close(self) -> None:
        """Note that the server has taken an answer."""
        if self._table.grants.get(self._grant.place) is self._grant:
            self._table.grants.pop(self._grant.place, None)

    def release(self) -> None:
        """Hand the load on to whoever waits, unless it was answered. Returns at once; never raises."""
        if self.is_open:
            self._table.release(self._grant)

    def queue(self) -> None:
        """Note that the load waits for its turn: it is released if it has not begun after 10 s."""
        self._grant.start_by = time.monotonic() + START_WITHIN
        self._table.changed.append(self._grant)

    def start(self) -> bool:
        """Note that the load begins; False if it was released meanwhile."""
        with self._table.lock:
            self._grant.start_by = _NEVER
            return self.is_open

    def __del__(self) -> None:
        # An exception from outside may have ended its making.
        if getattr(self, "_grant", None) is not None and self.is_open:
            self._table.drop(self._grant)


def lease_of(reply: Any) -> Lease | None:
    """Return the lease that a reply to a FETCH brought."""
    return reply.lease if isinstance(reply, Fetched) else None


class NoLease:
    """Stands for a lease where nothing is stored: its load runs, and there is nobody to answer."""

    is_open = False
    token = 0

    def __init__(self, server: Any, name: bytes) -> None:
        self.server = server
        self.name = name
        self.words: Words = (name, b"0")
        self.taken = self.is_handed_over = False

    def close(self) -> None:
        """Nothing is open."""

    release = queue = close

    def start(self) -> bool:
        """Let the load begin."""
        return True


class Leases:
    """The open leases of one server.

    Each grant has one entry in a heap, by when it is to be looked at, so what a lease costs does not depend on how many
    there are. Only one thread at a time calls `due` and `pause`, which use the heap; everybody else, finalizers among
    them, appends to `changed` the grants that are to be looked at earlier.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self.lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.grants: dict[tuple[bytes, int], Grant] = {}
        self.changed: deque[Grant] = deque()
        self._agenda: list[tuple[float, int, Grant]] = []
        self._number = itertools.count()

    def own(self, name: bytes, reply: Any) -> Any:
        """Return the reply to a FETCH as Fetched, with a Lease for its token, if it has one.

        Frames have the reply itself, and a traceback that is kept would keep the Lease.
        """
        if reply.__class__ is list and reply[2]:
            owned = fetched(reply)
            owned.lease = self.grant(name, reply[2])
            return owned
        return reply

    def grant(self, name: bytes, token: int) -> Lease:
        """Take the duty that a token is."""
        grant = Grant(name, token, time.monotonic())
        # First the owner: an exception out of a signal handler then drops both.
        lease = Lease(self, grant)
        try:
            self.grants[grant.place] = grant
            self.changed.append(grant)
            self._watch()
            return lease
        finally:
            # A traceback may be kept, and would keep the lease.
            del lease

    def release(self, grant: Grant) -> None:
        """Have RELEASE sent."""
        self.drop(grant)
        self._watch()

    def drop(self, grant: Grant) -> None:
        """Have RELEASE sent, from a finalizer: in any thread, at any time, so without a lock."""
        self.mark(grant)
        self._wake()

    def mark(self, grant: Grant) -> None:
        """Note that RELEASE is to be sent."""
        now = time.monotonic()
        grant.lapses = now + LEASE_MS / 1000
        grant.due = now
        grant.released = True
        self.changed.append(grant)

    def due(self, now: float) -> tuple[list[Words], list[Grant]]:
        """Return the commands to be sent now, and the grants of those that are releases."""
        commands: list[Words] = []
        releases = []
        while (grant := self._first()) is not None and grant.at <= now:
            if grant.start_by <= now:
                self._expire(grant, now)
            if grant.owner() is None and not grant.released:
                self.mark(grant)
            if grant.lapses <= now:
                self.grants.pop(grant.place, None)
                continue
            if grant.due <= now and grant.released:
                releases.append(grant)
                grant.due = now + _RETRY_AFTER
            elif grant.due <= now:
                commands.append((b"CACHE.RENEW", *grant.words, b"%d" % LEASE_MS))
                grant.due = now + RENEW_EVERY
            entry = grant.next, next(self._number), grant
            grant.at = entry[0]
            heapq.heapreplace(self._agenda, entry)
        return [(b"CACHE.RELEASE", *grant.words) for grant in releases] + commands, releases

    def _first(self) -> Grant | None:
        """Return the grant that is to be looked at first: its entry is the first of the agenda. None without grants."""
        changed, agenda = self.changed, self._agenda
        while changed:
            # Taken out when it is in the agenda, so that an exception from outside loses nothing.
            grant = changed[0]
            if grant.next < grant.at and self.grants.get(grant.place) is grant:
                entry = grant.next, next(self._number), grant
                grant.at = entry[0]
                heapq.heappush(agenda, entry)
            changed.popleft()
        while agenda:
            at, _, grant = agenda[0]
            # Not one that was closed, nor an entry that an earlier one has replaced.
            if at == grant.at and self.grants.get(grant.place) is grant:
                return grant
            heapq.heappop(agenda)
        return None

    def hasten(self, seconds: float = 0.0) -> bool:
        """Have all leases renewed in so many seconds; whether there is any. May be called in a finalizer.

        A connection was lost. The server gives this process a moment to renew over another one what was granted there.
        """
        due = time.monotonic() + seconds
        grants = self.grants.copy().values()
        for grant in grants:
            if due < grant.due:
                grant.due = due
                self.changed.append(grant)
        return bool(grants)

    def _expire(self, grant: Grant, now: float) -> None:
        with self.lock:
            if grant.start_by <= now:  # not begun meanwhile
                # Once: else it would be looked at all the time, and never lapse, while the server is away.
                grant.start_by = _NEVER
                self.mark(grant)

    def released(self, grants: list[Grant]) -> None:
        """Forget those whose RELEASE was answered."""
        for grant in grants:
            self.grants.pop(grant.place, None)

    def pause(self, now: float) -> float | None:
        """Return for how many seconds there is nothing to do; None without leases."""
        first = self._first()
        return None if first is None else max(0.0, first.at - now)

    def after_fork(self) -> None:
        """Begin with nothing: the parent answers for what was granted to it."""
        self._begin()
        self.lock = threading.Lock()

    def _watch(self) -> None:
        """Have what is due done in time."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Look at once at what is due."""
        raise NotImplementedError


class ThreadLeases(Leases):
    """A thread renews and releases; it is started when there is a lease, and ends when there was none for a while.

    The thread is one of `_thread`: starting one of `threading` waits for an event, which an exception from outside
    could leave locked. Whoever starts one names it first, and one that is not named any more ends. The name is a weak
    reference to an argument of the thread, so that one which was never started, or is lost, has none.
    """

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self._thread: Callable[[], Holder | None] = nobody
        self._bell = threading.Lock()
        self._tending = threading.Lock()
        # Sockets to be closed after the next renewal, and the thread that sends one now.
        self._retired: deque[socket.socket] = deque()
        self._sender = 0

    def after_fork(self) -> None:
        """Begin with nothing, threads among it."""
        super().after_fork()
        self._thread = nobody
        self._bell = threading.Lock()
        self._tending = threading.Lock()
        self._close(self._take_retired())

    def retire(self, lost: socket.socket) -> None:
        """Close a connection after all leases have been renewed over another. May be called in a finalizer.

        If it is the last one of this process, the server passes on what it held as soon as it is closed: first another
        one has to be there.
        """
        if self._sender == _thread.get_ident():
            # A renewal has failed. It is sent again soon, and not as fast as connections fail.
            self.hasten(_RETRY_AFTER)
            lost.close()
        elif self._thread() is None or not self.hasten():
            lost.close()
        else:
            self._retired.append(lost)
            self._wake()

    def _take_retired(self) -> list[socket.socket]:
        taken = []
        while self._retired:
            taken.append(self._retired.popleft())
        return taken

    @staticmethod
    def _close(retired: list[socket.socket]) -> None:
        for lost in retired:
            lost.close()

    def _watch(self) -> None:
        # The thread takes itself out before it looks for grants a last time, so one of the two sees the other.
        if self._thread() is None:
            with self.lock:
                if self._thread() is None:
                    self._start()
        if self._thread() is None:
            self.tend()

    def _start(self) -> None:
        me = Holder()
        try:
            self._thread = weakref.ref(me)
            # At the end of the interpreter no thread can be started.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._run, (me,))
        finally:
            del me

    def _wake(self) -> None:
        # A lock that is let go rings the bell: unlike an event it may be used in a finalizer.
        with contextlib.suppress(RuntimeError):
            self._bell.release()

    def _run(self, me: Holder) -> None:
        bell, name = self._bell, weakref.ref(me)
        idle_since = time.monotonic()
        while self._thread == name:
            with self._tending:
                pause = self.pause(time.monotonic())
            if pause is not None:
                idle_since = time.monotonic()
            # Nobody rings for a new grant: it is seen before it is to be renewed.
            bell.acquire(timeout=RENEW_EVERY if pause is None else pause)
            if time.monotonic() - idle_since >= _IDLE:
                self._end(name)
            self.tend()

    def _end(self, name: weakref.ref[Holder]) -> None:
        with self.lock:
            if self._thread == name:
                self._thread = nobody
                if self.grants:
                    self._thread = name

    def tend(self) -> None:
        """Renew and release what is due, then close what was retired. When it returns, nobody else is about to."""
        with self._tending:
            retired = self._take_retired()
            self._sender = _thread.get_ident()
            try:
                self._send()
            finally:
                self._sender = 0
                self._close(retired)

    def _send(self) -> None:
        commands, releases = self.due(time.monotonic())
        if not commands:
            return
        try:
            self.server.call_many(commands)
        except CacheError as error:
            log.debug("globalcache: leases could not be renewed: %s", error)
        except Exception:
            # Whoever renews has to go on.
            log.exception("globalcache: leases could not be renewed")
        else:
            self.released(releases)
