"""Blocking connections to one server and the pool of them, safe for threads.

A connection carries one request at a time. Idle ones lie in a deque, whose ends are atomic, so taking one needs no
lock. A reply that is read late would go to the wrong caller, so a connection that was interrupted is closed.

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
import functools
import itertools
import os
import select
import socket
import sys
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import hiredis

from globalcache.client.home import ASK_LONGEST, Home, NotSentError, OutdatedError, broken, when_forked
from globalcache.client.leases import ThreadLeases
from globalcache.client.lookup import addresses
from globalcache.client.wire import (
    FETCH,
    MORE,
    Push,
    Reply,
    Words,
    batches,
    fetch_request,
    is_denied,
    is_fatal,
    many_request,
    pack,
    reader,
    ticket_of,
    translate,
    wait_words,
)
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHUNK = 1 << 16
# Beyond the server's own limit of a wait, so that its answer arrives first.
_GRACE = 1.0
# Connections of one pool: a server has thousands, a process has far fewer threads that ask at once.
MOST_CONNECTIONS = 256
# When so many are taken, nobody waits for a load on one more.
_MOST_TAKEN = MOST_CONNECTIONS * 3 // 4
# Stands for a reply where somebody else loads and so many wait that no connection is held for one more.
_CROWDED: Any = object()
# Stands for the wait of a read that may be asked again.
_LOOKING = -1.0
# How often who waits without a connection looks for the value, in seconds: at first, and at most.
_LOOKS = 0.005, 0.05
# The longest limit of a read, in seconds: no kernel waits for much longer at a time.
_LONGEST = 86_400.0
# How often a thread looks for a connection that another one has put back, when there may be no more of them.
_LOOK_AGAIN = 0.005
_number = itertools.count()


class Pool(deque["Connection"]):
    """Idle connections, and all that live. Each connection goes back to the pool that it is of."""

    __slots__ = ("living",)

    def __init__(self) -> None:
        super().__init__()
        self.living: weakref.WeakSet[Connection] = weakref.WeakSet()


class _FatalReplyError(Exception):
    """The server answered with an error after which it closes; `reply` is what the caller is given."""

    def __init__(self, reply: Any) -> None:
        super().__init__()
        self.reply = reply


class Connection:
    """One socket that was greeted and has paid what was owed. `used` is when it was taken last.

    `ready` is the serial up to which it has paid, while its time limit is that of a call; else -1, and it is looked at
    before it is used again. `retire` closes a socket that is lost.
    """

    __slots__ = (
        "__weakref__",
        "_feed",
        "_gets",
        "_home",
        "_limited",
        "_outcomes",
        "_recv",
        "_retire",
        "_socket",
        "_write",
        "generation",
        "has_data",
        "number",
        "paid",
        "poll",
        "pool",
        "ready",
        "used",
    )

    def __init__(self, home: Home, begun: float, pool: Pool, retire: Callable[[socket.socket], object]) -> None:
        # Sockets of TLS and of memory:// are others; None before it is opened and after it was closed.
        self._socket: Any = None
        self._home = home
        self.pool = pool
        self._retire = retire
        self.generation = home.owed.generation
        self.paid = self.ready = -1
        self.number = next(_number)
        self.used = begun
        self._limited = 0.0
        self._outcomes: dict[int, Reply] = {}

    def open(self) -> None:
        """Connect and greet, within the time-out of the call that has begun it."""
        home, begun = self._home, self.used
        self._socket = _open(home, begun + home.timeout)
        # What `_take` asks of an idle connection: whether something arrived, and whether something was left unread.
        self.poll: Callable[[int], Any] = _something
        self._write: Callable[[bytes], int] = self._socket.send
        self._recv = self._socket.recv
        parser = reader()
        self._gets, self._feed, self.has_data = parser.gets, parser.feed, parser.has_data
        try:
            if _is_plain(self._socket):
                # A socket with a time-out asks the kernel whether it may be written before every write. It nearly
                # always may.
                self._write = functools.partial(os.write, self._socket.fileno())
            if _has_descriptor(self._socket):
                poller = select.poll()
                poller.register(self._socket, select.POLLIN)
                self.poll = poller.poll
            elif home.local is not None:
                self.poll = self._socket.poll
            self.limit(begun + home.timeout - time.monotonic())
            if not home.check_greeting(self.ask_all([pack(words) for words in home.greeting(self.generation)])):
                home.check_longest(*self.ask_all([pack(ASK_LONGEST)]))
            self.settle()
            self.limit(begun + home.timeout - time.monotonic())
        except BaseException:
            self.close()
            raise

    def limit(self, seconds: float) -> None:
        """Let a read last so long at most. Signals do not begin the time anew."""
        seconds = min(max(0.001, seconds), _LONGEST)
        # Setting it costs a call of the kernel.
        if not self._is_limited_to(seconds):
            self.ready = -1
            self._limited = seconds
            self._socket.settimeout(seconds)

    def _is_limited_to(self, seconds: float) -> bool:
        return self._limited * 0.95 < seconds <= self._limited

    def prepare(self, now: float) -> None:
        """Pay what is owed, in a call that has begun at `now`. What that leaves of its time limits the next read."""
        timeout = self._home.timeout
        self.limit(timeout)
        if self.paid != self._home.owed.serial:
            self.settle()
            self.limit(now + timeout - time.monotonic())
        if self._is_limited_to(timeout):
            self.ready = self.paid

    def is_alive(self) -> bool:
        """Tell whether the server has not closed it, as far as is known here, nor sent what nobody asked for."""
        if self.poll(0) and not self._read_ahead():
            return False
        # A reply that nobody asked for would be given to the next one who asks.
        with contextlib.suppress(hiredis.HiredisError):
            return self._next_push() is MORE
        return False

    def _read_ahead(self) -> bool:
        """Read what has arrived; False at the end."""
        self.ready, self._limited = -1, 0.0
        self._socket.settimeout(0)
        try:
            data = self._recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            return type(error).__name__ == "SSLWantReadError"
        self._feed(data)
        return bool(data)

    def _next_push(self) -> Reply:
        reply = self._gets()
        while type(reply) is Push:
            self._note(reply)
            reply = self._gets()
        return reply

    def settle(self) -> None:
        """Tell the server what it is owed; only then may anything be read.

        Raises OutdatedError if a write was lost since this connection was begun: it fences nobody, so what was lost may
        still arrive after it.
        """
        bill = self._home.owed.bill()
        if bill.generation != self.generation:
            raise OutdatedError(f"{self._home.address}: a write was lost since this connection was begun")
        replies = self._run(bill.commands())
        if any(map(is_denied, replies)) and (instead := bill.deletions()):
            replies = self._run(instead)
        self._home.check_settled(replies)
        self._home.owed.settle(bill)
        self.paid = bill.serial

    def _run(self, commands: list[Words]) -> list[Reply]:
        return [reply for part in batches(commands) for reply in self.ask_all([pack(words) for words in part])]

    def ask(self, request: bytes) -> Reply:
        """Send a request and return its reply; error replies are returned, not raised."""
        try:
            sent = self._write(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._not_sent(error) from error
        if sent != len(request):
            self._send_rest(memoryview(request)[sent:])
            return self._rest(self._gets(), self.used + self._home.timeout)
        data = self._recv(_CHUNK)
        if not data:
            raise self._closed()
        self._feed(data)
        reply = self._gets()
        if reply is MORE or type(reply) is Push:
            return self._rest(reply, self.used + self._home.timeout)
        return reply

    def _rest(self, reply: Reply, end: float) -> Reply:
        """Read on until a reply is whole: each piece is limited, and all together."""
        while reply is MORE or type(reply) is Push:
            if reply is MORE:
                self._read_until(end, f"no whole answer in {self._home.timeout:g} s")
            else:
                self._note(reply)
            reply = self._gets()
        return reply

    def _read_until(self, end: float, text: str) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self._home.address}: {text}")
        self.limit(left)
        data = self._recv(_CHUNK)
        if not data:
            raise self._closed()
        self._feed(data)

    def _note(self, push: Any) -> None:
        if push[0] == b"outcome":
            self._outcomes[push[1]] = push[2]

    def _send_rest(self, rest: memoryview) -> None:
        """Send what did not fit, and read meanwhile: a server whose answers are not taken takes no requests."""
        if not _is_plain(self._socket):
            self._socket.sendall(rest)
            return
        end = time.monotonic() + self._home.timeout
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        while rest:
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{self._home.address}: a request was not taken in {self._home.timeout:g} s")
            for _, event in poller.poll(left * 1000):
                if event & select.POLLOUT:
                    rest = rest[os.write(self._socket.fileno(), rest) :]
                else:
                    self._read_until(end, "a request was not taken in time")

    def _not_sent(self, error: OSError) -> CacheError | OSError:
        # Of an encrypted request a part may have left.
        if isinstance(error, TimeoutError) or self._home.address.tls:
            return error
        return NotSentError(f"{self._home.address}: {error.strerror or error}")

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"{self._home.address}: the server closed the connection")

    def ask_all(self, requests: list[bytes]) -> list[Reply]:
        """Send several requests at once and return their replies."""
        if not requests:
            return []
        replies = [self.ask(b"".join(requests))]
        try:
            while len(replies) < len(requests):
                reply = self._gets()
                if reply is MORE or type(reply) is Push:
                    reply = self._rest(reply, time.monotonic() + self._home.timeout)
                replies.append(reply)
        except UnavailableError:
            if not is_fatal(replies[-1]):
                raise
            # What came after it was not run.
            raise _FatalReplyError(replies + replies[-1:] * (len(requests) - len(replies))) from None
        return replies

    def outcome(self, ticket: int, wait: float) -> Reply:
        """Wait for what follows under a ticket."""
        end = time.monotonic() + wait + _GRACE
        while ticket not in self._outcomes:
            if self._next_push() is not MORE:
                raise UnavailableError(f"{self._home.address}: an answer to nothing")
            if ticket not in self._outcomes:
                self._read_until(end, f"no outcome in {wait:g} s")
        return self._outcomes.pop(ticket)

    def cancel(self, ticket: int) -> Reply:
        """Leave the queue of a ticket. Returns its outcome if that was faster, else _CROWDED."""
        reply = self.ask(pack((b"CACHE.CANCEL", b"%d" % ticket)))
        if isinstance(reply, Exception):
            raise translate(reply)
        return self._outcomes.pop(ticket, _CROWDED)

    def close(self) -> None:
        """Close it; the server passes on what it held, unless it is renewed over another one of this process."""
        lost = self._let_go()
        if lost is not None:
            lost.close()

    def retire(self) -> None:
        """Close it as soon as this process has renewed its leases over another one."""
        lost = self._let_go()
        if lost is not None:
            self._retire(lost)

    def _let_go(self) -> Any:
        # The number of a closed socket may become another file's. Here is no method of its own: what refers to itself
        # is collected late.
        self._write = functools.partial(_write_closed, self._home)
        lost, self._socket = self._socket, None
        return lost

    def __del__(self) -> None:
        # An exception from outside has lost it, perhaps before it had a socket; what is closed has none any more.
        if getattr(self, "_socket", None) is not None:
            # There is nobody to tell; a socket that is left open says so itself.
            with contextlib.suppress(Exception):
                self.retire()


def _write_closed(home: Home, _: bytes) -> NoReturn:
    raise NotSentError(f"{home.address}: the connection is closed")


def _is_plain(connection: socket.socket) -> bool:
    # Sockets of TLS, gevent and eventlet are classes of theirs, also where they took the place of socket.socket.
    return sys.platform != "win32" and type(connection).__module__ == "socket"


def _has_descriptor(connection: socket.socket) -> bool:
    # Green sockets have one as well, but whoever polls it has to wait for a turn of their loop.
    return sys.platform != "win32" and type(connection).__module__ in {"socket", "ssl"}


def _something(_: int) -> bool:
    """Stand for a poll where there is none: only reading tells."""
    return True


def _open(home: Home, deadline: float) -> socket.socket:
    """Open a socket within the deadline, whatever the number of addresses."""
    address = home.address
    if home.local is not None:
        # It has what is used of a socket here.
        from globalcache.client.local import LocalSocket  # noqa: PLC0415 - few need it

        return LocalSocket(home.local)  # type: ignore[return-value]
    if address.kind == "unix":
        return _connected(socket.AF_UNIX, address.path, deadline - time.monotonic())
    connection = _open_one(addresses(address.host, address.port, deadline), deadline)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if home.tls is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection = home.tls.wrap_socket(connection, server_hostname=address.host)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_one(found: Sequence[Any], deadline: float) -> socket.socket:
    """Try addresses in turn, each for its share of the time that is left."""
    for index, (family, _, _, _, place) in enumerate(found):
        left = (deadline - time.monotonic()) / (len(found) - index)
        try:
            return _connected(family, place, left)
        except OSError:
            if index == len(found) - 1:
                raise
    raise UnavailableError("the host has no address")


def _connected(family: int, place: Any, left: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(0.001, left))
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


class BlockingServer:
    """One server for synchronous callers. Calls raise UnavailableError, DeadlineError, ReplyError or its children."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._owed = home.owed
        # Another one after `close`, so that connections in use then are closed when they are put back.
        self._idle = Pool()
        self.leases = ThreadLeases(self)
        when_forked(self)

    @property
    def max_value(self) -> int | None:
        """Bytes of the longest value that the server takes; None if it did not say."""
        return self.home.max_value

    def after_fork(self) -> None:
        """Leave the parent's connections alone. Closing our copies of them ends nothing of the parent's."""
        self.home.after_fork()
        self.leases.after_fork()
        for connection in self._idle:
            connection.close()
        self._idle = Pool()

    def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        request = b"*2\r\n$9\r\nCACHE.GET\r\n$%d\r\n%b\r\n" % (len(key), key)
        reply = self._ask(request, _LOOKING)
        return reply if reply is not _CROWDED else self._asked_again(request)

    def get_many(self, keys: Sequence[bytes]) -> Reply:
        """CACHE.MGET; an element may be an exception."""
        request = many_request(b"CACHE.MGET", keys)
        reply = self._ask(request, _LOOKING)
        return reply if reply is not _CROWDED else self._asked_again(request)

    def _asked_again(self, request: bytes) -> Reply:
        """Ask again and again for what a worker loads, as `_looked_for` does, and for as long as one call lasts."""
        end = time.monotonic() + self.home.timeout
        pause, longest = _LOOKS
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
            reply = self._ask(request, _LOOKING if self._is_crowded() else max(0.0, end - time.monotonic()))
            if reply is not _CROWDED:
                return reply
        raise DeadlineError(f"{self.home.address}: no outcome in {self.home.timeout:g} s")

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
        link = None
        try:
            link = self._take()
            # `fetch_request` without a call, where a lease of the usual length is asked for.
            words = wait_words(int(wait * 1000)) if lease_ms is None else None
            reply = link.ask(
                FETCH % (len(key), key, words) if words else fetch_request(key, int(wait * 1000), lease_ms)
            )
            if reply.__class__ is not list or reply[0] != b"hit" or reply[2]:
                reply = self._not_hit(link, key, reply, wait)
        except _FatalReplyError as error:
            self._discard(link)
            return error.reply
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(link)
                return self.fetch(key, wait, lease_ms, False, looks)  # noqa: FBT003
            self._drop(link, error)
            raise
        try:
            idle = link.pool
            idle.append(link)
            if idle is not self._idle:
                self._empty(idle)
            if reply is _CROWDED and not looks:
                return self._looked_for(key, wait, lease_ms)
            return reply
        finally:
            # A traceback may be kept, and would keep a lease.
            del reply

    def _not_hit(self, link: Connection, key: bytes, reply: Reply, wait: float) -> Reply:
        """Return the outcome of a fetch, or _CROWDED; a lease has an owner from here on."""
        if (ticket := ticket_of(reply)) and self._is_crowded():
            reply = link.cancel(ticket)
        else:
            reply = self._followed(link, reply, wait)
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
            if reply is not _CROWDED and (reply.__class__ is not list or reply[0] != b"waiting"):
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
        if reply is _CROWDED:
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
        link = None
        try:
            link = self._take()
            reply = link.ask(request)
            kind = type(reply)
            if kind is not bytes and kind is not int and not (kind is list and reply and reply[0] != b"waiting"):
                reply = self._followed(link, reply, wait)
        except _FatalReplyError as error:
            self._discard(link)
            return error.reply
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(link)
                return self._ask(request, wait, keys, tags, first=False)
            self._lose(link, error, keys, tags)
            raise
        idle = link.pool
        idle.append(link)
        if idle is not self._idle:
            self._empty(idle)
        return reply

    def _followed(self, link: Connection, reply: Reply, wait: float | None) -> Reply:
        """Return the outcome, if the reply is a ticket for it; _CROWDED where no connection may be held for that."""
        if is_fatal(reply):
            raise _FatalReplyError(reply)
        if ticket := ticket_of(reply):
            if wait == _LOOKING:
                if self._is_crowded():
                    return link.cancel(ticket)
                wait = None
            return link.outcome(ticket, self.home.timeout if wait is None else wait)
        return reply

    def _ask_all(
        self, requests: list[bytes], keys: tuple[bytes, ...] = (), *, owners: Sequence[bytes] = (), first: bool = True
    ) -> list[Reply]:
        """`owners` are the keys of FETCHes."""
        link = None
        try:
            link = self._take()
            replies = link.ask_all(requests)
            if not owners:
                for index, reply in enumerate(replies):
                    if type(reply) is not bytes and (ticket := ticket_of(reply)):
                        replies[index] = link.outcome(ticket, self.home.timeout)
            if owners:
                return self._owned(link, owners, replies)
        except _FatalReplyError as error:
            self._discard(link)
            replies = error.reply
            return self._owned(None, owners, replies) if owners else replies
        except BaseException as error:
            if first and isinstance(error, NotSentError):
                self._discard(link)
                return self._ask_all(requests, keys, owners=owners, first=False)
            self._lose(link, error, keys, ())
            raise
        self._let_go_of(link, replies)
        return replies

    def _let_go_of(self, link: Connection, replies: list[Reply]) -> None:
        if is_fatal(replies[-1]):
            self._discard(link)
        else:
            self._put_back(link)

    def _owned(self, link: Connection | None, owners: Sequence[bytes], replies: list[Reply]) -> list[Reply]:
        """Return replies with a Lease in place of each token, and put the connection back."""
        owned: list[Reply] = []
        try:
            for key, reply in zip(owners, replies, strict=True):
                owned.append(self.leases.own(key, reply))
            if link is not None:
                self._let_go_of(link, replies)
            return owned
        finally:
            # As in `fetch`.
            del owned

    def _take(self) -> Connection:
        """Return a connection of this generation that has paid, and lives as far as is known."""
        now = time.monotonic()
        while True:
            try:
                link: Connection | None = self._idle.pop()
            except IndexError:
                link = None
            if link is None:
                if (new := self._connect(now)) is not None:
                    return new
                continue
            # What has paid is of this generation: see `settle`.
            if link.ready == self._owed.serial and not link.poll(0) and not link.has_data():
                link.used = now
                return link
            if self._is_fit(link, now):
                return link

    def _is_fit(self, link: Connection, now: float) -> bool:
        """Tell whether an idle connection may be used, after a look at it; else it is closed."""
        link.used = now
        older = False
        try:
            if link.is_alive():
                if link.generation == self._owed.generation:
                    link.prepare(now)
                    return True
            else:
                older = True
        except OutdatedError:
            pass
        except BaseException as error:
            self._drop(link, error)
            raise
        self._discard(link, older=older)
        return False

    def _put_back(self, link: Connection) -> None:
        link.pool.append(link)
        if link.pool is not self._idle:
            self._empty(link.pool)

    def _discard(self, link: Connection | None, *, older: bool = False) -> None:
        """Close a connection; `older`: and all idle ones that were opened before it."""
        if link is None:
            return
        link.retire()
        link.pool.living.discard(link)
        if older:
            kept = []
            for other in self._popped(link.pool):
                if other.number < link.number:
                    self._discard(other)
                else:
                    kept.append(other)
            link.pool.extend(reversed(kept))
            if link.pool is not self._idle:
                self._empty(link.pool)

    @staticmethod
    def _popped(pool: Pool) -> Iterator[Connection]:
        # Other threads pop as well, so that it may be empty after all.
        with contextlib.suppress(IndexError):
            while True:
                yield pool.pop()

    def _empty(self, pool: Pool) -> None:
        """Close what was put back into a pool that was closed meanwhile."""
        for link in self._popped(pool):
            link.close()
            pool.living.discard(link)

    def _lose(
        self, link: Connection | None, error: BaseException, keys: tuple[bytes, ...], tags: tuple[bytes, ...]
    ) -> None:
        """Remember a write whose answer did not come, and drop the connection."""
        if keys or tags:
            self.home.undelivered(keys, tags, sent=link is not None and not isinstance(error, NotSentError))
        self._drop(link, error)

    def _drop(self, link: Connection | None, error: BaseException) -> None:
        """Close what was interrupted, and raise `error` by its name here if it has another."""
        known = broken(self.home, error)
        self._discard(link, older=isinstance(known, UnavailableError | DeadlineError))
        if known is not None and known is not error:
            raise known from error

    def _connect(self, begun: float) -> Connection | None:
        """Return a new connection; None if there may be no more and one was put back meanwhile."""
        home = self.home
        home.may_connect()
        while (link := self._admitted(begun)) is None:
            if time.monotonic() > begun + home.timeout:
                raise DeadlineError(f"{home.address}: all {MOST_CONNECTIONS} connections are busy")
            time.sleep(_LOOK_AGAIN)
            if self._idle:
                return None
        try:
            link = self._greeted(link)
        except BaseException as error:
            known = broken(home, error)
            if known is None:
                raise
            home.failed(known)
            raise known from error
        home.connected()
        return link

    def _admitted(self, begun: float) -> Connection | None:
        """Return a connection that is to be opened; None if there are as many as there may be."""
        pool = self._idle
        if len(pool.living) >= MOST_CONNECTIONS:
            return None
        link = Connection(self.home, begun, pool, self.leases.retire)
        pool.living.add(link)
        if len(pool.living) > MOST_CONNECTIONS:
            # Others were admitted at the same moment.
            pool.living.discard(link)
            return None
        return link

    def _greeted(self, link: Connection) -> Connection:
        while True:
            try:
                link.open()
            except BaseException as error:
                # Its traceback may be kept for long.
                link.pool.living.discard(link)
                # A write was lost meanwhile, or another thread came back first: the next one is as new.
                if not isinstance(error, OutdatedError) or time.monotonic() > link.used + self.home.timeout:
                    raise
            else:
                return link
            link = Connection(self.home, link.used, link.pool, self.leases.retire)
            link.pool.living.add(link)

    def close(self) -> None:
        """Close all connections, after what is to be released was; those in use when they are put back."""
        self.leases.tend()
        # In this order: what is put back after it is emptied finds that it is not the pool any more.
        closed, self._idle = self._idle, Pool()
        self._empty(closed)
