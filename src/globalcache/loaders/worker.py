"""A worker: takes the loads that a server pushes, runs the loaders of an application, and fills what they return.

A lease that is held is renewed every second, so that a slow query does not become two. A connection that is lost is
made again; loads under way go on meanwhile: tokens are good on any connection. loader_queue.py says when what is begun.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any

from globalcache.client.greeting import ASK_LONGEST, LIB_NAME, hello, least_absence, longest_value, select
from globalcache.client.guard import text_of
from globalcache.client.leases import LEASE_MS
from globalcache.client.wire import pack
from globalcache.errors import ConfigError
from globalcache.loaders.connection import PushedLoad, WorkerConnection
from globalcache.loaders.loader_queue import CLOSE, Load, LoaderQueue, log, text_of_key, wait_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from globalcache.client.address import Address
    from globalcache.client.loader import Loader
    from globalcache.client.wire import Words

# Seconds between two looks at the time of loads.
_TICK = 0.25
_CONNECT_TIMEOUT = 5.0
_RECONNECT = (0.05, 2.0)
# What loads under way are given to end when the worker is told to stop; then what those that are cancelled are given,
# before the loaders close their connections. The sum of all three is less than the grace of a supervisor.
_GRACE, _CLEANUP = 5.0, 1.0
LONGEST_END = _GRACE + _CLEANUP + CLOSE
# A server that has been silent so long is asked for a sign of life; the connection is given up later.
_PING_AFTER, _DEAD_AFTER = 5.0, 15.0
# Loads that a connection can have at a time at most.
_MOST_LOADS = 1 << 16
_LONGEST_CAUSE = 300
# Between two errors in the log of one kind, in seconds.
_COMPLAINT = 3600.0


class Worker:
    """Loads for one server.

    `encode` gives a value of a type as bytes and flags, and raises TypeError for what it cannot; `prefix` stands before
    every key and tag, as the namespace of the cache, and `tags` are given to all that is filled. `tls` is for addresses
    that have it; `tell_text` sends the text of exceptions to clients, not only the name of their class. `clock` returns
    seconds.
    """

    def __init__(  # noqa: PLR0913 - an option each
        self,
        loaders: Iterable[Loader],
        address: Address,
        encode: Callable[[Any, Any], tuple[bytes, int]],
        *,
        prefix: str = "",
        tags: Sequence[bytes] = (),
        tls: ssl.SSLContext | None = None,
        tell_text: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.tls = tls
        self.tell_text = tell_text
        # Bytes of the longest value, and for how many milliseconds an absence is kept at least: by the greeting.
        self.max_value = self.least_absence = 0
        self.clock = clock
        self.prefix = prefix
        self.tags = tags
        self.encode = encode
        self.queues = [LoaderQueue(loader, self) for loader in loaders]
        if not self.queues:
            raise ConfigError("the cache has no loaders: decorate a function with @cache.loader")
        self._stop = asyncio.Event()
        self._lost = asyncio.Event()
        self._connection: WorkerConnection | None = None
        self._complained: dict[str, float] = {}

    @property
    def patterns(self) -> list[bytes]:
        """The patterns of the keys that it loads."""
        return patterns_of((queue.loader for queue in self.queues), self.prefix)

    def stop(self) -> None:
        """Take no more loads, end those under way, and then end `run`, LONGEST_END seconds later at the latest."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until told to stop; `ready` is called each time the server knows of it."""
        ticking = asyncio.create_task(self._tick())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._serve(ready, stopping)
            await self._drain()
        finally:
            ticking.cancel()
            stopping.cancel()
            await asyncio.gather(*(queue.close() for queue in self.queues))
            if self._connection is not None:
                self._connection.close()
                await asyncio.sleep(0)

    async def _serve(self, ready: Callable[[], None], stopping: asyncio.Task[Any]) -> None:
        pause, is_away = _RECONNECT[0], False
        while not self._stop.is_set():
            try:
                is_known = await self._unless_stopped(self._connect(), stopping)
            except (OSError, TimeoutError) as error:
                # Once for each time that the server is away.
                level = logging.DEBUG if is_away else logging.WARNING
                log.log(level, "%s: %s; trying again", self.address, error or "no answer in time")
                is_away = True
                await asyncio.wait([stopping], timeout=pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(pause * 2, _RECONNECT[1])
                continue
            if is_known:
                pause, is_away = _RECONNECT[0], False
                ready()
                await self._unless_stopped(self._lost.wait(), stopping)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any], stopping: asyncio.Task[Any]) -> bool:
        """Do it unless the worker is told to stop before it is done; returns whether it was. Raises what it raises."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_done = not task.cancel()
        if is_done:
            await task
        else:
            await asyncio.gather(task, return_exceptions=True)
        return is_done

    async def _connect(self) -> None:
        self._lost.clear()
        self._connection = None
        connection: WorkerConnection | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                connection = await self._open()
                self._connection = connection
                await self._greet(connection)
        except BaseException:
            # A connection that was refused, or answered too late, must not stay open beside the next one.
            self._connection = None
            self._drop_waiting()
            if connection is not None:
                connection.abort()
            raise

    async def _open(self) -> WorkerConnection:
        loop = asyncio.get_running_loop()

        def make() -> WorkerConnection:
            return WorkerConnection(self._take, self._lost_it, self._refused)

        address = self.address
        if address.kind == "unix":
            return (await loop.create_unix_connection(make, address.path))[1]
        tls = (self.tls or True) if address.tls else None
        return (await loop.create_connection(make, address.host, address.port, ssl=tls))[1]

    async def _greet(self, connection: WorkerConnection) -> None:
        name = f"worker:{os.getpid()}".encode()
        await connection.ask([hello(self.address, name), *select(self.address)])
        await self._ask_limits(connection)
        credit = min(sum(queue.credit for queue in self.queues), _MOST_LOADS)
        await connection.ask([self._registration(credit)])

    def _registration(self, credit: int) -> Words:
        """Return the command that says what the worker loads, and how many loads it may have at a time."""
        return (b"CACHE.LOADER", *self.patterns, b"INFLIGHT", b"%d" % credit)

    async def _ask_limits(self, connection: WorkerConnection) -> None:
        """Ask how long a value may be and how an absence is kept, and say what this client is."""
        own = os.urandom(8).hex().encode()
        session, _ = await connection.ask_all([(b"CACHE.SESSION", own, b"1"), LIB_NAME])
        facts = session if isinstance(session, dict) else {}  # a user who may not ask
        self.max_value = facts.get(b"max_value") or longest_value(*await connection.ask_all([ASK_LONGEST]))
        self.least_absence = least_absence(facts)

    def _lost_it(self, connection: WorkerConnection) -> None:
        if connection is not self._connection:
            return  # one that was given up before
        self._drop_waiting()
        self._lost.set()

    def _drop_waiting(self) -> None:
        """Forget what was not begun: the server hands the leases of a connection that has ended to others."""
        for queue in self.queues:
            queue.waiting.clear()

    def _refused(self, load: Any, error: str) -> None:
        """Answer for a value that the server did not take; its lease would last on."""
        if load is not None:
            self.complain("refused", f"{text_of_key(load.key)}: the server refused its value: {error}")
            self.fail(load.key, load.token, "the server refused its value")
        else:
            self.complain("answer", f"the server refused an answer: {error}")

    def complain(self, about: str, text: str) -> None:
        """Log what may come with every load: an error once an hour, and at level debug in between."""
        now = self.clock()
        is_new = now - self._complained.get(about, -_COMPLAINT) >= _COMPLAINT
        if is_new:
            self._complained[about] = now
        log.log(logging.ERROR if is_new else logging.DEBUG, "%s", text)

    def _take(self, pushed: list[PushedLoad]) -> None:
        if self._stop.is_set():
            return  # the end of the connection hands them to others
        now = self.clock()
        queues_with_more = set()
        for key, token in pushed:
            queue, values, cause = self._route(key)
            if queue is None:
                self.fail(key, token, cause)
                continue
            queue.waiting.append(Load(key, token, values, now, now))
            queues_with_more.add(queue)
        for queue in queues_with_more:
            queue.pump()

    def _route(self, key: bytes) -> tuple[LoaderQueue | None, Sequence[Any], str]:
        """Find the loader whose key this is, and the values in it."""
        try:
            text = key.decode().removeprefix(self.prefix)
        except UnicodeDecodeError:
            return None, (), "the key is no UTF-8"
        cause = "no loader has such keys"
        for queue in self.queues:
            if text.startswith(queue.loader.template.prefix):
                try:
                    return queue, queue.loader.template.parse(text), ""
                except BaseException as error:  # noqa: BLE001 - whatever reads the fields of a key
                    cause = text_of(error).removeprefix(f"{text}: ")
        return None, (), cause

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = self.clock()
            for queue in self.queues:
                queue.tick(now)
            if self._connection is not None:
                self._connection.check(_PING_AFTER, _DEAD_AFTER)

    async def _drain(self) -> None:
        """Answer for what was begun; the rest is for others. Waits for no call that does not end when cancelled."""
        if self._connection is not None:
            self.say(pack(self._registration(1)))
        for queue in self.queues:
            for load in queue.waiting:
                self.release(load)
            queue.waiting.clear()
        await wait_for([batch.task for queue in self.queues for batch in queue.batches if batch.loads], _GRACE)
        await wait_for([task for queue in self.queues for task in queue.give_back()], _CLEANUP)

    def say(self, data: bytes, load: Load | None = None) -> None:
        """Send one command, for a load if it fills one; dropped while there is no connection: its lease passes on."""
        if self._connection is not None:
            self._connection.say(data, load)

    def fail(self, key: bytes, token: int, cause: str, retry_ms: int | None = None) -> None:
        """Say that a load failed, and why."""
        # One line, as a reply is.
        line = " ".join(cause[:_LONGEST_CAUSE].split())
        words: Words = (b"CACHE.FAIL", key, b"%d" % token, line.encode(errors="backslashreplace"))
        if retry_ms is not None:
            words += (b"RETRY", b"%d" % retry_ms)
        self.say(pack(words))

    def release(self, load: Load) -> None:
        """Hand a load to somebody else."""
        self.say(pack((b"CACHE.RELEASE", load.key, b"%d" % load.token)))

    def renew(self, load: Load, now: float) -> None:
        """Keep the lease of a load."""
        load.renewed = now
        self.say(pack((b"CACHE.RENEW", load.key, b"%d" % load.token, b"%d" % LEASE_MS)))


def patterns_of(loaders: Iterable[Loader], prefix: str = "") -> list[bytes]:
    """Return the patterns of all keys of these loaders, as the server is told."""
    escaped = "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix)
    return [(escaped + loader.template.pattern).encode() for loader in loaders]
