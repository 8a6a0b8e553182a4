"""Freshness, failures and leases, over memory:// with a clock that the test moves."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache, LoadError
from globalcache.client._async.local_loading import LocalLoad as AsyncLocalLoad
from globalcache.client._sync.local_loading import LocalLoad
from globalcache.client.flights import Flight
from globalcache.contrib.testing import CacheForTests
from tests.client.faces import Face
from tests.client.test_single_flight import GUARD
from tests.conftest import Clock, transport, until

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def clock() -> Clock:
    return Clock()


def count_waits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows with each thread that waits for a load of its process."""
    waits, wait = list[None](), Flight.wait

    def note(flight: Flight, end: float) -> None:
        waits.append(None)
        wait(flight, end)

    monkeypatch.setattr(Flight, "wait", note)
    return waits


def test_a_stale_value_is_served_at_once_and_refreshed_behind(clock: Clock) -> None:
    cache, loads = Cache("memory://", clock=clock), []

    def load() -> int:
        loads.append(threading.current_thread().name)
        return len(loads)

    def get() -> Any:
        return cache.get_or_load("x", load, ttl="5m", refresh_after="1m")

    assert (get(), get()) == (1, 1)
    clock.now += 61
    assert get() == 1
    until(lambda: cache.get("x") == 2)
    assert loads[1].startswith("globalcache-refresh")
    assert get() == 2
    clock.now += 301
    assert get() == 3
    assert loads[2] == "MainThread"
    stats = cache.stats()
    assert (stats["loads"], stats["stale"], stats["refused_fills"]) == (3, 1, 0)


def test_tasks_refresh_behind_as_well(clock: Clock) -> None:
    async def run() -> None:
        cache, loads = AsyncCache("memory://", clock=clock), 0

        async def load() -> int:
            nonlocal loads
            loads += 1
            return loads

        assert await cache.get_or_load("x", load, ttl=300, refresh_after=60) == 1
        clock.now += 61
        assert await cache.get_or_load("x", load, ttl=300, refresh_after=60) == 1
        await asyncio.gather(*cache._state.async_refresher._tasks)  # noqa: SLF001 - what runs behind
        assert await cache.get("x") == 2

    asyncio.run(run())


def test_a_stale_value_stands_in_for_a_failed_load(clock: Clock) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    cache = Cache("memory://", clock=clock, on_event=lambda *event: told.append(event))

    def fail() -> Any:
        raise OSError("no database")

    assert cache.get_or_load("x", lambda: 1, ttl="5m", stale_if_error="1h") == 1
    clock.now += 301
    assert cache.get("x") is None
    assert cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h") == 1
    assert cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h") == 1  # not asked again so soon
    clock.now += 3700
    with pytest.raises(OSError, match="no database"):
        cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h")
    assert [event for event, _ in told] == ["load", "load_error", "load_error"]
    assert told[1][1] == {"key": "x", "error": "OSError: no database"}


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_stale_values_stand_in_for_a_batch_that_fails(clock: Clock, kind: str) -> None:
    """As for single keys. The server is asked once for all keys, and where one has no value the batch fails."""
    face = Face(kind, "memory://", clock=clock)
    asked: list[list[bytes]] = []
    fetch_many = face.server.fetch_many

    def note(keys: list[bytes], *how: Any) -> Any:
        asked.append(list(keys))
        return fetch_many(keys, *how)

    def fail(_: object) -> Any:
        raise OSError("no database")

    def ask(*keys: str) -> Any:
        return face("get_or_load_many", keys, fail, ttl="5m", stale_if_error="1h")

    old = {key: key.upper() for key in "abc"}
    assert face("get_or_load_many", "abc", lambda _: old, ttl="5m", stale_if_error="1h") == old
    clock.now += 301
    face.server.fetch_many = note
    assert ask("a", "b") == {"a": "A", "b": "B"}
    assert asked == [[b"a", b"b"]] * 2
    assert face.cache.stats()["stale"] == 2
    assert ask("a", "b") == {"a": "A", "b": "B"}  # held off
    with pytest.raises(OSError, match="no database"):
        ask("c", "new")
    clock.now += 3700
    with pytest.raises(OSError, match="no database"):
        ask("a", "b")
    face.close()


def test_what_was_invalidated_never_stands_in(clock: Clock) -> None:
    cache = Cache("memory://", clock=clock)
    ways: list[Callable[[], object]] = [
        lambda: cache.invalidate("x"),
        lambda: cache.invalidate(tags="t"),
        lambda: cache.delete("x"),
    ]
    for forget in ways:
        cache.set("x", 1, ttl="5m", stale_if_error="1h", tags="t")
        forget()
        clock.now += 301
        with pytest.raises(ZeroDivisionError):
            cache.get_or_load("x", lambda: 1 // 0, stale_if_error="1h", ttl="5m")
        clock.now += 10


def test_a_lease_whose_time_has_passed_goes_to_who_waits(clock: Clock) -> None:
    cache, got = Cache("memory://", clock=clock), []
    server = transport(cache)
    lease = server.fetch(b"x", 0, 50).lease  # of somebody who never fills
    thread = threading.Thread(target=lambda: got.append(cache.get_or_load("x", lambda: 7)))
    thread.start()
    until(lambda: cache.inspect("x")["waiters"] == 1)
    clock.now += 1
    thread.join(10)
    assert got == [7]
    lease.close()


def test_jitter_only_shortens(clock: Clock) -> None:
    cache = Cache("memory://", clock=clock)
    for number in range(50):
        cache.get_or_load(f"k{number}", lambda: 1, ttl=100)
        cache.set(f"s{number}", 1, ttl=100)
    loaded = [cache.get_entry(f"k{number}") for number in range(50)]
    ends = {entry.ttl for entry in loaded if entry is not None and entry.ttl is not None}
    assert 90 <= min(ends) < max(ends) <= 100
    assert all((entry := cache.get_entry(f"s{number}")) is not None and entry.ttl == 100 for number in range(50))


def test_a_value_of_another_type_is_loaded_anew() -> None:
    cache = Cache("memory://")
    cache.set("x", "text")
    assert cache.get_or_load("x", lambda: 5, type=int) == 5
    assert cache.get("x", type=int) == 5


def test_caches_of_one_name_share_and_others_do_not() -> None:
    one, two, own = Cache("memory://shared"), AsyncCache("memory://shared"), Cache("memory://")
    one.set("x", 1)
    assert asyncio.run(two.get("x")) == 1
    assert own.get("x") is None
    assert one.aio.sync is one
    assert asyncio.run(one.aio.get("x")) == 1


def test_null_keeps_nothing_and_loads_every_time() -> None:
    cache, loads = Cache("null://"), []
    cache.set("x", 1)
    assert (cache.get("x"), cache.get_many(["x"]), cache.has("x"), cache.get_entry("x")) == (None, {}, False, None)
    for _ in range(2):
        assert cache.get_or_load("x", lambda: loads.append(1) or 5) == 5  # type: ignore[func-returns-value]
    assert cache.get_or_load_many(["a"], lambda keys: dict.fromkeys(keys, 1)) == {"a": 1}
    assert (len(loads), cache.incr("n"), cache.delete("x"), cache.ping()) == (2, 1, False, True)


def test_a_long_load_keeps_its_lease(server: globalcache.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told again and again, so nobody else loads meanwhile."""
    monkeypatch.setattr("globalcache.client.leases.RENEW_EVERY", 0.05)
    monkeypatch.setattr("globalcache.client.leases.LEASE_MS", 300)
    with Cache(server.url) as cache:
        core_fetch = transport(cache).fetch
        # A short lease, so that the test is short as well.
        monkeypatch.setattr(transport(cache), "fetch", lambda key, wait, lease=300: core_fetch(key, wait, lease))
        loads = []

        def slow() -> int:
            loads.append(1)
            time.sleep(0.8)
            return 1

        threads = [threading.Thread(target=cache.get_or_load, args=("long", slow)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(loads) == 1
        assert cache.get("long") == 1


# Loads that other callers join while there is no server


def test_who_joins_a_load_gets_a_value_of_their_own() -> None:
    """As from a server: a caller that changes its value changes nobody else's. One thread loads, four wait for it."""
    world = CacheForTests()
    got: list[Any] = []

    def load() -> dict[str, list[int]]:
        until(lambda: world.stats()["errors"] == 5)
        return {"rows": [3, 1, 2]}

    def call() -> None:
        value = world.get_or_load("k", load)
        value["rows"].append(len(got))
        got.append(value)

    with world.faults.dead():
        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert [len(value["rows"]) for value in got] == [4] * 5
    assert len({id(value["rows"]) for value in got}) == 5


def test_tasks_that_join_a_load_get_values_of_their_own() -> None:
    """Lists, rows that do not exist, bytes and values of another type than the one that was loaded."""
    world = CacheForTests()
    loads: list[Any] = []

    def loading(value: Any) -> Callable[[], Any]:
        async def load() -> Any:
            loads.append(value)
            await asyncio.sleep(0)
            return value

        return load

    async def run() -> None:
        for given, kind in (([1], None), ([1], list[int]), (b"x", bytes), (None, None), ("text", str)):
            load = loading(given)
            calls = [world.aio.get_or_load(f"{given!r} {kind}", load, type=kind) for _ in range(3)]
            got = await asyncio.gather(*calls)
            assert got == [given] * 3
            assert given != [1] or len(set(map(id, got))) == 3
        assert len(loads) == 5
        one, two = loading([1]), loading({"a": 1})
        calls = [
            world.aio.get_or_load("both", one, type=list[int]),
            world.aio.get_or_load("both", two, type=dict[str, int]),
            world.aio.get_or_load("both", two, type=dict[str, int]),
        ]
        assert await asyncio.gather(*calls) == [[1], {"a": 1}, {"a": 1}]
        assert loads[5:] == [[1], {"a": 1}]

    with world.faults.dead():
        asyncio.run(run())


def test_absences_that_are_joined_raise_exceptions_of_their_own() -> None:
    world = CacheForTests()

    class NoRow(Exception):  # noqa: N818
        pass

    @world.aio.cached("row:{id}", absent=[NoRow])
    async def row(id: int) -> int:
        await asyncio.sleep(0)
        raise NoRow(id)

    async def run() -> None:
        got = await asyncio.gather(*(row(1) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in got] == [NoRow] * 3
        assert len(set(map(id, got))) == 3

    with world.faults.dead():
        asyncio.run(run())


def test_a_failure_is_told_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Cache("memory://") as cache:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_load("k", lambda: 1 // 0)
        monkeypatch.undo()


# Loads without a lease


class Row:
    """A row that loads read at once and return when they may."""

    def __init__(self) -> None:
        self.version = 1
        self.reads: list[int] = []
        self.go = threading.Event()

    def load(self) -> int:
        version = self.version
        self.reads.append(version)
        if version == 1:
            assert self.go.wait(20)
        return version


def test_a_load_older_than_an_invalidation_is_not_joined() -> None:
    """Another process fails to load the key, so this one runs its own function, without a lease.

    It has read row 1 when the other process writes row 2 and invalidates it, which is acknowledged, and fails again.
    Whoever asks here after that gets row 2, although the load of row 1 still runs; they share one load of it.
    """
    world = CacheForTests()
    here, other = Cache("memory://", namespace="test"), Cache("memory://", namespace="test")
    world.stand_in_for(here, other)
    row, got = Row(), list[int]()

    def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            other.get_or_load("k", lambda: 1 // 0)

    threads = [threading.Thread(target=lambda: got.append(here.get_or_load("k", row.load))) for _ in range(4)]
    fail()
    threads[0].start()
    until(lambda: row.reads == [1])
    row.version = 2
    other.invalidate("k")
    world.clock.advance(0.1)
    fail()
    world.clock.advance(0.1)
    for thread in threads[1:]:
        thread.start()
    until(lambda: world.stats()["local_loads"] == 0 and len(here._state.flights) == 1)  # noqa: SLF001
    row.go.set()
    for thread in threads:
        thread.join(20)
    assert (sorted(got), set(row.reads)) == ([1, 2, 2, 2], {1, 2})


def test_who_comes_during_a_load_shares_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten callers arrive while a load runs that had begun before; it gives them nothing, and one more serves all."""
    cache, row, got = Cache("null://"), Row(), list[int]()
    waiting = count_waits(monkeypatch)
    load = LocalLoad(lambda _: row.load(), lambda _, value: (value,), int, GUARD)

    def ask() -> None:
        got.append(cache._loading.local.load_shared([b"k"], load, 20, joins=False)[b"k"])  # noqa: SLF001

    threads = [threading.Thread(target=ask) for _ in range(11)]
    threads[0].start()
    until(lambda: row.reads == [1])
    row.version = 2
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(waiting) == 10)
    row.go.set()
    for thread in threads:
        thread.join(20)
    assert (sorted(got), row.reads.count(1)) == ([1] + [2] * 10, 1)


def test_tasks_that_come_during_a_load_share_the_next_one() -> None:
    async def run() -> tuple[list[int], list[int]]:
        cache, go = AsyncCache("null://"), asyncio.Event()
        version, reads = 1, list[int]()

        async def read(_: object) -> int:
            found = version
            reads.append(found)
            await go.wait()
            return found

        load = AsyncLocalLoad(read, lambda _, value: (value,), int, GUARD)

        async def ask() -> int:
            return int((await cache._loading.local.load_shared([b"k"], load, 20, joins=False))[b"k"])  # noqa: SLF001

        tasks = [asyncio.create_task(ask())]
        while not reads:  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0)
        version = 2
        tasks += [asyncio.create_task(ask()) for _ in range(10)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks), reads

    assert asyncio.run(run()) == ([1] + [2] * 10, [1, 2])


# Loads that begin others


def test_a_task_that_outlives_the_load_that_began_it() -> None:
    """It asks for the key of that load: while the load runs it would wait for itself, and later it would not."""

    async def run() -> None:
        cache = AsyncCache("memory://")
        go = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def later() -> Any:
            await go.wait()
            return await cache.get_or_load("k", lambda: 7)

        async def load() -> int:
            tasks.append(asyncio.create_task(later()))
            with pytest.raises(LoadError, match="k -> k"):
                await asyncio.create_task(cache.get_or_load("k", lambda: 7))
            return 5

        assert await cache.get_or_load("k", load) == 5
        await cache.delete("k")
        go.set()
        assert await tasks[0] == 7

    asyncio.run(run())


def test_a_load_that_has_ended_gives_no_room() -> None:
    """A load within a load needs no room of its own, but one that is begun by what the load left behind does."""

    async def run() -> None:
        world = CacheForTests(local_loads=1)
        cache = world.aio
        tasks: list[asyncio.Task[Any]] = []
        running, most = 0, 0
        go = asyncio.Event()

        async def load() -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return 1

        async def later() -> Any:
            await go.wait()
            return await asyncio.gather(*(cache.get_or_load(f"k{number}", load) for number in range(5)))

        async def outer() -> Any:
            tasks.append(asyncio.create_task(later()))
            return await cache.get_or_load("inner", load)

        with world.faults.dead():
            assert await cache.get_or_load("outer", outer) == 1
            go.set()
            assert await tasks[0] == [1] * 5
        assert most == 1

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_refresh_may_ask_for_the_load_that_began_it(clock: Clock, kind: str) -> None:
    """A load of "outer" reads "inner", which is stale: the refresh of that runs beside it and asks for "outer" itself.

    Nobody waits for the refresh, so it does not wait for itself.
    """
    cache = Cache("memory://", clock=clock)
    cache.set("inner", 1, ttl=100, refresh_after=1)
    clock.now += 2
    refreshing = threading.Event()

    def outer() -> Any:
        value = cache.get_or_load("inner", inner)
        assert refreshing.wait(10)
        return value

    def inner() -> Any:
        refreshing.set()
        return cache.get_or_load("outer", outer) + 1

    async def outer_task() -> Any:
        value = await cache.aio.get_or_load("inner", inner_task)
        await asyncio.to_thread(refreshing.wait, 10)
        return value

    async def inner_task() -> Any:
        refreshing.set()
        return await cache.aio.get_or_load("outer", outer_task) + 1

    async def run() -> None:
        assert await cache.aio.get_or_load("outer", outer_task) == 1
        await asyncio.gather(*cache._state.async_refresher._tasks)  # noqa: SLF001 - what runs behind

    if kind == "threads":
        assert cache.get_or_load("outer", outer) == 1
    else:
        asyncio.run(run())
    until(lambda: cache.get("inner") == 2)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("waits", [False, True])
def test_what_another_process_failed_to_load_is_loaded_in_one_call(kind: str, waits: bool) -> None:
    """Another process fails to load twenty keys, before a batch is asked for here or while it waits for them.

    The function is called once for all of these keys, not once for each.
    """
    world = CacheForTests()
    here: Any = Cache("memory://", namespace="test") if kind == "threads" else AsyncCache("memory://", namespace="test")
    other = Cache("memory://", namespace="test")
    world.stand_in_for(here, other)
    keys, calls = [f"k{number}" for number in range(20)], list[list[str]]()
    begun, go = threading.Event(), threading.Event()

    def fail(_: object) -> Any:
        begun.set()
        assert go.wait(20)
        raise ZeroDivisionError

    def load_many(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        return {key: key.upper() for key in keys}

    def ask() -> Any:
        result = here.get_or_load_many(["own", *keys], load_many)
        return result if kind == "threads" else asyncio.run(awaited(result))

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(other.get_or_load_many, keys, fail)
        assert begun.wait(20)
        if not waits:
            go.set()
            assert isinstance(failing.exception(20), ZeroDivisionError)
        asking = pool.submit(ask)
        until(lambda: calls[:1] == [["own"]] and (not waits or other.inspect("k0")["waiters"] == 1))
        go.set()
        assert asking.result(20) == {key: key.upper() for key in ["own", *keys]}
    assert calls == [["own"], keys]


async def awaited(value: Any) -> Any:
    return await value


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_batch_without_a_server_is_loaded_in_one_call(kind: str) -> None:
    """A server is away and a batch is asked for: its function is called once for all keys, not once for each."""
    calls: list[list[str]] = []

    def load_many(keys: list[str]) -> dict[str, int]:
        calls.append(keys)
        return {key: len(key) for key in keys if key != "none"}

    face = Face(kind, "globalcache://127.0.0.1:1", timeout=0.2)
    keys = [f"k{number}" for number in range(100)] + ["none"]
    assert face("get_or_load_many", keys, load_many) == {key: len(key) for key in keys[:-1]} | {"none": None}
    assert calls == [keys]
    assert face.cache.stats()["local_loads"] == 1
    face.close()


def test_equal_batches_without_a_server_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten threads ask for the same batch: one loads, the others join its load and get copies of their own."""
    cache = Cache("globalcache://127.0.0.1:1", timeout=0.2)
    calls: list[list[str]] = []
    waiting = count_waits(monkeypatch)

    def load_many(keys: list[str]) -> dict[str, list[int]]:
        calls.append(keys)
        until(lambda: len(waiting) == 9)
        return {key: [1] for key in keys}

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: cache.get_or_load_many(["a", "b"], load_many)["a"], range(10)))
    assert found == [[1]] * 10
    assert len({id(value) for value in found}) == 10
    assert calls == [["a", "b"]]
