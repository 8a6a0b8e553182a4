"""memory://: the engine of a server in this process, for threads, tasks and a clock that the test moves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from globalcache import AsyncCache, Cache, ValueTooLargeError
from globalcache.client.local import LONGEST_VALUE, LocalSocket, local_server
from globalcache.contrib.testing import Clock
from tests.conftest import transport, until

WITHOUT = """
import sys
sys.modules["globalcache._core"] = None
import globalcache
try:
    globalcache.Cache("memory://")
except globalcache.ConfigError as error:
    print(error)
globalcache.Cache("globalcache://127.0.0.1:1").get("x")
"""


def test_only_memory_needs_the_native_module() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == "memory:// needs the native module of globalcache, which is not installed here\n"


def test_a_value_too_long_is_refused() -> None:
    with Cache("memory://") as cache, pytest.raises(ValueTooLargeError):
        cache.set("x", "x" * (LONGEST_VALUE + 1))


def test_times_are_those_of_the_clock() -> None:
    """A value lives as long as its TTL by the clock of the test, whatever the time of the machine."""
    clock = Clock()
    with Cache("memory://", clock=clock) as cache:
        cache.set("x", 1, ttl=60)
        clock.advance(59)
        assert cache.get("x") == 1
        clock.advance(1)
        assert cache.get("x") is None


def waiters(cache: Cache) -> int:
    """Return how many wait for the load of x."""
    return int(cache.inspect("x")["waiters"])


def test_a_lease_of_a_closed_connection_passes_on() -> None:
    """The connection that took the lease is closed, or collected as garbage; who waits is to load at once."""
    for collect in (False, True):
        name = f"memory://closed-{collect}"
        holder, waiter = LocalSocket(local_server(f"closed-{collect}")), Cache(name, wait=20)
        holder.send(b"CACHE.FETCH x LEASE 60000\r\n")
        assert b"miss" in holder.recv(100)
        got: list[int] = []
        thread = threading.Thread(target=lambda got=got, waiter=waiter: got.append(waiter.get_or_load("x", lambda: 7)))
        thread.start()
        until(lambda waiter=waiter: waiters(waiter) == 1)  # type: ignore[misc]
        if not collect:
            holder.close()
        del holder
        thread.join(10)
        assert got == [7]


def test_tasks_of_two_loops_and_threads_wait_for_one_load() -> None:
    """A thread loads; tasks of two loops and a thread wait, and are woken by its value."""
    name = "memory://one-load"
    loading, go = threading.Event(), threading.Event()
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        loading.set()
        assert go.wait(20)
        return 7

    got: list[Any] = []

    async def ask() -> None:
        async with AsyncCache(name) as cache:
            got.append(await cache.get_or_load("x", lambda: 8))

    threads = [threading.Thread(target=lambda: got.append(Cache(name).get_or_load("x", load)))]
    threads[0].start()
    assert loading.wait(20)
    threads += [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(2)]
    threads.append(threading.Thread(target=lambda: got.append(Cache(name).get_or_load("x", lambda: 8))))
    for thread in threads[1:]:
        thread.start()
    with Cache(name) as cache:
        until(lambda: waiters(cache) == 3)
    go.set()
    for thread in threads:
        thread.join(20)
    assert (got, loads) == ([7] * 4, [1])


def test_a_wait_ends_in_time() -> None:
    """Somebody holds the lease and never fills: who waits is told so after its own time."""
    name = "memory://waits"
    holder = Cache(name)
    lease = transport(holder).fetch(b"x", 0, 60_000).lease
    with pytest.raises(TimeoutError):
        Cache(name).get_or_load("x", lambda: 7, wait=0.05)

    async def ask() -> None:
        async with AsyncCache(name) as cache:
            with pytest.raises(TimeoutError):
                await cache.get_or_load("x", lambda: 7, wait=0.05)

    asyncio.run(ask())
    lease.close()


def test_a_connection_that_the_engine_closes_is_replaced() -> None:
    """QUIT ends a connection as it does over a network; the next call opens another."""
    with Cache("memory://", on_error="raise") as cache:
        cache.set("x", 1)
        transport(cache).call(b"QUIT")
        assert cache.get_many(["x"]) == {"x": 1}
        assert cache.stats()["connects"] == 2


# By a clock that stands no lease lapses: a child that waited for one of its parent would wait for ever.
FORK = """
import os, sys, threading, warnings
from globalcache import Cache
from globalcache.client import local
warnings.simplefilter("ignore")
cache = Cache("memory://", clock=lambda: 1000.0, wait=60, timeout=60)
cache.set("stored", 1)
loading, ending = threading.Event(), threading.Event()
def load():
    loading.set()
    ending.wait()
    return "parent"
threads = [threading.Thread(target=cache.get_or_load, args=("x", load)) for _ in range(4)]
for thread in threads:
    thread.start()
loading.wait()
while cache.inspect("x")["waiters"] < 3:
    pass
local._shared._lock.own.acquire()  # as another thread of the parent may have at this moment
child = os.fork()
if child == 0:
    Cache("memory://shared").set("x", 1)
    done = cache.get_or_load("x", lambda: "child"), cache.get("stored")
    os._exit(0 if done == ("child", 1) else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
ending.set()
for thread in threads:
    thread.join()
sys.exit(status or cache.get("x") != "parent")
"""

# The child begins a loop of its own, since that of the parent is not there for asyncio.
FORK_OF_A_TASK = """
import asyncio, os, sys, warnings
from globalcache import AsyncCache
warnings.simplefilter("ignore")
cache = AsyncCache("memory://", clock=lambda: 1000.0, wait=60, timeout=60)
async def load_in_child():
    async def own():
        return "child"
    done = await cache.get_or_load("x", own)
    return (done, await cache.get("x")) != ("child", "child")
async def main():
    loading, ending = asyncio.Event(), asyncio.Event()
    async def load():
        loading.set()
        await ending.wait()
        return "parent"
    tasks = [asyncio.create_task(cache.get_or_load("x", load)) for _ in range(4)]
    await loading.wait()
    while (await cache.inspect("x"))["waiters"] < 3:
        pass
    child = os.fork()
    if child == 0:
        os._exit(asyncio.run(load_in_child()))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ending.set()
    return status or await asyncio.gather(*tasks) != ["parent"] * 4
sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("code", [FORK, FORK_OF_A_TASK], ids=["threads", "tasks"])
def test_a_forked_child_loads_what_its_parent_loads(code: str) -> None:
    """The parent loads x, and others of it wait, while it forks: the child loads x at once, and has what was stored."""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# Sixteen forks while other threads are within the engine all the time.
FORKS = """
import os, sys, threading, warnings
from globalcache import Cache
warnings.simplefilter("ignore")
cache = Cache("memory://forks", wait=60, timeout=60)
ending = threading.Event()
def work(number):
    while not ending.is_set():
        cache.get_or_load(f"x{number % 2}", lambda: number)
        cache.invalidate(f"x{number % 2}")
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(16):
    child = os.fork()
    if child == 0:
        cache.invalidate("x0", "x1")
        done = [cache.get_or_load(key, lambda: "child") for key in ("x0", "x1")]
        os._exit(0 if done == ["child"] * 2 else 1)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ending.set()
sys.exit(any(statuses))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forks_while_threads_are_within_the_engine() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=60)
