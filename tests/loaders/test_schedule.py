"""A worker in virtual time, with a server that is played: every load is answered once, in time, whatever loaders do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import selectors
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hiredis
import msgspec
import pytest

from globalcache.client.address import Address
from globalcache.client.decorators import Decorators
from globalcache.loaders import loader_queue
from globalcache.loaders.worker import LONGEST_END, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ANSWERS = (b"CACHE.FILL", b"CACHE.FAIL", b"CACHE.RELEASE")
# Twice the time between two looks at the clock.
SLACK = 0.6


class Panic(BaseException):
    """What an extension in Rust raises: neither an Exception nor one of Python's own."""


class Mute(Exception):  # noqa: N818 - as applications name it
    """An exception whose text cannot be made."""

    def __str__(self) -> str:
        raise Panic


class Clockwork(selectors.DefaultSelector):
    """A selector that lets the time of its loop pass instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing more will ever happen"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, whose connections lead to the server that is played."""

    server: Server

    def __init__(self) -> None:
        self.clockwork = Clockwork()
        super().__init__(self.clockwork)

    def time(self) -> float:
        return self.clockwork.now

    async def create_connection(self, make: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        if self.server.is_away:
            raise ConnectionRefusedError("nobody listens")
        protocol = make()
        wire = Wire(self, protocol)
        protocol.connection_made(wire)
        self.server.wire = wire
        return wire, protocol


class Wire(asyncio.Transport):
    """The server's end of one connection."""

    def __init__(self, loop: Loop, protocol: Any) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.is_open = True
        self._unread: list[tuple[float, bytes]] = []
        self._reader = hiredis.Reader()

    def write(self, data: Any) -> None:
        self._unread.append((self.loop.time(), bytes(data)))
        if not self.loop.server.is_silent:
            self.read()

    def read(self) -> None:
        """Answer what was written."""
        for at, data in self._unread:
            self._reader.feed(data)
            while (words := self._reader.gets()) is not False:
                self.send(self.loop.server.reply(at, words))
        self._unread.clear()

    def send(self, data: bytes) -> None:
        self.loop.call_soon(lambda: self.protocol.data_received(data) if self.is_open else None)

    def abort(self) -> None:
        if self.is_open:
            self.is_open = False
            self.loop.server.lose()
            self.loop.call_soon(self.protocol.connection_lost, None)

    close = abort


class Server:
    """Assigns loads and notes what it is told of them, by token: the time and the command."""

    def __init__(self, loop: Loop, draw: random.Random | None = None) -> None:
        self.loop = loop
        self.draw = draw
        self.wire: Wire | None = None
        self.is_away = self.is_silent = False
        self.said: dict[int, list[tuple[float, bytes]]] = defaultdict(list)
        self.assigned: dict[int, tuple[bytes, float]] = {}
        self.lost: set[int] = set()
        self.refused: set[int] = set()
        self.commands: Counter[bytes] = Counter()
        self.ending = 0.0  # seconds that the worker took to end

    def reply(self, at: float, words: list[bytes]) -> bytes:
        self.commands[words[0]] += 1
        if words[0] in ANSWERS or words[0] == b"CACHE.RENEW":
            token = int(words[2])
            self.said[token].append((at, words[0]))
            if words[0] == b"CACHE.FILL" and self.draw is not None and self.draw.random() < 0.1:
                self.refused.add(token)
                return b"-ERR no room for it\r\n"
        return b"+OK\r\n"

    def assign(self, *keys: str) -> list[int]:
        """Send loads together; returns their tokens."""
        tokens = [len(self.assigned) + place for place, _ in enumerate(keys)]
        pairs = []
        for token, key in zip(tokens, keys, strict=True):
            self.assigned[token] = key.encode(), self.loop.time()
            pairs.append(b"*2\r\n$%d\r\n%b\r\n:%d\r\n" % (len(key), key.encode(), token))
        if self.wire is not None and self.wire.is_open and not self.is_silent:
            self.wire.send(b">%d\r\n$4\r\nload\r\n" % (1 + len(pairs)) + b"".join(pairs))
        else:
            self.lost.update(tokens)
        return tokens

    def speak(self) -> None:
        """End a silence: what was written meanwhile on a connection that is still there is answered."""
        self.is_silent = False
        if self.wire is not None and self.wire.is_open:
            self.wire.read()

    def lose(self) -> None:
        """Note that the leases of a connection pass on with it."""
        self.lost.update(token for token in self.assigned if self.answers(token) != self.wanted(token))

    def answers(self, token: int) -> list[bytes]:
        return [word for _, word in self.said[token] if word in ANSWERS]

    def wanted(self, token: int) -> list[bytes]:
        """Return the answers that a load should have: one; after a FILL that was refused its failure as well."""
        if token in self.refused:
            return [b"CACHE.FILL", b"CACHE.FAIL"]
        return self.answers(token)[:1] or [b"any"]


def encode(value: Any, _: Any) -> tuple[bytes, int]:
    if isinstance(value, BaseException):
        raise value
    return str(value).encode(), 0


def play(story: Callable[[Server], Coroutine[Any, Any, None]], cache: Decorators, **options: Any) -> Server:
    """Tell a story to a worker and stop it, which must end it in time. `freed` lets stuck calls end."""
    loop = Loop()
    loop.server = server = Server(loop, options.get("draw"))
    freed: asyncio.Event | None = options.get("freed")

    async def run() -> None:
        loaders = options.get("loaders") or cache.loaders.values()
        worker = Worker(loaders, Address.parse("127.0.0.1:1"), encode, clock=loop.time)
        ready = asyncio.Event()
        running = asyncio.create_task(worker.run(ready.set))
        await asyncio.wait_for(ready.wait(), 100)
        try:
            await story(server)
        finally:
            worker.stop()
            begun = loop.time()
            await asyncio.wait([running], timeout=60)
            server.ending = loop.time() - begun
            if freed is not None:
                freed.set()
            await running
        assert server.ending <= LONGEST_END + SLACK

    try:
        loop.run_until_complete(run())
        # Calls that are stuck end now; the loop is closed without them otherwise.
        while tasks := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
    finally:
        loop.close()
    return server


async def hang(freed: asyncio.Event, cancels: int = 1 << 30) -> None:
    """Hang as a clean-up against a database that does not answer: so many cancellations do not end it."""
    while not freed.is_set():
        try:
            await freed.wait()
        except asyncio.CancelledError:
            cancels -= 1
            if cancels < 0:
                raise


def check_once(server: Server, limits: dict[bytes, float]) -> None:
    """Each load has one answer in time, and no renewal after it. Loads that were lost may have none."""
    for token, (key, since) in server.assigned.items():
        answers, wanted = server.answers(token), server.wanted(token)
        assert answers == wanted or (token in server.lost and answers == wanted[: len(answers)]), (key, answers)
        limit = 2 * limits[key[:2]] + SLACK
        assert all(at - since <= limit for at, _ in server.said[token]), (key, since, server.said[token])
        assert not answers or server.said[token][-1][1] in ANSWERS, (key, server.said[token])


@pytest.mark.parametrize("kind", ["one", "batch"])
def test_a_call_that_ignores_cancellation_times_out(kind: str) -> None:
    """`finally: await rollback()` against a hung database: FAIL at once, no renewal after it, and the lane goes on."""
    cache, freed = Decorators(), asyncio.Event()

    async def load(id: int) -> int:
        if id < 10:
            await hang(freed)
        return id

    if kind == "one":
        cache.loader("x:{id:int}", timeout="2s", concurrency=2)(load)
    else:

        @cache.batch_loader("x:{id:int}", timeout="2s", concurrency=2, max_batch_size=1)
        async def load_many(ids: list[int]) -> dict[int, int]:
            return {each: await load(each) for each in ids}

    async def story(server: Server) -> None:
        server.assign("x:1")
        await asyncio.sleep(2 + SLACK)
        server.assign("x:10")
        await asyncio.sleep(SLACK)
        server.assign("x:2")
        await asyncio.sleep(3 + SLACK)
        # Both calls that may run at a time are stuck: an answer at once.
        server.assign("x:11")
        await asyncio.sleep(SLACK)
        freed.set()
        await asyncio.sleep(SLACK)
        server.assign("x:12")
        await asyncio.sleep(SLACK)

    server = play(story, cache, freed=freed)
    fill, fail = [b"CACHE.FILL"], [b"CACHE.FAIL"]
    assert [server.answers(token) for token in range(5)] == [fail, fill, fail, fail, fill]
    assert [word for _, word in server.said[0]] == [b"CACHE.RENEW", b"CACHE.FAIL"]
    check_once(server, {b"x:": 2.0})


def test_a_clean_up_that_hangs_is_cancelled_too() -> None:
    """It has as long as the load had; then its place is free for others."""
    cache, freed = Decorators(), asyncio.Event()

    @cache.loader("x:{id:int}", timeout="2s", concurrency=1)
    async def load(id: int) -> int:
        if id < 10:
            await hang(freed, cancels=1)
        return id

    async def story(server: Server) -> None:
        server.assign("x:1")
        await asyncio.sleep(4 + 2 * SLACK)
        server.assign("x:10")
        await asyncio.sleep(SLACK)

    server = play(story, cache, freed=freed)
    assert [server.answers(token) for token in range(2)] == [[b"CACHE.FAIL"], [b"CACHE.FILL"]]


def test_what_is_returned_at_a_cancellation_is_no_answer() -> None:
    """`except BaseException: return None` would fill "no such row", at the time-out and at the end of the worker."""
    cache = Decorators()

    @cache.loader("x:{id:int}", timeout="10s")
    async def load(id: int) -> int | None:  # noqa: ARG001 - it stands in the key
        with suppress(BaseException):
            await asyncio.sleep(3600)
        return None

    async def story(server: Server) -> None:
        server.assign("x:1")
        await asyncio.sleep(11)
        server.assign("x:2")
        await asyncio.sleep(1)

    server = play(story, cache)
    assert [server.answers(token) for token in range(2)] == [[b"CACHE.FAIL"], [b"CACHE.RELEASE"]]


@pytest.mark.parametrize("what", ["a load", "close", "connect"])
def test_the_end_waits_for_nothing_that_hangs(what: str) -> None:
    """A load that is stuck, a loader whose connections cannot be closed, and a server that does not answer HELLO."""
    cache, freed = Decorators(), asyncio.Event()

    @cache.loader("x:{id:int}", timeout="100s")
    async def load(id: int) -> int:
        await hang(freed)
        return id

    async def close() -> None:
        await hang(freed)

    loaders = [msgspec.structs.replace(loader, close=close) for loader in cache.loaders.values()]

    async def story(server: Server) -> None:
        if what == "a load":
            server.assign("x:1")
            await asyncio.sleep(1)
        elif what == "connect":
            server.is_silent = True
            assert server.wire is not None
            server.wire.abort()
            await asyncio.sleep(1)

    server = play(story, cache, freed=freed, loaders=loaders if what != "connect" else None)
    assert what != "a load" or server.answers(0) == [b"CACHE.RELEASE"]
    assert what != "connect" or server.ending < SLACK


@pytest.mark.parametrize("error", [Panic(), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), Mute()])
def test_a_serializer_may_raise_anything(error: BaseException) -> None:
    """Its load fails, and none of the others in its batch does, unless not even the text of the error can be made."""
    cache = Decorators()

    @cache.batch_loader("x:{id:int}", max_batch_size=3)
    async def load(ids: list[int]) -> dict[int, Any]:
        return {each: error if each == 1 else each for each in ids}

    async def story(server: Server) -> None:
        server.assign("x:0", "x:1", "x:2")
        await asyncio.sleep(1)

    server = play(story, cache)
    last = b"CACHE.FAIL" if isinstance(error, Mute) else b"CACHE.FILL"
    assert [server.answers(token) for token in range(3)] == [[b"CACHE.FILL"], [b"CACHE.FAIL"], [last]]


