"""Loads without a server: one at a time for each key of a process, shared by threads, tasks and event loops."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import Cache, LoadError
from globalcache.client.flights import Flight, _leads_to
from globalcache.client.guard import Guard
from globalcache.client.holder import Holder
from globalcache.contrib.testing import CacheForTests
from tests.client.faces import Face
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

AWAY = "globalcache://127.0.0.1:1"
GUARD = Guard("load")
_number = itertools.count()
# Who calls first and who second: a thread, or a task in an event loop of its own.
PAIRS = [("thread", "thread"), ("task", "task"), ("thread", "task"), ("task", "thread")]


class Sick(Exception):  # noqa: N818 - as applications name it
    """The database is away."""


class World:
    """One cache, and callers of both kinds that each have a thread, which is an event loop if they are tasks."""

    def __init__(self, url: str = AWAY, **options: Any) -> None:
        self.cache = Cache(url, timeout=0.2, **options)
        self.pool = ThreadPoolExecutor(20)
        self.calls: list[list[str]] = []

    def call(self, kind: str, keys: str | list[str], load: Callable[..., Any]) -> Future[Any]:
        """Ask for a key or a batch. `load` is a plain function; in a task it runs in another thread."""
        name = "get_or_load" if isinstance(keys, str) else "get_or_load_many"
        if kind == "thread":
            return self.pool.submit(getattr(self.cache, name), keys, load)

        async def run() -> Any:
            guard = self.cache._failures.guard_of(load)  # noqa: SLF001 - as if it were called itself
            return await getattr(self.cache.aio, name)(keys, partial(asyncio.to_thread, load), guard=guard)

        return self.pool.submit(lambda: asyncio.run(run()))

    def held(self, go: threading.Event | None = None) -> Callable[[list[str]], dict[str, str]]:
        """Return a function for batches that notes its calls, and returns when it may."""

        def load_many(keys: list[str]) -> dict[str, str]:
            self.calls.append(keys)
            assert go is None or go.wait(20)
            return {key: key.upper() for key in keys}

        return load_many

    @property
    def is_idle(self) -> bool:
        """Whether no load runs, and none has a room."""
        flights = self.cache._state.flights  # noqa: SLF001
        return not len(flights) and not flights.slots.taken

    def waits(self, count: int) -> None:
        """Wait until so many calls have found no server, and a moment longer, until they have found a load or begun."""
        until(lambda: self.cache.stats()["errors"] >= count)
        time.sleep(0.02)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_overlapping_batches_load_each_key_once(first: str, second: str) -> None:
    """{a, b} is being loaded when {b, c} is asked for: c is loaded meanwhile, and b is taken from the other load."""
    world, go = World(), threading.Event()
    one = world.call(first, ["a", "b"], world.held(go))
    until(lambda: world.calls == [["a", "b"]])
    other = world.call(second, ["b", "c"], world.held())
    until(lambda: ["c"] in world.calls)
    assert not other.done()
    go.set()
    assert one.result(20) == {"a": "A", "b": "B"}
    assert other.result(20) == {"b": "B", "c": "C"}
    assert world.calls == [["a", "b"], ["c"]]
    until(lambda: world.is_idle)


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("is_batch_first", [True, False])
def test_a_key_and_a_batch_load_it_once(first: str, second: str, is_batch_first: bool) -> None:
    """A key is asked for alone while a batch with it is loaded, and the other way round."""
    world, go = World(), threading.Event()

    def load() -> str:
        return world.held(go)(["b"])["b"]

    if is_batch_first:
        one = world.call(first, ["a", "b"], world.held(go))
        until(lambda: world.calls == [["a", "b"]])
        other = world.call(second, "b", load)
        world.waits(2)
        expected: list[Any] = [{"a": "A", "b": "B"}, "B", [["a", "b"]]]
    else:
        one = world.call(first, "b", load)
        until(lambda: world.calls == [["b"]])
        other = world.call(second, ["a", "b"], world.held())
        until(lambda: ["a"] in world.calls)
        expected = ["B", {"a": "A", "b": "B"}, [["b"], ["a"]]]
    go.set()
    assert [one.result(20), other.result(20), world.calls] == expected


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_failed_key_does_not_fail_its_batch(kind: str) -> None:
    """One of three has failed by one function a moment ago. Another one that has the key runs, and gives all three."""
    world = World()

    def fail() -> Any:
        raise Sick

    with pytest.raises(Sick):
        world.call(kind, "x", fail).result(20)
    assert world.call(kind, ["x", "y", "z"], world.held()).result(20) == {"x": "X", "y": "Y", "z": "Z"}
    assert world.calls == [["x", "y", "z"]]


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_key_is_held_off_alone(kind: str) -> None:
    """A batch loader fails for x. Within 100 ms it is asked for x, y and z: it loads two, and what it raised is raised.

    After that time it is asked for x again.
    """
    world = CacheForTests()
    error, calls = Sick(), list[list[str]]()

    def load_many(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        if calls == [["x"]]:
            raise error
        return {key: key.upper() for key in keys}

    def call(keys: list[str]) -> Any:
        if kind == "thread":
            return world.get_or_load_many(keys, load_many)
        return asyncio.run(world.aio.get_or_load_many(keys, load_many))

    with world.faults.dead():
        for keys in (["x"], ["x", "y", "z"]):
            with pytest.raises(Sick) as caught:
                call(keys)
            assert caught.value is error
        world.clock.advance(0.11)
        assert call(["x", "y"]) == {"x": "X", "y": "Y"}
    assert calls == [["x"], ["y", "z"], ["x", "y"]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_failure_is_for_callers_of_the_same_function(first: str, second: str) -> None:
    """The load of b fails while a batch with another function waits for it: that one runs its own for b."""
    world, go = World(), threading.Event()

    def fail() -> Any:
        assert go.wait(20)
        raise Sick

    one = world.call(first, "b", fail)
    world.waits(1)
    other = world.call(second, ["a", "b"], world.held())
    until(lambda: world.calls == [["a"]])
    go.set()
    with pytest.raises(Sick):
        one.result(20)
    assert other.result(20) == {"a": "A", "b": "B"}
    assert world.calls == [["a"], ["b"]]


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit])
def test_what_ends_a_caller_ends_no_other_task(error: type[BaseException]) -> None:
    """A load raises by itself what looks as if its caller was cancelled. Four others wait: theirs is a failed load."""

    async def run() -> None:
        cache, loads = Cache(AWAY, timeout=0.2).aio, 0

        async def load() -> Any:
            nonlocal loads
            loads += 1
            while cache.stats()["errors"] < 5:  # noqa: ASYNC110 - it is no event
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            raise error

        async def call() -> str:
            try:
                await cache.get_or_load("k", load)
            except error:
                return "its own"
            except LoadError as failure:
                return f"{failure.key} {failure.cause_class}"
            return "a value"

        failed = "asyncio.exceptions.CancelledError" if error is asyncio.CancelledError else "SystemExit"
        assert sorted(await asyncio.gather(*(call() for _ in range(5)))) == sorted(["its own"] + [f"k {failed}"] * 4)
        assert loads == 1
        # It is known to be away.
        assert await cache.get_or_load("k", lambda: 7) == 7

    asyncio.run(run())


def test_an_exit_of_a_thread_ends_no_other_thread() -> None:
    world, go = World(), threading.Event()

    def leave() -> Any:
        assert go.wait(20)
        raise SystemExit(3)

    calls = [world.call("thread", "k", leave) for _ in range(5)]
    world.waits(5)
    go.set()
    got = [type(call.exception(20)) for call in calls]
    assert sorted(kind.__name__ for kind in got) == ["LoadError"] * 4 + ["SystemExit"]


def test_a_caller_that_is_cancelled_leaves_its_load_to_others() -> None:
    async def run() -> None:
        cache, go, loads = Cache(AWAY, timeout=0.2).aio, asyncio.Event(), list[list[str]]()

        async def load_many(keys: list[str]) -> dict[str, int]:
            loads.append(keys)
            await go.wait()
            return dict.fromkeys(keys, 7)

        one = asyncio.create_task(cache.get_or_load_many(["a", "b"], load_many))
        while not loads:  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0)
        other = asyncio.create_task(cache.get_or_load_many(["b"], load_many))
        await asyncio.sleep(0.01)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        assert one.cancelled()
        go.set()
        assert await other == {"b": 7}
        assert loads == [["a", "b"]]

    asyncio.run(run())


# Room for loads


def test_threads_and_tasks_share_the_room_for_loads() -> None:
    world, running, most = World(local_loads=3), list[int](), list[int]()
    go = threading.Event()

    def load() -> int:
        running.append(1)
        most.append(len(running))
        assert go.wait(20)
        return running.pop()

    calls = [world.call(("thread", "task")[number % 2], f"k{number}", load) for number in range(12)]
    world.waits(12)
    assert len(most) == 3
    go.set()
    assert [call.result(20) for call in calls] == [1] * 12
    assert max(most) == 3
    until(lambda: world.is_idle)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_load_does_not_wait_for_one_that_needs_its_room(first: str, second: str) -> None:
    """One load may run. That of a asks for c, which waits for room: a loads it in its own, for both callers."""
    world, go = World(local_loads=1), threading.Event()

    def inner() -> str:
        return world.held()(["c"])["c"]

    def outer() -> Any:
        assert go.wait(20)
        return world.cache.get_or_load("c", inner)

    one = world.call(first, "a", outer)
    until(lambda: len(world.cache._state.flights.slots.taken) == 1)  # noqa: SLF001
    other = world.call(second, "c", inner)
    until(lambda: b"c" in world.cache._state.flights)  # noqa: SLF001
    go.set()
    assert [one.result(20), other.result(20)] == ["C", "C"]
    until(lambda: world.is_idle)


def test_a_plain_call_does_not_wait_for_tasks_of_its_loop() -> None:
    """A task loads a, and has all the room. A plain call in that loop asks for a and b: both are loaded at once.

    Until it returns the task cannot go on.
    """

    async def run() -> None:
        world, go = World(local_loads=1), asyncio.Event()

        async def load() -> int:
            await go.wait()
            return 1

        task = asyncio.create_task(world.cache.aio.get_or_load("a", load))
        slots = world.cache._state.flights.slots  # noqa: SLF001
        while not slots.taken and not task.done():  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0.001)
        assert len(slots.taken) == 1
        assert [world.cache.get_or_load(key, lambda: 2, wait=5) for key in "ab"] == [2, 2]
        go.set()
        assert await task == 1

    asyncio.run(run())


# Loads that ask for each other


def test_batches_that_ask_for_keys_of_each_other() -> None:
    """The load of {a, b} asks for c while that of {c, d} asks for b. No key needs itself, so all get their values."""
    world, both = World(), threading.Barrier(2)

    def asking(key: str) -> Callable[[list[str]], dict[str, str]]:
        def load_many(keys: list[str]) -> dict[str, str]:
            if not both.broken and len(keys) == 2:
                both.wait(20)
                assert world.cache.get_or_load_many([key], world.held(), wait=20) == {key: key.upper()}
            return world.held()(keys)

        return load_many

    one = world.call("thread", ["a", "b"], asking("c"))
    other = world.call("thread", ["c", "d"], asking("b"))
    assert one.result(20) == {"a": "A", "b": "B"}
    assert other.result(20) == {"c": "C", "d": "D"}
    until(lambda: world.is_idle)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_keys_that_need_each_other_are_told(first: str, second: str) -> None:
    """The load of a asks for b while that of b asks for a. Neither waits for the other for ever."""
    world, both, met = World(), threading.Barrier(2), list[str]()

    def need(key: str, other: str) -> Callable[[], Any]:
        def load() -> Any:
            if len(met) < 2:
                met.append(key)
                both.wait(20)
            return world.cache.get_or_load(other, need(other, key), wait=20)

        return load

    calls = [world.call(first, "a", need("a", "b")), world.call(second, "b", need("b", "a"))]
    for call in calls:
        with pytest.raises(LoadError, match="its load asks for itself: "):
            call.result(20)


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_batch_whose_load_asks_for_one_of_its_keys(kind: str) -> None:
    world = World()

    def load_many(keys: list[str]) -> Any:
        return world.cache.get_or_load_many(["c", keys[0]], load_many)

    with pytest.raises(LoadError, match="a: its load asks for itself: a -> b -> a"):
        world.call(kind, ["a", "b"], load_many).result(20)
    until(lambda: world.is_idle)


# What a key is loaded as, and two.
VALUE: dict[bool, Any] = {False: 7, True: {"a": 7, "b": 7}}
# Of each pair, two places where an equal key is another one; and two names of one place.
OTHERS = {
    "memory": ("memory://one", "memory://other"),
    "no name": ("memory://", "memory://"),
    "null": ("null://", "null://"),
    "away": (AWAY, "globalcache://127.0.0.1:2"),
    "databases": (AWAY, f"{AWAY}/1"),
    "several": (
        [AWAY, "globalcache://127.0.0.1:2"],
        ["globalcache://127.0.0.1:3", "globalcache://127.0.0.1:4"],
    ),
}
ONE = {
    "memory": ("memory://one", "memory://one"),
    "away": (AWAY, f"{AWAY}?timeout=200ms"),
    # The key is that of the first of these.
    "several": ([AWAY, "globalcache://127.0.0.1:2"], AWAY),
}


def nested(kind: str, urls: tuple[Any, Any], *spaces: str, many: bool) -> Any:
    """Load a key in one cache, or two, by a load that asks for the same of another."""
    # Each time an engine that is empty.
    number = next(_number)
    named = [url if isinstance(url, list) else url.replace("memory://o", f"memory://{number}o") for url in urls]
    places = zip(named, spaces, strict=True)
    outer, inner = (Face(kind, url, timeout=0.2, wait=1, namespace=space) for url, space in places)

    def get(face: Face, load: Callable[[], Any]) -> Any:
        return face.cache.get_or_load_many(["a", "b"], lambda _: load()) if many else face.cache.get_or_load("a", load)

    with outer, inner:
        return outer.run(lambda: get(outer, lambda: get(inner, lambda: VALUE[many])))


@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("urls", OTHERS.values(), ids=OTHERS)
def test_a_load_asks_for_an_equal_key_of_another_place(kind: str, urls: tuple[Any, Any], *, many: bool) -> None:
    assert nested(kind, urls, "", "", many=many) == VALUE[many]


@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_load_asks_for_an_equal_key_of_another_namespace(kind: str, *, many: bool) -> None:
    assert nested(kind, (AWAY, AWAY), "one", "other", many=many) == VALUE[many]


@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("urls", ONE.values(), ids=ONE)
def test_a_load_asks_for_its_key_by_another_cache(kind: str, urls: tuple[Any, Any], *, many: bool) -> None:
    """It would wait for itself."""
    with pytest.raises(LoadError, match=r"a: its load asks for itself: one:a -> (one:b -> )?one:a"):
        nested(kind, urls, "one", "one", many=many)


def test_a_flight_of_another_cache_is_waited_for_by_more_meanwhile() -> None:
    """Its load asks for more in that cache, under the lock of that one, while this one looks where it leads."""

    class Growing(Flight):
        @property
        def is_over(self) -> bool:
            flight.waits_for.add(flight_of(b"d"))
            return False

    def flight_of(name: bytes, kind: type[Flight] = Flight) -> Flight:
        return kind([name], GUARD, caller, lambda: caller)

    caller = Holder()
    flight, wanted = flight_of(b"a"), flight_of(b"b")
    flight.waits_for.add(flight_of(b"c", Growing))
    assert not _leads_to(flight, [wanted])


# Everything at random


class Loads:
    """Loads of keys of two tiers, and what each of them gave. Those of the first ask for keys of the second."""

    def __init__(self, seed: int, world: World) -> None:
        self.draw = random.Random(seed)
        self.world = world
        self.running: dict[str, int] = defaultdict(int)
        self.values: dict[str, set[str]] = defaultdict(set)
        self.raised: dict[int, tuple[BaseException, str, frozenset[str]]] = {}
        self.lock = threading.Lock()
        self.faults: list[str] = []
        self.most = 0
        self.has_server = False

    def keys(self, tier: int) -> list[str]:
        return self.draw.sample([f"{tier}:{number}" for number in range(6)], self.draw.choice([1, 1, 2, 3, 4]))

    def begin(self, keys: Iterable[str]) -> None:
        with self.lock:
            for key in keys:
                self.running[key] += 1
                if self.running[key] > 1 and not self.has_server:
                    self.faults.append(f"{key} is loaded twice at once")
            outer = sum(count for key, count in self.running.items() if key.startswith("1:"))
            self.most = max(self.most, outer)

    def end(self, name: str, keys: list[str]) -> dict[str, str]:
        """Return values, or raise for all of the keys."""
        with self.lock:
            for key in keys:
                self.running[key] -= 1
            if self.draw.random() < 0.2:
                error = Sick()
                self.raised[id(error)] = error, name, frozenset(keys)
                raise error
            values = {key: f"{key} {self.draw.random()}" for key in keys}
            for key, value in values.items():
                self.values[key].add(value)
            return values

    def nested(self, keys: list[str]) -> str | list[str] | None:
        """Return the keys of the second tier that a load of the first one asks for."""
        if keys[0].startswith("2:") or self.draw.random() < 0.5:
            return None
        inner = self.keys(2)
        return inner[0] if len(inner) == 1 else inner

    def load_many(self, keys: list[str]) -> dict[str, str]:
        self.begin(keys)
        if inner := self.nested(keys):
            self.call(inner)
        time.sleep(self.draw.random() * 0.003)
        return self.end("many", keys)

    async def load_many_async(self, keys: list[str]) -> dict[str, str]:
        self.begin(keys)
        if inner := self.nested(keys):
            await self.call_async(inner)
        await asyncio.sleep(self.draw.random() * 0.003)
        return self.end("many_async", keys)

    def call(self, keys: str | list[str]) -> None:
        """Ask for a key or a batch, and judge what comes."""
        cache = self.world.cache
        try:
            if isinstance(keys, str):
                self.judge({keys: cache.get_or_load(keys, lambda: self.one(keys))})
            else:
                self.judge(cache.get_or_load_many(keys, self.load_many))
        except Exception as error:  # noqa: BLE001 - all are judged
            self.failed(error, "one" if isinstance(keys, str) else "many", keys)

    def one(self, key: str) -> str:
        self.begin([key])
        if inner := self.nested([key]):
            self.call(inner)
        time.sleep(self.draw.random() * 0.003)
        return self.end("one", [key])[key]

    async def one_async(self, key: str) -> str:
        self.begin([key])
        if inner := self.nested([key]):
            await self.call_async(inner)
        await asyncio.sleep(self.draw.random() * 0.003)
        return self.end("one_async", [key])[key]

    async def call_async(self, keys: str | list[str]) -> None:
        cache = self.world.cache.aio
        try:
            if isinstance(keys, str):
                self.judge({keys: await cache.get_or_load(keys, lambda: self.one_async(keys))})
            else:
                self.judge(await cache.get_or_load_many(keys, self.load_many_async))
        except Exception as error:  # noqa: BLE001 - all are judged
            self.failed(error, "one_async" if isinstance(keys, str) else "many_async", keys)

    def judge(self, found: dict[str, str | None]) -> None:
        for key, value in found.items():
            if value not in self.values[key]:
                self.faults.append(f"{key} is {value!r}, which no load gave")

    def failed(self, error: Exception, name: str, keys: str | list[str]) -> None:
        """A caller gets what its own function raised for one of its keys; a batch several of them as a LoadError."""
        asked = {keys} if isinstance(keys, str) else set(keys)
        told = isinstance(error, LoadError) and str(error)
        if told and (self.has_server or "keys could not be loaded" in told or "tried once a second" in told):
            return
        _, by, of = self.raised.get(id(error), (error, "nobody", frozenset[str]()))
        if not of & asked or (by != name and not self.has_server):
            self.faults.append(f"{name} of {keys} got {error!r} of {by}, {sorted(of)}")

    # Callers

    def thread(self, calls: int) -> None:
        for _ in range(calls):
            keys = self.keys(self.draw.choice([1, 1, 2]))
            self.call(keys[0] if len(keys) == 1 else keys)

    async def task(self, calls: int) -> None:
        for _ in range(calls):
            keys = self.keys(self.draw.choice([1, 1, 2]))
            call = asyncio.create_task(self.call_async(keys[0] if len(keys) == 1 else keys))
            if self.draw.random() < 0.2:
                await asyncio.sleep(self.draw.random() * 0.004)
                call.cancel()
            await asyncio.wait([call])

    async def loop(self, calls: int) -> None:
        await asyncio.gather(*(self.task(calls) for _ in range(4)))
        # What was cancelled leaves loads that go on.
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0.001)

    def run(self, calls: int) -> None:
        """Let four threads and two event loops with four tasks each call."""
        pool = self.world.pool
        callers = [pool.submit(self.thread, calls) for _ in range(4)]
        callers += [pool.submit(lambda: asyncio.run(self.loop(calls))) for _ in range(2)]
        for caller in callers:
            caller.result(60)
        assert self.faults == []
        until(lambda: self.world.is_idle)


@pytest.mark.parametrize("seed", range(6))
def test_random_callers_without_a_server(seed: int) -> None:
    """Each gets what its own function gives for its keys; a key is loaded once at a time, and all end."""
    world = World(local_loads=4)
    loads = Loads(seed, world)
    loads.run(20)
    assert loads.values
    assert loads.raised


@pytest.mark.parametrize("seed", range(4))
def test_random_callers_of_a_server_that_comes_and_goes(seed: int) -> None:
    """The server is away for moments. When all calls have ended, nobody has a lease."""
    store = CacheForTests(local_loads=4)
    world = World("memory://", namespace="test", local_loads=4)
    store.stand_in_for(world.cache, world.cache.aio)
    loads = Loads(seed, world)
    loads.has_server, ended = True, threading.Event()

    def harm() -> None:
        draw = random.Random(seed)
        while not ended.wait(draw.random() * 0.01):
            with store.faults.dead():
                time.sleep(draw.random() * 0.01)

    harming = world.pool.submit(harm)
    try:
        loads.run(20)
    finally:
        ended.set()
        harming.result(20)
    for tier in (1, 2):
        for number in range(6):
            until(lambda key=f"{tier}:{number}": world.cache.inspect(key)["lease"] in {"none", "void"})  # type: ignore[misc]
