"""One blocking connection to a server, for one thread at a time.

It carries one request at a time. A reply that is read late would go to the wrong caller, so a connection that was
interrupted is closed by its pool.
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
from typing import TYPE_CHECKING, Any, Final, NoReturn

import hiredis

from globalcache.client.endpoint import Endpoint, NotSentError
from globalcache.client.greeting import ASK_LONGEST
from globalcache.client.lookup import addresses
from globalcache.client.wire import MORE, Push, Reply, Words, batches, is_fatal, pack, reader, translate
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globalcache.client.connection_pool import IdleConnections

_CHUNK = 1 << 16
# Beyond the server's own limit of a wait, so that its answer arrives first.
_GRACE = 1.0
# Stands for a reply where somebody else loads and so many wait that no connection is held for one more.
CROWDED: Final[Any] = object()
# The longest limit of a read, in seconds: no kernel waits for much longer at a time.
_LONGEST = 86_400.0
_number = itertools.count()


class FatalReplyError(Exception):
    """The server answered with an error after which it closes; `reply` is what the caller is given."""

    def __init__(self, reply: Any) -> None:
        super().__init__()
        self.reply = reply


class Connection:
    """One socket that was greeted and has replayed what was pending. `used` is when it was taken last.

    `ready` is its `synced_serial` while its time limit is that of a call; else -1, and it is checked before it is used
    again. `retire` closes a socket that is lost.
    """

    __slots__ = (
        "__weakref__",
        "_endpoint",
        "_feed",
        "_gets",
        "_limited",
        "_outcomes",
        "_recv",
        "_retire",
        "_socket",
        "_write",
        "generation",
        "has_data",
        "number",
        "poll",
        "pool",
        "ready",
        "synced_serial",
        "used",
    )

    def __init__(
        self, endpoint: Endpoint, begun: float, pool: IdleConnections, retire: Callable[[socket.socket], object]
    ) -> None:
        # Sockets of TLS and of memory:// are others; None before it is opened and after it was closed.
        self._socket: Any = None
        self._endpoint = endpoint
        self.pool = pool
        self._retire = retire
        self.generation = endpoint.pending.generation
        self.synced_serial = self.ready = -1
        self.number = next(_number)
        self.used = begun
        self._limited = 0.0
        self._outcomes: dict[int, Reply] = {}

    def open(self) -> None:
        """Connect and greet, within the time-out of the call that has begun it."""
        endpoint, begun = self._endpoint, self.used
        self._socket = _open(endpoint, begun + endpoint.timeout)
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
            elif endpoint.local is not None:
                self.poll = self._socket.poll
            self.limit(begun + endpoint.timeout - time.monotonic())
            if not endpoint.check_greeting(self.ask_all([pack(words) for words in endpoint.greeting(self.generation)])):
                endpoint.check_longest(*self.ask_all([pack(ASK_LONGEST)]))
            self.replay_pending()
            self.limit(begun + endpoint.timeout - time.monotonic())
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
        """Replay pending invalidations, in a call that began at `now`; the time left to it limits the next read."""
        timeout = self._endpoint.timeout
        self.limit(timeout)
        if self.synced_serial != self._endpoint.pending.serial:
            self.replay_pending()
            self.limit(now + timeout - time.monotonic())
        if self._is_limited_to(timeout):
            self.ready = self.synced_serial

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

    def replay_pending(self) -> None:
        """Send the pending invalidations; only after they are acknowledged may anything be read."""
        snapshot = self._endpoint.to_replay(self.generation)
        replies = self._run(snapshot.commands())
        if instead := snapshot.deletions(replies):
            replies = self._run(instead)
        self._endpoint.replayed(snapshot, replies)
        self.synced_serial = snapshot.serial

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
            return self._rest(self._gets(), self.used + self._endpoint.timeout)
        data = self._recv(_CHUNK)
        if not data:
            raise self._closed()
        self._feed(data)
        reply = self._gets()
        if reply is MORE or type(reply) is Push:
            return self._rest(reply, self.used + self._endpoint.timeout)
        return reply

    def _rest(self, reply: Reply, end: float) -> Reply:
        """Read on until a reply is whole: each piece is limited, and all together."""
        while reply is MORE or type(reply) is Push:
            if reply is MORE:
                self._read_until(end, f"no whole answer in {self._endpoint.timeout:g} s")
            else:
                self._note(reply)
            reply = self._gets()
        return reply

    def _read_until(self, end: float, text: str) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self._endpoint.address}: {text}")
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
        end = time.monotonic() + self._endpoint.timeout
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        while rest:
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineError(
                    f"{self._endpoint.address}: a request was not taken in {self._endpoint.timeout:g} s"
                )
            for _, event in poller.poll(left * 1000):
                if event & select.POLLOUT:
                    rest = rest[os.write(self._socket.fileno(), rest) :]
                else:
                    self._read_until(end, "a request was not taken in time")

    def _not_sent(self, error: OSError) -> CacheError | OSError:
        # Of an encrypted request a part may have left.
        if isinstance(error, TimeoutError) or self._endpoint.address.tls:
            return error
        return NotSentError(f"{self._endpoint.address}: {error.strerror or error}")

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"{self._endpoint.address}: the server closed the connection")

    def ask_all(self, requests: list[bytes]) -> list[Reply]:
        """Send several requests at once and return their replies."""
        if not requests:
            return []
        replies = [self.ask(b"".join(requests))]
        try:
            while len(replies) < len(requests):
                reply = self._gets()
                if reply is MORE or type(reply) is Push:
                    reply = self._rest(reply, time.monotonic() + self._endpoint.timeout)
                replies.append(reply)
        except UnavailableError:
            if not is_fatal(replies[-1]):
                raise
            # What came after it was not run.
            raise FatalReplyError(replies + replies[-1:] * (len(requests) - len(replies))) from None
        return replies

    def outcome(self, ticket: int, wait: float) -> Reply:
        """Wait for what follows under a ticket."""
        end = time.monotonic() + wait + _GRACE
        while ticket not in self._outcomes:
            if self._next_push() is not MORE:
                raise UnavailableError(f"{self._endpoint.address}: an answer to nothing")
            if ticket not in self._outcomes:
                self._read_until(end, f"no outcome in {wait:g} s")
        return self._outcomes.pop(ticket)

    def cancel(self, ticket: int) -> Reply:
        """Leave the queue of a ticket. Returns its outcome if that was faster, else CROWDED."""
        reply = self.ask(pack((b"CACHE.CANCEL", b"%d" % ticket)))
        if isinstance(reply, Exception):
            raise translate(reply)
        return self._outcomes.pop(ticket, CROWDED)

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
        self._write = functools.partial(_write_closed, self._endpoint)
        lost, self._socket = self._socket, None
        return lost

    def __del__(self) -> None:
        # An exception from outside has lost it, perhaps before it had a socket; what is closed has none any more.
        if getattr(self, "_socket", None) is not None:
            # There is nobody to tell; a socket that is left open says so itself.
            with contextlib.suppress(Exception):
                self.retire()


def _write_closed(endpoint: Endpoint, _: bytes) -> NoReturn:
    raise NotSentError(f"{endpoint.address}: the connection is closed")


def _is_plain(sock: socket.socket) -> bool:
    # Sockets of TLS, gevent and eventlet are classes of theirs, also where they took the place of socket.socket.
    return sys.platform != "win32" and type(sock).__module__ == "socket"


def _has_descriptor(sock: socket.socket) -> bool:
    # Green sockets have one as well, but whoever polls it has to wait for a turn of their loop.
    return sys.platform != "win32" and type(sock).__module__ in {"socket", "ssl"}


def _something(_: int) -> bool:
    """Stand for a poll where there is none: only reading tells."""
    return True


def _open(endpoint: Endpoint, deadline: float) -> socket.socket:
    """Open a socket within the deadline, whatever the number of addresses."""
    address = endpoint.address
    if endpoint.local is not None:
        # It has what is used of a socket here.
        from globalcache.client.local import LocalSocket  # noqa: PLC0415 - few need it

        return LocalSocket(endpoint.local)  # type: ignore[return-value]
    if address.kind == "unix":
        return _connected(socket.AF_UNIX, address.path, deadline - time.monotonic())
    sock = _open_one(addresses(address.host, address.port, deadline), deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.tls is not None:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock = endpoint.tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


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
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(0.001, left))
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock
