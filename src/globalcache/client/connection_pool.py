"""The connections to one server for threads, which is their transport.

Idle connections are in a deque, whose ends are atomic, so taking one needs no lock. One that was interrupted is closed.

How many there are is the number of Connection objects that live. Nothing counts them up and down: an exception from
outside (a signal handler that raises, a green thread's time-out) may end a call between any two steps, and a connection
that it loses is closed and counted no more when it is collected. For the same reason nothing here waits for a lock that
is made of Python code, such as a Semaphore or an Event: such an exception can leave it locked.

A read that waits for a load, of this process or of a worker, holds its connection. When most connections are taken, it
looks again and again instead, so that answers and renewals, which end the waits, always find one.

One is looked at before it is used again. If the server has closed it, all that were opened before it are closed as
well, for what ended it (a restart, a time-out on the way) ended them too.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from globalcache.client.connection import CROWDED, Connection, FatalReplyError
from globalcache.client.endpoint import Endpoint, NotSentError, OutdatedError, broken
from globalcache.client.fork import when_forked
from globalcache.client.leases import ThreadLeases
from globalcache.client.wire import (
    FETCH,
    Reply,
    Words,
    batches,
    fetch_request,
    is_fatal,
    many_request,
    pack,
    ticket_of,
    translate,
    wait_words,
)
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Connections of one pool: a server has thousands, a process has far fewer threads that ask at once.
MOST_CONNECTIONS = 256
# When so many are taken, nobody waits for a load on one more.
_MOST_TAKEN = MOST_CONNECTIONS * 3 // 4
# Stands for the wait of a read that may be asked again.
_LOOKING = -1.0
# How often who waits without a connection looks for the value, in seconds: at first, and at most.
_LOOKS = 0.005, 0.05
# How often a thread looks for a connection that another one has put back, when there may be no more of them.
_LOOK_AGAIN = 0.005


class IdleConnections(deque["Connection"]):
    """Idle connections, and all that live. Each connection goes back to the pool that it is of."""

    __slots__ = ("living",)

    def __init__(self) -> None:
        super().__init__()
        self.living: weakref.WeakSet[Connection] = weakref.WeakSet()


class ConnectionPool:
    """How threads reach one server. Calls raise UnavailableError, DeadlineError, ReplyError or its children."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._pending = endpoint.pending
        # Another one after `close`, so that connections in use then are closed when they are put back.
        self._idle = IdleConnections()
        self.leases = ThreadLeases(self)
        when_forked(self)

    @property
    def max_value(self) -> int | None:
        """Bytes of the longest value that the server takes; None if it did not say."""
        return self.endpoint.max_value

    def after_fork(self) -> None:
        """Leave the parent's connections alone. Closing our copies of them ends nothing of the parent's."""
        self.endpoint.after_fork()
        self.leases.after_fork()
        for connection in self._idle:
            connection.close()
        self._idle = IdleConnections()

    def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        request = b"*2\r\n$9\r\nCACHE.GET\r\n$%d\r\n%b\r\n" % (len(key), key)
        reply = self._ask(request, _LOOKING)
        return reply if reply is not CROWDED else self._asked_again(request)

    def get_many(self, keys: Sequence[bytes]) -> Reply:
        """CACHE.MGET; an element may be an exception."""
        request = many_request(b"CACHE.MGET", keys)
        reply = self._ask(request, _LOOKING)
        return reply if reply is not CROWDED else self._asked_again(request)

    def _asked_again(self, request: bytes) -> Reply:
        """Ask again and again for what a worker loads, as `_looked_for` does, and for as long as one call lasts."""
        end = time.monotonic() + self.endpoint.timeout
        pause, longest = _LOOKS
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
            reply = self._ask(request, _LOOKING if self._is_crowded() else max(0.0, end - time.monotonic()))
            if reply is not CROWDED:
                return reply
        raise DeadlineError(f"{self.endpoint.address}: no outcome in {self.endpoint.timeout:g} s")

    def fetch(
        self,
        key: bytes,
        wait: float,
        lease_ms: int | None = None,
        first: bool = True,  # noqa: FBT001, FBT002 - by position, for speed
        looks: bool = False,  # noqa: FBT001, FBT002
        /,
    ) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds; a token comes as a Lease."""
        connection = None
        try:
            connection = self._take()
            # `fetch_request` without a call, where a lease of the usual length is asked for.
            words = wait_words(int(wait * 1000)) if lease_ms is None else None
            reply = connection.ask(
                FETCH % (len(key), key, words) if words else fetch_request(key, int(wait * 1000), lease_ms)
            )
            if reply.__class__ is not list or reply[0] != b"hit" or reply[2]:
                reply = self._not_hit(connection, key, reply, wait)
        except FatalReplyError as error:
            self._discard(connection)
            return error.reply
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(connection)
                return self.fetch(key, wait, lease_ms, False, looks)  # noqa: FBT003
            self._drop(connection, error)
            raise
        try:
            idle = connection.pool
            idle.append(connection)
            if idle is not self._idle:
                self._empty(idle)
            if reply is CROWDED and not looks:
                return self._looked_for(key, wait, lease_ms)
            return reply
        finally:
            # A traceback may be kept, and would keep a lease.
            del reply

    def _not_hit(self, connection: Connection, key: bytes, reply: Reply, wait: float) -> Reply:
        """Return the outcome of a fetch, or CROWDED; a lease has an owner from here on."""
        if (ticket := ticket_of(reply)) and self._is_crowded():
            reply = connection.cancel(ticket)
        else:
            reply = self._followed(connection, reply, wait)
        # Before anything else can happen: what is interrupted before this closes the connection.
        return self.leases.own(key, reply)

    def _looked_for(self, key: bytes, wait: float, lease_ms: int | None) -> Reply:
        """Ask again and again while somebody else loads, since so many wait that no connection may be held for it."""
        end = time.monotonic() + wait
        pause, longest = _LOOKS
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
            left = 0.0 if self._is_crowded() else max(0.0, end - time.monotonic())
            reply = self.fetch(key, left, lease_ms, True, True)  # noqa: FBT003
            if reply is not CROWDED and (reply.__class__ is not list or reply[0] != b"waiting"):
                return reply
        return [b"timeout", None, 0, 0, -2, 0]

    def _is_crowded(self) -> bool:
        return len(self._idle.living) - len(self._idle) > _MOST_TAKEN

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        """Fetch several; with a wait of 0 in one round trip. An element may be an exception."""
        if wait == 0:
            requests = [fetch_request(key, 0, lease_ms) for key in keys]
            return self._ask_all(requests, owners=keys)
        replies: list[Any] = []
        end = time.monotonic() + wait
        for key in keys:
            try:
                replies.append(self.fetch(key, max(0.001, end - time.monotonic()), lease_ms))
            except CacheError as error:
                replies.append(error)
        return replies

    def call(self, *words: bytes, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Reply:
        """Ask for a command; with `keys` or `tags` it is a write that is remembered if it may have been lost."""
        request = pack(words)
        reply = self._ask(request, None if keys or tags else _LOOKING, keys, tags)
        if reply is CROWDED:
            reply = self._asked_again(request)
        if type(reply) is not bytes and isinstance(reply, Exception):
            raise translate(reply)
        return reply

    def call_many(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Reply]:
        """Ask for several commands, in batches; an element may be an exception. `keys` as for `call`."""
        replies: list[Reply] = []
        for part in batches(commands):
            replies += self._ask_all([pack(words) for words in part], keys)
        return replies

    def _ask(
        self,
        request: bytes,
        wait: float | None = None,
        keys: tuple[bytes, ...] = (),
        tags: tuple[bytes, ...] = (),
        first: bool = True,  # noqa: FBT001, FBT002 - by position, for speed
    ) -> Reply:
        connection = None
        try:
            connection = self._take()
            reply = connection.ask(request)
            kind = type(reply)
            if kind is not bytes and kind is not int and not (kind is list and reply and reply[0] != b"waiting"):
                reply = self._followed(connection, reply, wait)
        except FatalReplyError as error:
            self._discard(connection)
            return error.reply
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(connection)
                return self._ask(request, wait, keys, tags, first=False)
            self._lose(connection, error, keys, tags)
            raise
        idle = connection.pool
        idle.append(connection)
        if idle is not self._idle:
            self._empty(idle)
        return reply

    def _followed(self, connection: Connection, reply: Reply, wait: float | None) -> Reply:
        """Return the outcome, if the reply is a ticket for it; CROWDED where no connection may be held for that."""
        if is_fatal(reply):
            raise FatalReplyError(reply)
        if ticket := ticket_of(reply):
            if wait == _LOOKING:
                if self._is_crowded():
                    return connection.cancel(ticket)
                wait = None
            return connection.outcome(ticket, self.endpoint.timeout if wait is None else wait)
        return reply

    def _ask_all(
        self, requests: list[bytes], keys: tuple[bytes, ...] = (), *, owners: Sequence[bytes] = (), first: bool = True
    ) -> list[Reply]:
        """`owners` are the keys of FETCHes."""
        connection = None
        try:
            connection = self._take()
            replies = connection.ask_all(requests)
            if not owners:
                for index, reply in enumerate(replies):
                    if type(reply) is not bytes and (ticket := ticket_of(reply)):
                        replies[index] = connection.outcome(ticket, self.endpoint.timeout)
            if owners:
                return self._owned(connection, owners, replies)
        except FatalReplyError as error:
            self._discard(connection)
            replies = error.reply
            return self._owned(None, owners, replies) if owners else replies
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(connection)
                return self._ask_all(requests, keys, owners=owners, first=False)
            self._lose(connection, error, keys, ())
            raise
        self._let_go_of(connection, replies)
        return replies

    def _let_go_of(self, connection: Connection, replies: list[Reply]) -> None:
        if is_fatal(replies[-1]):
            self._discard(connection)
        else:
            self._put_back(connection)

    def _owned(self, connection: Connection | None, owners: Sequence[bytes], replies: list[Reply]) -> list[Reply]:
        """Return replies with a Lease in place of each token, and put the connection back."""
        owned: list[Reply] = []
        try:
            for key, reply in zip(owners, replies, strict=True):
                owned.append(self.leases.own(key, reply))
            if connection is not None:
                self._let_go_of(connection, replies)
            return owned
        finally:
            # As in `fetch`.
            del owned

    def _take(self) -> Connection:
        """Return a connection of this generation with nothing left to replay, which is alive as far as is known."""
        now = time.monotonic()
        while True:
            try:
                connection: Connection | None = self._idle.pop()
            except IndexError:
                connection = None
            if connection is None:
                if (new := self._connect(now)) is not None:
                    return new
                continue
            # One that has replayed everything is of this generation: see `replay_pending`.
            if connection.ready == self._pending.serial and not connection.poll(0) and not connection.has_data():
                connection.used = now
                return connection
            if self._is_fit(connection, now):
                return connection

    def _is_fit(self, connection: Connection, now: float) -> bool:
        """Tell whether an idle connection may be used, after a look at it; else it is closed."""
        connection.used = now
        older = False
        try:
            if connection.is_alive():
                if connection.generation == self._pending.generation:
                    connection.prepare(now)
                    return True
            else:
                older = True
        except OutdatedError:
            pass
        except BaseException as error:
            self._drop(connection, error)
            raise
        self._discard(connection, older=older)
        return False

    def _put_back(self, connection: Connection) -> None:
        connection.pool.append(connection)
        if connection.pool is not self._idle:
            self._empty(connection.pool)

    def _discard(self, connection: Connection | None, *, older: bool = False) -> None:
        """Close a connection; `older`: and all idle ones that were opened before it."""
        if connection is None:
            return
        connection.retire()
        connection.pool.living.discard(connection)
        if older:
            kept = []
            for other in self._popped(connection.pool):
                if other.number < connection.number:
                    self._discard(other)
                else:
                    kept.append(other)
            connection.pool.extend(reversed(kept))
            if connection.pool is not self._idle:
                self._empty(connection.pool)

    @staticmethod
    def _popped(pool: IdleConnections) -> Iterator[Connection]:
        # Other threads pop as well, so that it may be empty after all.
        with contextlib.suppress(IndexError):
            while True:
                yield pool.pop()

    def _empty(self, pool: IdleConnections) -> None:
        """Close what was put back into a pool that was closed meanwhile."""
        for connection in self._popped(pool):
            connection.close()
            pool.living.discard(connection)

    def _lose(
        self, connection: Connection | None, error: BaseException, keys: tuple[bytes, ...], tags: tuple[bytes, ...]
    ) -> None:
        """Remember a write whose answer did not come, and drop the connection."""
        if keys or tags:
            self.endpoint.undelivered(keys, tags, sent=connection is not None and not isinstance(error, NotSentError))
        self._drop(connection, error)

    def _drop(self, connection: Connection | None, error: BaseException) -> None:
        """Close what was interrupted, and raise `error` by its name here if it has another."""
        known = broken(self.endpoint, error)
        self._discard(connection, older=isinstance(known, UnavailableError | DeadlineError))
        if known is not None and known is not error:
            raise known from error

    def _connect(self, begun: float) -> Connection | None:
        """Return a new connection; None if there may be no more and one was put back meanwhile."""
        endpoint = self.endpoint
        endpoint.may_connect()
        while (connection := self._admitted(begun)) is None:
            if time.monotonic() > begun + endpoint.timeout:
                raise DeadlineError(f"{endpoint.address}: all {MOST_CONNECTIONS} connections are busy")
            time.sleep(_LOOK_AGAIN)
            if self._idle:
                return None
        try:
            connection = self._greeted(connection)
        except BaseException as error:
            endpoint.failed(error)
            raise
        endpoint.connected()
        return connection

    def _admitted(self, begun: float) -> Connection | None:
        """Return a connection that is to be opened; None if there are as many as there may be."""
        pool = self._idle
        if len(pool.living) >= MOST_CONNECTIONS:
            return None
        connection = Connection(self.endpoint, begun, pool, self.leases.retire)
        pool.living.add(connection)
        if len(pool.living) > MOST_CONNECTIONS:
            # Others were admitted at the same moment.
            pool.living.discard(connection)
            return None
        return connection

    def _greeted(self, connection: Connection) -> Connection:
        while True:
            try:
                connection.open()
            except BaseException as error:
                # Its traceback may be kept for long.
                connection.pool.living.discard(connection)
                # A write was lost meanwhile, or another thread came back first: the next one is as new.
                if not isinstance(error, OutdatedError) or time.monotonic() > connection.used + self.endpoint.timeout:
                    raise
            else:
                return connection
            connection = Connection(self.endpoint, connection.used, connection.pool, self.leases.retire)
            connection.pool.living.add(connection)

    def close(self) -> None:
        """Close all connections, after what is to be released was; those in use when they are put back."""
        self.leases.tend()
        # In this order: what is put back after it is emptied finds that it is not the pool any more.
        closed, self._idle = self._idle, IdleConnections()
        self._empty(closed)
