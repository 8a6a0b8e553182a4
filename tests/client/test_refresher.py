"""Refreshes in the background."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from tests.client.loads import (
    Outside,
)
from tests.conftest import Clock, until
from tests.faults.test_leases import until_none_held


def test_refreshes_go_on_whatever_some_of_them_raise() -> None:
    """More refreshes than there are threads for them raise what no handler of Exception sees."""
    with Cache("memory://") as cache:
        for error in [Outside(), SystemExit(1), KeyboardInterrupt()] * 3:
            key, ran = f"bad{id(error)}", threading.Event()

            def load(error: BaseException = error, ran: threading.Event = ran) -> None:
                ran.set()
                raise error

            cache.set(key, 1, refresh_after=0.001)
            until(lambda key=key: cache.inspect(key)["state"] == "stale")  # type: ignore[misc]
            assert cache.get_or_load(key, load, refresh_after=1) == 1
            assert ran.wait(10)
        cache.set("good", 1, refresh_after=0.001)
        until(lambda: cache.inspect("good")["state"] == "stale")
        assert cache.get_or_load("good", lambda: 2, refresh_after=1) == 1
        until(lambda: cache.get("good") == 2)


def test_an_exit_in_a_refresh_does_not_end_the_loop() -> None:
    async def run() -> int:
        async with AsyncCache("memory://") as cache:
            ran = asyncio.Event()

            async def load() -> int:
                ran.set()
                raise SystemExit(1)

            await cache.set("k", 1, refresh_after=0.001)
            while (await cache.inspect("k"))["state"] != "stale":  # noqa: ASYNC110 - it is no event
                await asyncio.sleep(0.001)
            value = await cache.get_or_load("k", load, refresh_after=1)
            await ran.wait()
            await asyncio.sleep(0.01)
            return value

    assert asyncio.run(run()) == 1


def test_the_end_of_the_interpreter_fails_no_hit(server: globalcache.Server) -> None:
    """No thread can be started, and one refreshes: a stale value is returned all the same, and nothing hangs."""
    code = f"""
import atexit, threading, time
from globalcache import Cache
cache = Cache({server.url!r})
for key in "x", "y":
    cache.set(key, "old", ttl=60, refresh_after=0.001)
while not cache.get_entry("y").stale:
    pass
assert cache.get_or_load("x", lambda: time.sleep(60), refresh_after=1) == "old"  # it is being refreshed at the end
def refuse(_):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def last():
    threading.Thread.start = refuse
    print(cache.get_or_load("y", lambda: "new", refresh_after=1), flush=True)
    print(cache.get_or_load("z", lambda: "loaded"), flush=True)
atexit.register(last)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("old\nloaded\n", "")
    until_none_held([server], ["x", "y", "z"])


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
        value = cache.get_or_load("inner", inner, refresh_after=1)
        assert refreshing.wait(10)
        return value

    def inner() -> Any:
        refreshing.set()
        return cache.get_or_load("outer", outer) + 1

    async def outer_task() -> Any:
        value = await cache.aio.get_or_load("inner", inner_task, refresh_after=1)
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