def test_a_server_that_vanished_is_noticed() -> None:
    """An idle worker says nothing, so a peer that is gone without a word would be waited for without an end."""
    cache = Decorators()

    @cache.loader("x:{id:int}")
    async def load(id: int) -> int:
        return id

    async def story(server: Server) -> None:
        await asyncio.sleep(60)
        assert server.commands[b"HELLO"] == 1
        assert 10 <= server.commands[b"PING"] <= 12
        server.is_silent = True
        await asyncio.sleep(16)
        server.speak()
        await asyncio.sleep(10)
        assert server.commands[b"HELLO"] == 2
        server.assign("x:1")
        await asyncio.sleep(1)

    server = play(story, cache)
    assert server.answers(0) == [b"CACHE.FILL"]


class Drawn:
    """Loaders of three kinds that do at random what loaders do; the number in a key says what."""

    ENDS = (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Panic)

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.freed = asyncio.Event()
        self.running: Counter[str] = Counter()
        self.limits = {b"a:": 2.0, b"b:": 3.0, b"c:": 2.0}
        self.places = {"a": 2, "b": 1, "c": 2}
        self.cache = cache = Decorators()
        cache.loader("a:{id:int}", timeout="2s", concurrency=2)(self._one())
        cache.batch_loader("b:{id:int}", timeout="3s", concurrency=1, max_batch_size=3, max_wait="10ms")(self._many())
        cache.loader("c:{id:int}", timeout="2s", concurrency=2)(self._sync())

    def _one(self) -> Any:
        async def one(id: int) -> Any:
            return await self._do("a", id)

        return one

    def _many(self) -> Any:
        async def many(ids: list[int]) -> dict[int, Any]:
            value = await self._do("b", max(ids))
            return dict.fromkeys(ids, value)

        return many

    def _sync(self) -> Any:
        def sync(id: int, end: Any = None) -> Any:
            self._enter("c")
            loop = asyncio.get_running_loop()
            draw = random.Random(id)
            seconds = 0.0 if id < 10 else draw.choice([0.0, 0.1, 1.9, 2.1, 5.0, 30.0])
            value = id if id < 10 else draw.choice([id, Panic(), None])

            def leave() -> None:
                self.running["c"] -= 1
                end(value)

            loop.call_later(seconds, leave)

        def load(id: int) -> Any:  # noqa: ARG001 - it stands in the key
            raise AssertionError("played by Threads")

        load.played = sync  # type: ignore[attr-defined]
        return load

    def _enter(self, lane: str) -> None:
        self.running[lane] += 1
        assert self.running[lane] <= self.places[lane]

    async def _do(self, lane: str, id: int) -> Any:
        self._enter(lane)
        try:
            return await self._behave(random.Random(id)) if id >= 10 else id
        finally:
            self.running[lane] -= 1

    async def _behave(self, draw: random.Random) -> Any:
        await asyncio.sleep(draw.choice([0, 0, 0.1, 1.9, 2.1, 10]))
        match draw.randrange(5):
            case 0:
                raise draw.choice(self.ENDS)
            case 1:
                await hang(self.freed, draw.choice([0, 1, 2, 1 << 30]))
            case 2:
                return draw.choice(self.ENDS)()  # which its serializer raises
            case 3:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(draw.choice([1, 20]))
        return draw.choice([None, 1])


