"""How tasks reach a server: one connection for each event loop, opened when it is needed.

multiplexed_connection.py says how tasks share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from asyncio import Future, get_running_loop
from typing import TYPE_CHECKING, Any

from globalcache.client.endpoint import Endpoint, NotSentError, OutdatedError, broken
from globalcache.client.fork import when_forked
from globalcache.client.greeting import ASK_LONGEST
from globalcache.client.leases_tasks import LoopLeases
from globalcache.client.multiplexed_connection import MultiplexedConnection, PendingRequest
from globalcache.client.raised import fresh
from globalcache.client.wire import Reply, Words, batches, fetch_request, many_request, pack, translate
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from globalcache.client.leases import Lease


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
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003
        await loop.sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


class MultiplexedTransport:
    """How tasks reach one server. Calls raise UnavailableError, DeadlineError, ReplyError or its children."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._pending = endpoint.pending
        self._connections: dict[asyncio.AbstractEventLoop, MultiplexedConnection] = {}
        self._preparing: dict[asyncio.AbstractEventLoop, asyncio.Task[MultiplexedConnection]] = {}
        # That of the loop that asked last: nearly always the only one. Loops of other threads change it at any time.
        self._connection: MultiplexedConnection | None = None
        self._leases: dict[asyncio.AbstractEventLoop, LoopLeases] = {}
        self._of_parent: list[Any] = []
        when_forked(self)

    @property
    def max_value(self) -> int | None:
        """Bytes of the longest value that the server takes; None if it did not say."""
        return self.endpoint.max_value

    def after_fork(self) -> None:
        """Leave the parent's connections alone.

        They are kept, not closed: closing would take them out of the poll object that is shared with the parent.
        """
        self.endpoint.after_fork()
        self._of_parent.append((self._connections, self._preparing, self._leases))
        for leases in self._leases.values():
            leases.after_fork()
        self._leases = {}
        self._connections = {}
        self._preparing = {}
        self._connection = None

    def get(self, key: bytes) -> Awaitable[Reply]:
        """CACHE.GET."""
        request = b"*2\r\n$9\r\nCACHE.GET\r\n$%d\r\n%b\r\n" % (len(key), key)
        connection = self._connection
        # What `_ready` asks, without a call.
        if (
            connection is not None
            and connection.loop is get_running_loop()
            and connection.synced_serial == self._pending.serial
            and connection.closed is None
        ):
            return connection.ask(request)
        return self._ask_slowly(request)

    def get_many(self, keys: Sequence[bytes]) -> Awaitable[list[Reply]]:
        """CACHE.MGET; an element may be an exception."""
        return self._ask(many_request(b"CACHE.MGET", keys))

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Awaitable[Reply]:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        request = fetch_request(key, int(wait * 1000), lease_ms)
        connection = self._connection
        # As in `get`.
        if (
            connection is not None
            and connection.loop is get_running_loop()
            and connection.synced_serial == self._pending.serial
            and connection.closed is None
        ):
            return connection.fetch(request, wait, key)
        return self._fetch_slowly(request, wait, key)

    async def _fetch_slowly(self, request: bytes, wait: float, key: bytes) -> Reply:
        return await self._again(lambda connection: connection.fetch(request, wait, key))

    async def _again(self, ask: Callable[[MultiplexedConnection], Future[Reply]]) -> Reply:
        """Ask over a connection that was prepared; once more if no byte of the request was sent."""
        connection = self._ready() or await self._prepared()
        try:
            return await ask(connection)
        except NotSentError:
            connection = await self._prepared()
        try:
            return await ask(connection)
        except NotSentError as error:
            raise UnavailableError(str(error)) from error

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Any]:
        """Fetch several at once. An element may be an exception. Leases that came are released if it is cancelled."""
        connection = self._ready() or await self._prepared()
        owner: list[Lease] = []
        futures: list[Future[Reply]] = []
        replies: list[Any] = []
        try:
            for key in keys:
                future = connection.fetch(fetch_request(key, int(wait * 1000), lease_ms), wait, key, owner)
                futures.append(future)
            for future in futures:
                try:
                    replies.append(await future)
                except CacheError as error:
                    replies.append(broken(self.endpoint, error))
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
            connection = self._ready() or await self._prepared()
            future: Future[Reply] = connection.loop.create_future()
            connection.send(request, PendingRequest(future, self.endpoint.timeout, None, keys, tags))
        except BaseException:
            if keys or tags:
                self.endpoint.undelivered(keys, tags, sent=False)
            raise
        return await future

    async def call_many(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Reply]:
        """Ask for several commands, in batches; an element may be an exception. `keys` as for `call`."""
        replies: list[Reply] = []
        parts = list(batches(commands))
        for number, part in enumerate(parts):
            is_sent = False
            try:
                connection = self._ready() or await self._prepared()
                futures = connection.send_all(part, keys)
                # What is sent and not answered is noted by the connection.
                is_sent = number == len(parts) - 1
                replies += [await future for future in futures]
            except BaseException as error:
                if keys and not is_sent:
                    self.endpoint.undelivered(keys, (), sent=False)
                if isinstance(error, NotSentError):
                    raise UnavailableError(str(error)) from error
                raise
        return replies

    def _ask(self, request: bytes) -> Awaitable[Reply]:
        connection = self._ready()
        return self._ask_slowly(request) if connection is None else connection.ask(request)

    async def _ask_slowly(self, request: bytes) -> Reply:
        return await self._again(lambda connection: connection.ask(request))

    def _ready(self) -> MultiplexedConnection | None:
        """Return this loop's connection if it may be used at once."""
        loop = get_running_loop()
        connection = self._connection
        if connection is None or connection.loop is not loop:
            connection = self._connection = self._connections.get(loop)
        if connection is None or connection.synced_serial != self._pending.serial or connection.closed is not None:
            return None
        return connection

    async def _prepared(self) -> MultiplexedConnection:
        """Return a connection that has replayed everything, within the deadline of one call."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                while (connection := self._ready()) is None:
                    task = self._preparing.get(loop)
                    if task is None or task.done():
                        task = self._preparing[loop] = loop.create_task(self._prepare(loop))
                        # Whoever waits sees its error; if all have left, nobody needs to.
                        task.add_done_callback(lambda done: done.cancelled() or done.exception())
                    await asyncio.wait((task,))
                    if (error := task.exception()) is not None:
                        raise fresh(error)
                return connection
        except TimeoutError as error:
            if isinstance(error, CacheError):
                raise
            raise DeadlineError(f"{self.endpoint.address}: no connection in {self.endpoint.timeout:g} s") from error

    async def _prepare(self, loop: asyncio.AbstractEventLoop) -> MultiplexedConnection:
        endpoint, connection = self.endpoint, self._connections.get(loop)
        if connection is not None and connection.closed is None and connection.generation == self._pending.generation:
            with contextlib.suppress(OutdatedError):
                await connection.replay_pending()
                return connection
        if connection is not None:
            connection.lose(UnavailableError(f"{endpoint.address}: replaced by a new connection"))
        endpoint.may_connect()
        try:
            async with asyncio.timeout(endpoint.timeout):
                connection = await self._greeted(loop)
        except Exception as error:
            endpoint.failed(error)
            raise
        endpoint.connected()
        # Other threads begin and end loops meanwhile.
        for old in [old for old in list(self._connections) if old.is_closed()]:
            self._connections.pop(old, None)
            self._preparing.pop(old, None)
            self._leases.pop(old, None)
        self._connections[loop] = connection
        self._connection = connection
        return connection

    def _leases_of(self, loop: asyncio.AbstractEventLoop) -> LoopLeases:
        leases = self._leases.get(loop)
        if leases is None:
            leases = self._leases[loop] = LoopLeases(self, functools.partial(self._send_now, loop))
        return leases

    def _send_now(self, loop: asyncio.AbstractEventLoop, commands: list[Words]) -> bool:
        """Send what neither reads nor writes values, and whose replies nobody needs, over the connection there is."""
        connection = self._connections.get(loop)
        if connection is None or connection.closed is not None:
            return False
        try:
            for words in commands:
                connection.send(pack(words), loop.create_future())
        except CacheError:
            return False
        return True

    async def _greeted(self, loop: asyncio.AbstractEventLoop) -> MultiplexedConnection:
        while True:
            try:
                return await self._connect(loop)
            except OutdatedError:
                # A write was lost meanwhile, or another loop came back first: the next one is as new.
                continue

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> MultiplexedConnection:
        endpoint, address = self.endpoint, self.endpoint.address
        connection = MultiplexedConnection(endpoint, loop, self._leases_of(loop))
        try:
            if endpoint.local is not None:
                from globalcache.client.local_tasks import LocalTransport  # noqa: PLC0415 - few need it

                LocalTransport(endpoint.local, loop, connection)
            elif address.kind == "unix":
                await loop.create_unix_connection(lambda: connection, address.path)
            else:
                sock = await _open(loop, address.host, address.port, endpoint.timeout)
                name = address.host if endpoint.tls else None
                await loop.create_connection(lambda: connection, sock=sock, ssl=endpoint.tls, server_hostname=name)
            if not endpoint.check_greeting(await connection.ask_all(endpoint.greeting(connection.generation))):
                endpoint.check_longest(*await connection.ask_all([ASK_LONGEST]))
            await connection.replay_pending()
            await connection.close_with_loop()
        except BaseException as error:
            connection.give_up(broken(endpoint, error) or UnavailableError(f"{endpoint.address}: not connected"))
            raise
        return connection

    async def close(self) -> None:
        """Close the connection of this loop."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        self._connection = None
        if connection is not None:
            connection.give_up(UnavailableError(f"{self.endpoint.address}: closed"))
