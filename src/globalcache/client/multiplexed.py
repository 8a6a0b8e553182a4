"""One connection per server and event loop, which carries whatever the loop's tasks ask for at the same time.

What is asked for within one turn of the loop travels in one write; replies are resolved in one pass, in the order of
the requests. A task that is cancelled leaves its place in that order, so no reply goes to the wrong task. No call has a
timer of its own: a coarse clock notes how many requests had been sent, and when those of a whole time-out ago still
stand open, the connection is given up, for whatever follows would be late as well.

A reply with a token becomes a Lease before anybody else sees it; if the task that asked was cancelled in the turn of
the loop in which the reply came, the lease is taken back and released.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from asyncio import Future, get_running_loop
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.home import ASK_LONGEST, Home, NotSentError, OutdatedError, broken, when_forked
from globalcache.client.leases_tasks import LoopLeases
from globalcache.client.raised import fresh
from globalcache.client.wire import (
    MORE,
    Push,
    Reply,
    Waiting,
    Words,
    batches,
    fetch_request,
    is_denied,
    is_fatal,
    many_request,
    pack,
    reader,
    reply_error,
    ticket_of,
    translate,
)
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from globalcache.client.leases import Lease

# How often within a time-out the coarse clock looks.
_LOOKS = 8
# Beyond the server's own limit of a wait, so that its answer arrives first.
_GRACE = 1.0
# Requests that may stand open on one connection; a million tasks would otherwise queue without a limit.
_MOST_OPEN = 200_000


class Entry:
    """A request of which more must be known than who awaits it: a FETCH that waits, or a write."""

    __slots__ = ("future", "key", "keys", "owner", "tags", "timer", "wait")

    def __init__(  # noqa: PLR0913, PLR0917 - by position, for speed
        self,
        future: Future[Reply],
        wait: float,
        key: bytes | None = None,
        keys: tuple[bytes, ...] = (),
        tags: tuple[bytes, ...] = (),
        owner: list[Lease] | None = None,
    ) -> None:
        self.future = future
        # For how long an outcome may follow, in seconds.
        self.wait = wait
        # The key of a FETCH, whose lease must be handed on if nobody awaits it any more.
        self.key = key
        # What a write changes: owed to the server if no answer comes, whoever awaits it.
        self.keys = keys
        self.tags = tags
        # The leases of a batch, which is responsible for them together.
        self.owner = owner
        self.timer: asyncio.TimerHandle | None = None


# A FETCH: the future, its wait, its key, and who is responsible for its lease if that is not who awaits the future.
_Fetch: TypeAlias = "tuple[Future[Reply], float, bytes, list[Lease] | None]"


class Link(asyncio.Protocol):
    """A greeted connection. Requests go in with a future or an Entry each."""

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop, leases: LoopLeases) -> None:
        self.generation = home.owed.generation
        self.paid = -1
        self.closed: Exception | None = None
        self._home = home
        self.loop = loop
        self._leases = leases
        self._transport: asyncio.Transport | None = None
        self._open: deque[Future[Reply] | Entry | _Fetch] = deque()
        self._tickets: dict[int, Entry] = {}
        self._output: list[bytes] = []
        self._answered = 0
        self._marks: deque[int] = deque(maxlen=_LOOKS)
        self._clock: asyncio.TimerHandle | None = None
        self._guard: AsyncGenerator[None] | None = None
        parser = reader(self._error)
        self._feed, self._gets = parser.feed, parser.gets

    def _error(self, text: str) -> Exception:
        error = reply_error(text)
        if is_fatal(error):
            # Before anybody is told of it, so that nothing more is sent.
            self.loop.call_soon(self.lose, self._ended())
        return error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport  # type: ignore[assignment]

    async def close_with_loop(self) -> None:
        """Have the connection closed when the loop is shut down.

        Requests may be on their way then: nobody would read the leases that they are granted, and the server passes on
        only what a closed connection held. A loop tells nobody of its end but asynchronous generators.
        """
        self._guard = self._until_shutdown()
        await anext(self._guard)

    async def _until_shutdown(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._guard = None
            self.give_up(UnavailableError(f"{self._home.address}: the event loop has ended"))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail whatever stands open."""
        self.lose((error and broken(self._home, error)) or self._ended())

    def eof_received(self) -> None:
        """Fail whatever stands open at once, so that nothing more is sent."""
        self.lose(self._ended())

    def _ended(self) -> CacheError:
        return UnavailableError(f"{self._home.address}: the server closed the connection")

    def ask(self, request: bytes) -> Future[Reply]:
        """Have a request sent with the others of this turn of the loop; what it gives is its reply."""
        # The same as `send`, without a call for what is asked most.
        if not self._output:
            self._begin()
        future: Future[Reply] = Future(loop=self.loop)
        self._output.append(request)
        self._open.append(future)
        return future

    def fetch(self, request: bytes, wait: float, key: bytes, owner: list[Lease] | None = None) -> Future[Reply]:
        """Have a FETCH sent as `ask` does. Its lease is put into `owner`, else it is whose who awaits the future."""
        if not self._output:
            self._begin()
        future: Future[Reply] = Future(loop=self.loop)
        self._output.append(request)
        # An Entry is made of it if it has to wait: most are answered at once.
        self._open.append((future, wait, key, owner))
        return future

    def send(self, request: bytes, entry: Future[Reply] | Entry) -> None:
        """Have a request sent with the others of this turn of the loop."""
        if not self._output:
            self._begin()
        self._output.append(request)
        self._open.append(entry)

    def _begin(self) -> None:
        """Have what is asked for in this turn of the loop written at its end. What is closed has no output."""
        if self.closed is not None:
            raise fresh(self.closed)
        if len(self._open) > _MOST_OPEN:
            raise DeadlineError(f"{self._home.address}: {_MOST_OPEN} requests stand open")
        self.loop.call_soon(self._flush)
        if self._clock is None:
            self._clock = self.loop.call_later(self._home.timeout / _LOOKS, self._look)

    def _flush(self) -> None:
        output = self._output
        if output and self._transport is not None and self.closed is None:
            self._transport.write(output[0] if len(output) == 1 else b"".join(output))
        output.clear()

    def data_received(self, data: bytes) -> None:
        """Resolve all replies that are whole."""
        self._feed(data)
        gets, take = self._gets, self._open.popleft
        answered = 0
        try:
            while (reply := gets()) is not MORE:
                kind = type(reply)
                if kind is Push:
                    self._push(reply)
                    continue
                entry = take()
                answered += 1
                if type(entry) is tuple:
                    future = entry[0]
                    if kind is list and not reply[2] and not future.done():
                        future.set_result(reply)
                    else:
                        self._parked(Entry(entry[0], entry[1], entry[2], owner=entry[3]), reply)
                elif type(entry) is Entry:
                    self._parked(entry, reply)
                elif kind is Waiting:
                    self._parked(Entry(entry, self._home.timeout), reply)  # type: ignore[arg-type]
                elif not entry.done():  # type: ignore[union-attr]
                    entry.set_result(reply)  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 - a stream that is no protocol is never read again
            self.lose(broken(self._home, error) or UnavailableError(f"{self._home.address}: {error}"))
        self._answered += answered

    def _parked(self, entry: Entry, reply: Reply) -> None:
        ticket = ticket_of(reply)
        if ticket and not entry.future.done():
            self._tickets[ticket] = entry
            entry.timer = self.loop.call_later(entry.wait + _GRACE, self._late, ticket)
            entry.future.add_done_callback(lambda future: self._cancel(ticket) if future.cancelled() else None)
        elif ticket:
            self._tickets[ticket] = entry
            self._cancel(ticket)
        else:
            self._give(entry, reply)

    def _give(self, entry: Entry, reply: Reply) -> None:
        """Give a reply to whoever asked; a lease has an owner from here on."""
        if type(reply) is not list or entry.key is None or not reply[2]:
            if not entry.future.done():
                entry.future.set_result(reply)
        elif entry.future.done():
            self._leases.grant(entry.key, reply[2]).release()
        elif entry.owner is None:
            self._leases.grant_to(entry.future, entry.key, reply)
        else:
            reply = self._leases.own(entry.key, reply)
            entry.owner.append(reply[2])
            entry.future.set_result(reply)

    def _push(self, push: list[Any]) -> None:
        if push[0] == b"outcome":
            entry = self._tickets.pop(push[1], None)
            if entry is None:
                return
            if entry.timer is not None:
                entry.timer.cancel()
            self._give(entry, push[2])

    def _late(self, ticket: int) -> None:
        entry = self._tickets[ticket]
        if not entry.future.done():
            entry.future.set_exception(DeadlineError(f"{self._home.address}: no outcome in {entry.wait:g} s"))
        self._cancel(ticket)

    def _cancel(self, ticket: int) -> None:
        """Leave the queue; a lease that was on its way already is handed on when it arrives."""
        entry = self._tickets.get(ticket)
        if entry is not None and entry.timer is not None:
            entry.timer.cancel()
        if self.closed is None and entry is not None:
            future: Future[Reply] = self.loop.create_future()
            # An outcome that was faster comes before this answer.
            future.add_done_callback(lambda _: self._tickets.pop(ticket, None))
            self.send(pack((b"CACHE.CANCEL", b"%d" % ticket)), future)

    def _look(self) -> None:
        """Give the connection up if what was sent a whole time-out ago still stands open."""
        if self.closed is not None:
            return
        marks = self._marks
        if len(marks) == _LOOKS and marks[0] > self._answered:
            self.lose(DeadlineError(f"{self._home.address}: no answer in {self._home.timeout:g} s"))
            return
        marks.append(self._answered + len(self._open))
        self._clock = None
        if self._open:
            self._clock = self.loop.call_later(self._home.timeout / _LOOKS, self._look)
        else:
            marks.clear()

    def lose(self, error: Exception) -> None:
        """Give the connection up, while what was granted on it goes on: that is renewed over the next one."""
        if self.closed is None:
            self.give_up(error)
            self._leases.renew_now()

    def give_up(self, error: Exception) -> None:
        """Close the connection; every call that stands open fails with `error`."""
        if self.closed is not None:
            return
        self.closed = error
        if self._clock is not None:
            self._clock.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self._guard is not None:
            # It awaits nothing, so one step is all of it.
            with contextlib.suppress(StopIteration):
                self._guard.aclose().send(None)
        sent = len(self._open) - len(self._output)
        not_sent = NotSentError(str(error)) if self._output else error
        entries = [*self._open, *self._tickets.values()]
        last = len(self._open)
        self._open.clear()
        self._tickets.clear()
        self._output.clear()
        for place, entry in enumerate(entries):
            was_sent = not sent <= place < last
            if isinstance(entry, Entry):
                future = entry.future
                if entry.timer is not None:
                    entry.timer.cancel()
                if entry.keys or entry.tags:
                    self._home.undelivered(entry.keys, entry.tags, sent=was_sent)
            else:
                future = entry[0] if isinstance(entry, tuple) else entry
            if not future.done():
                future.set_exception(fresh(error if was_sent else not_sent))
                future.exception()  # seen: nobody may be there to do so

    async def ask_all(self, commands: Sequence[Words]) -> list[Reply]:
        """Ask for several commands; error replies are returned, not raised."""
        return [await future for future in self.send_all(commands)]

    def send_all(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Future[Reply]]:
        """Have several commands sent; `keys` are what they change together. Returns what gives their replies."""
        futures = [self.loop.create_future() for _ in commands]
        for words, future in zip(commands, futures, strict=True):
            self.send(pack(words), Entry(future, self._home.timeout, None, keys) if keys else future)
        return futures

    async def _run(self, commands: list[Words]) -> list[Reply]:
        return [reply for part in batches(commands) for reply in await self.ask_all(part)]

    async def settle(self) -> None:
        """Tell the server what it is owed; only then may anything be read.

        Raises OutdatedError if a write was lost since this connection was begun: it fences nobody, so what was lost may
        still arrive after it.
        """
        bill = self._home.owed.bill()
        if bill.generation != self.generation:
            raise OutdatedError(f"{self._home.address}: a write was lost since this connection was begun")
        replies = await self._run(bill.commands())
        if any(map(is_denied, replies)) and (instead := bill.deletions()):
            replies = await self._run(instead)
        self._home.check_settled(replies)
        self._home.owed.settle(bill)
        self.paid = bill.serial


