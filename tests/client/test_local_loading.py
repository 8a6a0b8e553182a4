"""Loads without a lease, which other callers of the process join."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import AsyncCache, Cache, LoadError
from globalcache.client._async.local_loading import LocalLoad as AsyncLocalLoad
from globalcache.client._sync.local_loading import LocalLoad
from globalcache.contrib.testing import CacheForTests
from tests.client.loads import (
    GUARD,
    count_waits,
)
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable


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
