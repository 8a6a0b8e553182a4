"""Blocking connections to one server and the pool of them, safe for threads.

A connection carries one request at a time. Idle ones lie in a deque, whose ends are atomic, so taking one needs no
lock. A reply that is read late would go to the wrong caller, so a connection that was interrupted is closed.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from globalcache.client.home import Home, unavailable, when_forked
from globalcache.client.wire import (
    MORE,
    Push,
    Reply,
    Word,
    fetch_request,
    many_request,
    pack,
    reader,
    ticket_of,
    translate,
)
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK = 1 << 16
# Beyond the server's own limit of a wait, so that its answer arrives first.
_GRACE = 1.0
# Connections of one pool: a server has thousands, a process has far fewer threads that ask at once.
MOST_CONNECTIONS = 256


class Connection:
    """One socket that was greeted and has paid what was owed."""

    __slots__ = ("_feed", "_gets", "_home", "_recv", "_send", "_socket", "generation", "paid")

    def __init__(self, home: Home, deadline: float) -> None:
        self._home = home
        self.generation = home.owed.generation
        self.paid = -1
        self._socket = self._open(deadline)
        parser = reader()
        self._gets, self._feed = parser.gets, parser.feed
        self._send, self._recv = self._socket.sendall, self._socket.recv
        try:
            home.check_greeting(self.ask_all([pack(words) for words in home.greeting(self.generation)]))
            self.settle()
            self._limit(self._socket, home.timeout)
        except BaseException:
            self.close()
            raise

    def _open(self, deadline: float) -> socket.socket:
        address, left = self._home.address, max(0.001, deadline - time.monotonic())
        if address.kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(left)
                connection.connect(address.path)
            except BaseException:
                connection.close()
                raise
        else:
            connection = socket.create_connection((address.host, address.port), left)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._home.tls
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=address.host)
        self._limit(connection, max(0.001, deadline - time.monotonic()))
        return connection

    @staticmethod
    def _limit(connection: socket.socket, seconds: float) -> None:
        # With a time-out of Python's own every call is two: poll and recv. The kernel's limit costs none.
        if sys.platform == "win32" or type(connection) is not socket.socket:
            connection.settimeout(seconds)
            return
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        connection.setblocking(True)  # noqa: FBT003
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def settle(self) -> None:
        """Tell the server what it is owed; only then may anything be read."""
        bill = self._home.owed.bill()
        replies = self.ask_all([pack(words) for words in bill.commands()])
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply)
        self._home.owed.settle(bill)
        self.paid = bill.serial

    def ask(self, request: bytes) -> Reply:
        """Send a request and return its reply; error replies are returned, not raised."""
        self._send(request)
        reply = self._gets()
        end = 0.0
        while reply is MORE or type(reply) is Push:
            if reply is MORE:
                data = self._recv(_CHUNK)
                if not data:
                    raise UnavailableError(f"{self._home.address}: the server closed the connection")
                self._feed(data)
            reply = self._gets()
            if reply is MORE:  # rare, so the clock is asked only here: each piece is limited, and all together
                end = end or time.monotonic() + self._home.timeout
                if time.monotonic() > end:
                    raise DeadlineError(f"{self._home.address}: no whole answer in {self._home.timeout:g} s")
        return reply

    def ask_all(self, requests: list[bytes]) -> list[Reply]:
        """Send several requests at once and return their replies."""
        if not requests:
            return []
        replies = [self.ask(b"".join(requests))]
        while len(replies) < len(requests):
            replies.append(self.ask(b""))
        return replies

    def outcome(self, ticket: int, wait: float) -> Reply:
        """Wait for what follows under a ticket."""
        end = time.monotonic() + wait + _GRACE
        try:
            while True:
                reply = self._gets()
                if type(reply) is Push and reply[0] == b"outcome" and reply[1] == ticket:
                    return reply[2]
                if reply is MORE:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise DeadlineError(f"{self._home.address}: no outcome in {wait:g} s")
                    self._limit(self._socket, left)
                    data = self._recv(_CHUNK)
                    if not data:
                        raise UnavailableError(f"{self._home.address}: the server closed the connection")
                    self._feed(data)
        finally:
            self._limit(self._socket, self._home.timeout)

    def close(self) -> None:
        """Close it; the server passes on what it held."""
        self._socket.close()


class BlockingServer:
    """One server for synchronous callers. Calls raise UnavailableError, DeadlineError, ReplyError or its children."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._owed = home.owed
        self._idle: deque[Connection] = deque()
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        when_forked(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone. Closing our copies of them ends nothing of the parent's."""
        self.home.after_fork()
        for connection in self._idle:
            connection.close()
        self._idle = deque()
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        return self._ask(pack((b"CACHE.GET", key)))

    def get_many(self, keys: Sequence[bytes]) -> Reply:
        """CACHE.MGET; an element may be an exception."""
        return self._ask(many_request(b"CACHE.MGET", keys))

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        return self._ask(fetch_request(key, int(wait * 1000), lease_ms), wait)

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        """Fetch several; with a wait of 0 in one round trip. An element may be an exception."""
        if wait == 0:
            return self._ask_all([fetch_request(key, 0, lease_ms) for key in keys])
        replies: list[Any] = []
        end = time.monotonic() + wait
        for key in keys:
            try:
                replies.append(self.fetch(key, max(0.001, end - time.monotonic()), lease_ms))
            except CacheError as error:
                replies.append(error)
        return replies

    def call(self, *words: Word, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Reply:
        """Ask for a command; with `keys` or `tags` it is a write that is remembered if it may have been lost."""
        reply = self._ask(pack(words), None, keys, tags)
        if type(reply) is not bytes and isinstance(reply, Exception):
            raise translate(reply)
        return reply

    def call_many(self, commands: Sequence[tuple[Word, ...]], keys: tuple[bytes, ...] = ()) -> list[Reply]:
        """Ask for several commands in one round trip; an element may be an exception. `keys` as for `call`."""
        return self._ask_all([pack(words) for words in commands], keys)

    def _ask(
        self, request: bytes, wait: float | None = None, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()
    ) -> Reply:
        link = None
        try:
            link = self._take()
            reply = link.ask(request)
            if type(reply) is not bytes and (ticket := ticket_of(reply)):
                reply = link.outcome(ticket, self.home.timeout if wait is None else wait)
        except BaseException as error:
            if keys or tags:
                self.home.undelivered(keys, tags, sent=link is not None)
            self._drop(link, error)
            raise
        self._idle.append(link)
        return reply

    def _ask_all(self, requests: list[bytes], keys: tuple[bytes, ...] = ()) -> list[Reply]:
        link = None
        try:
            link = self._take()
            replies = link.ask_all(requests)
            for index, reply in enumerate(replies):
                if ticket := ticket_of(reply):
                    replies[index] = link.outcome(ticket, self.home.timeout)
        except BaseException as error:
            if keys:
                self.home.undelivered(keys, (), sent=link is not None)
            self._drop(link, error)
            raise
        self._idle.append(link)
        return replies

    def _take(self) -> Connection:
        """Return a connection of this generation that has paid."""
        try:
            link = self._idle.pop()
        except IndexError:
            return self._connect()
        if link.paid == self._owed.serial:
            return link
        if link.generation == self._owed.generation:
            try:
                link.settle()
            except BaseException as error:
                self._drop(link, error)
                raise
            return link
        link.close()
        self._room.release()
        return self._connect()

    def _drop(self, link: Connection | None, error: BaseException) -> None:
        """Close what was interrupted, and raise `error` by its name here if it has another."""
        if link is not None:
            link.close()
            self._room.release()
        if isinstance(error, BlockingIOError | TimeoutError) and not isinstance(error, CacheError):
            raise DeadlineError(f"{self.home.address}: no answer in {self.home.timeout:g} s") from error
        if isinstance(error, OSError) and not isinstance(error, CacheError):
            raise unavailable(self.home, error) from error

    def _connect(self) -> Connection:
        home = self.home
        deadline = time.monotonic() + home.timeout
        home.may_connect()
        if not self._room.acquire(timeout=home.timeout):
            raise DeadlineError(f"{home.address}: all {MOST_CONNECTIONS} connections are busy")
        try:
            link = Connection(home, deadline)
        except BaseException as error:
            self._room.release()
            if isinstance(error, OSError):
                home.failed(error)
            raise
        home.connected()
        return link

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()
            self._room.release()