async def _open(loop: asyncio.AbstractEventLoop, host: str, port: int, seconds: float) -> socket.socket:
    """Return a connected socket; each address of a host is tried for its share of the time."""
    found = await _resolved(loop, host, port)
    end = loop.time() + seconds
    for index, (family, _, _, _, place) in enumerate(found):
        try:
            async with asyncio.timeout((end - loop.time()) / (len(found) - index)):
                return await _connected(loop, family, place)
        except OSError:
            if index == len(found) - 1:
                raise
    raise UnavailableError(f"{host}: the host has no address")


async def _resolved(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
    try:
        # Of a number there is nothing to look up, for which the loop would start a thread.
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connected(loop: asyncio.AbstractEventLoop, family: int, place: Any) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003
        await loop.sock_connect(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


class MultiplexedServer:
    """One server for the tasks of any loop. Calls raise UnavailableError, DeadlineError, ReplyError or its children."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._owed = home.owed
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}
        self._preparing: dict[asyncio.AbstractEventLoop, asyncio.Task[Link]] = {}
        # The loop that asked last and its link: nearly always the only one.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._leases: dict[asyncio.AbstractEventLoop, LoopLeases] = {}
        self._of_parent: list[Any] = []
        when_forked(self)

    @property
    def max_value(self) -> int | None:
        """Bytes of the longest value that the server takes; None if it did not say."""
        return self.home.max_value

    def after_fork(self) -> None:
        """Leave the parent's connections alone.

        They are kept, not closed: closing would take them out of the poll object that is shared with the parent.
        """
        self.home.after_fork()
        self._of_parent.append((self._links, self._preparing, self._leases))
        for leases in self._leases.values():
            leases.after_fork()
        self._leases = {}
        self._links = {}
        self._preparing = {}
        self._loop = self._link = None

    def get(self, key: bytes) -> Awaitable[Reply]:
        """CACHE.GET."""
        request = b"*2\r\n$9\r\nCACHE.GET\r\n$%d\r\n%b\r\n" % (len(key), key)
        link = self._link
        # What `_ready` asks, without a call.
        if (
            link is not None
            and link.loop is get_running_loop()
            and link.paid == self._owed.serial
            and link.closed is None
        ):
            return link.ask(request)
        return self._ask_slowly(request)

    def get_many(self, keys: Sequence[bytes]) -> Awaitable[list[Reply]]:
        """CACHE.MGET; an element may be an exception."""
        return self._ask(many_request(b"CACHE.MGET", keys))

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Awaitable[Reply]:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        request = fetch_request(key, int(wait * 1000), lease_ms)
        link = self._link
        # As in `get`.
        if (
            link is not None
            and link.loop is get_running_loop()
            and link.paid == self._owed.serial
            and link.closed is None
        ):
            return link.fetch(request, wait, key)
        return self._fetch_slowly(request, wait, key)

    async def _fetch_slowly(self, request: bytes, wait: float, key: bytes) -> Reply:
        return await self._again(lambda link: link.fetch(request, wait, key))

    async def _again(self, ask: Callable[[Link], Future[Reply]]) -> Reply:
        """Ask over a connection that was prepared; once more if no byte of the request was sent."""
        link = self._ready() or await self._prepared()
        try:
            return await ask(link)
        except NotSentError:
            link = await self._prepared()
        try:
            return await ask(link)
        except NotSentError as error:
            raise UnavailableError(str(error)) from error

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        """Fetch several at once. An element may be an exception. Leases that came are released if it is cancelled."""
        link = self._ready() or await self._prepared()
        owner: list[Lease] = []
        futures: list[Future[Reply]] = []
        replies: list[Any] = []
        try:
            for key in keys:
                future = link.fetch(fetch_request(key, int(wait * 1000), lease_ms), wait, key, owner)
                futures.append(future)
            for future in futures:
                try:
                    replies.append(await future)
                except CacheError as error:
                    replies.append(broken(self.home, error))
        except BaseException:
            for future in futures:
                future.cancel()
            for lease in owner:
                lease.release()
            raise
        return replies

    async def call(self, *words: bytes, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Reply:
        """Ask for a command; with `keys` or `tags` it is a write that is remembered if it may have been lost."""
        request = pack(words)
        try:
            reply = await self._call(request, keys, tags)
        except NotSentError:
            try:
                reply = await self._call(request, keys, tags)
            except NotSentError as error:
                raise UnavailableError(str(error)) from error
        if type(reply) is not bytes and isinstance(reply, Exception):
            raise translate(reply)
        return reply

    async def _call(self, request: bytes, keys: tuple[bytes, ...], tags: tuple[bytes, ...]) -> Reply:
        try:
            link = self._ready() or await self._prepared()
            future: Future[Reply] = link.loop.create_future()
            link.send(request, Entry(future, self.home.timeout, None, keys, tags))
        except BaseException:
            if keys or tags:
                self.home.undelivered(keys, tags, sent=False)
            raise
        return await future

    async def call_many(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Reply]:
        """Ask for several commands, in batches; an element may be an exception. `keys` as for `call`."""
        replies: list[Reply] = []
        parts = list(batches(commands))
        for number, part in enumerate(parts):
            is_sent = False
            try:
                link = self._ready() or await self._prepared()
                futures = link.send_all(part, keys)
                # What is sent and not answered is noted by the connection.
                is_sent = number == len(parts) - 1
                replies += [await future for future in futures]
            except BaseException as error:
                if keys and not is_sent:
                    self.home.undelivered(keys, (), sent=False)
                if isinstance(error, NotSentError):
                    raise UnavailableError(str(error)) from error
                raise
        return replies

    def _ask(self, request: bytes) -> Awaitable[Reply]:
        link = self._ready()
        return self._ask_slowly(request) if link is None else link.ask(request)

    async def _ask_slowly(self, request: bytes) -> Reply:
        return await self._again(lambda link: link.ask(request))

    def _ready(self) -> Link | None:
        """Return this loop's connection if it may be used at once."""
        loop = get_running_loop()
        if loop is not self._loop:
            self._loop, self._link = loop, self._links.get(loop)
        link = self._link
        if link is None or link.paid != self._owed.serial or link.closed is not None:
            return None
        return link

    async def _prepared(self) -> Link:
        """Return a connection that has paid, within the deadline of one call."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.home.timeout):
                while (link := self._ready()) is None:
                    task = self._preparing.get(loop)
                    if task is None or task.done():
                        task = self._preparing[loop] = loop.create_task(self._prepare(loop))
                        # Whoever waits sees its error; if all have left, nobody needs to.
                        task.add_done_callback(lambda done: done.cancelled() or done.exception())
                    await asyncio.wait((task,))
                    if (error := task.exception()) is not None:
                        raise fresh(error)
                return link
        except TimeoutError as error:
            if isinstance(error, CacheError):
                raise
            raise DeadlineError(f"{self.home.address}: no connection in {self.home.timeout:g} s") from error

    async def _prepare(self, loop: asyncio.AbstractEventLoop) -> Link:
        home, link = self.home, self._links.get(loop)
        if link is not None and link.closed is None and link.generation == self._owed.generation:
            with contextlib.suppress(OutdatedError):
                await link.settle()
                return link
        if link is not None:
            link.lose(UnavailableError(f"{home.address}: replaced by a new connection"))
        home.may_connect()
        try:
            async with asyncio.timeout(home.timeout):
                link = await self._greeted(loop)
        except Exception as error:
            known = broken(home, error)
            if known is None:
                raise
            home.failed(known)
            raise known from error
        home.connected()
        for old in [old for old in self._links if old.is_closed()]:
            del self._links[old]
            self._preparing.pop(old, None)
            self._leases.pop(old, None)
        self._links[loop] = link
        self._loop, self._link = loop, link
        return link

    def _leases_of(self, loop: asyncio.AbstractEventLoop) -> LoopLeases:
        leases = self._leases.get(loop)
        if leases is None:
            leases = self._leases[loop] = LoopLeases(self, functools.partial(self._send_now, loop))
        return leases

    def _send_now(self, loop: asyncio.AbstractEventLoop, commands: list[Words]) -> bool:
        """Send what neither reads nor writes values, and whose replies nobody needs, over the connection there is."""
        link = self._links.get(loop)
        if link is None or link.closed is not None:
            return False
        try:
            for words in commands:
                link.send(pack(words), loop.create_future())
        except CacheError:
            return False
        return True

    async def _greeted(self, loop: asyncio.AbstractEventLoop) -> Link:
        while True:
            try:
                return await self._connect(loop)
            except OutdatedError:
                # A write was lost meanwhile, or another loop came back first: the next one is as new.
                continue

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Link:
        home, address = self.home, self.home.address
        link = Link(home, loop, self._leases_of(loop))
        try:
            if home.local is not None:
                from globalcache.client.local_tasks import LocalTransport  # noqa: PLC0415 - few need it

                LocalTransport(home.local, loop, link)
            elif address.kind == "unix":
                await loop.create_unix_connection(lambda: link, address.path)
            else:
                connection = await _open(loop, address.host, address.port, home.timeout)
                name = address.host if home.tls else None
                await loop.create_connection(lambda: link, sock=connection, ssl=home.tls, server_hostname=name)
            if not home.check_greeting(await link.ask_all(home.greeting(link.generation))):
                home.check_longest(*await link.ask_all([ASK_LONGEST]))
            await link.settle()
            await link.close_with_loop()
        except BaseException as error:
            link.give_up(broken(home, error) or UnavailableError(f"{home.address}: not connected"))
            raise
        return link

    async def close(self) -> None:
        """Close the connection of this loop."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        self._loop = self._link = None
        if link is not None:
            link.give_up(UnavailableError(f"{self.home.address}: closed"))