class Threads(concurrent.futures.Executor):
    """Threads that are played: the function says when it ends, and by what."""

    def __init__(self, *names: Any) -> None:
        pass

    def submit(self, run: Any, /, *args: Any, **names: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        _, function, item = args

        def end(value: Any) -> None:
            future.set_result((None, value) if isinstance(value, Panic) else (value, None))

        function.played(item, end)
        return future


async def probe(server: Server, drawn: Drawn) -> None:
    """Load a key that is well in each lane: it is filled, unless stuck calls have all places; then it fails at once."""
    for lane in "abc":
        is_full = drawn.running[lane] == drawn.places[lane]
        (token,) = server.assign(f"{lane}:{drawn.draw.randrange(10)}")
        await asyncio.sleep(2 * SLACK)
        assert server.answers(token), (lane, is_full)
        assert is_full or server.answers(token)[0] == b"CACHE.FILL", (lane, server.said[token])


async def disturb(server: Server, draw: random.Random) -> None:
    """Lose the connection, or have the server be away or silent for up to a minute."""
    what = draw.randrange(3)
    server.is_away, server.is_silent = what == 1, what == 2
    assert server.wire is not None
    if what < 2:
        server.wire.abort()
    await asyncio.sleep(draw.choice([0, 1, 60]))
    server.is_away = False
    server.speak()


@pytest.mark.parametrize("seed", range(60))
def test_random_loads_are_answered_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that hang, return late or raise anything; a connection that is lost, silent or away; refused FILLs."""
    monkeypatch.setattr(loader_queue, "ThreadPoolExecutor", Threads)
    draw = random.Random(seed)
    drawn = Drawn(draw)

    async def story(server: Server) -> None:
        for _ in range(80):
            await asyncio.sleep(draw.choice([0, 0.05, 0.3, 2]))
            server.assign(*(f"{draw.choice('abc')}:{draw.randrange(1000)}" for _ in range(draw.randrange(1, 5))))
            if draw.random() < 0.05 and server.wire is not None:
                await disturb(server, draw)
        await asyncio.sleep(30)
        await probe(server, drawn)
        server.assign("a:10", "b:11", "c:12")

    server = play(story, drawn.cache, freed=drawn.freed, draw=draw)
    check_once(server, drawn.limits)
    assert {b"CACHE.FILL", b"CACHE.FAIL", b"CACHE.RENEW"} <= server.commands.keys()
