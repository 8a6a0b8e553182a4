"""Leases: whatever ends a call, each lease on the server belongs to a load that runs.

The leases of these tests do not lapse while a test runs, so one that was forgotten is still there at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import logging
import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

C = TypeVar("C", Cache, AsyncCache)
ROUNDS = 40 * int(os.environ.get("FAULTS_ROUNDS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
# Milliseconds: longer than any test.
LONG = 60_000
KEYS = [f"key{number}" for number in range(12)]
MANY = [f"many{number}" for number in range(40)]


class NoRowError(Exception):
    """What loaders raise."""


class Stop(BaseException):
    """What ends a thread at any instruction, as KeyboardInterrupt does."""


def last_long(cache: C) -> C:
    """Have a cache ask for leases that do not lapse."""
    for server in cache._servers:  # noqa: SLF001 - below what users see
        for name in ("fetch", "fetch_many"):
            setattr(server, name, _with_long_lease(getattr(server, name)))
    return cache


def _with_long_lease(fetch: Callable[..., Any]) -> Callable[..., Any]:
    def fetch_long(key: Any, wait: float, lease_ms: int | None = None) -> Any:
        # 0 asks for no lease.
        return fetch(key, wait, LONG if lease_ms is None else lease_ms)

    return fetch_long


def held(servers: list[globalcache.Server], keys: list[str]) -> list[str]:
    """Return the keys that somebody has a lease of."""
    found = []
    for server in servers:
        with Cache(server.url) as cache:
            found += [key for key in keys if cache.inspect(key)["lease"] not in {"none", "void"}]
    return found


def until_none_held(servers: list[globalcache.Server], keys: list[str]) -> None:
    end = time.monotonic() + 10
    while left := held(servers, keys):
        assert time.monotonic() < end, f"nobody loads these: {left}"
        time.sleep(0.02)


@contextlib.contextmanager
def two_servers() -> Iterator[list[globalcache.Server]]:
    """Start servers, of which the second refuses long values."""
    with (
        globalcache.Server(memory="32MiB", threads=1) as first,
        globalcache.Server(memory="32MiB", threads=1, max_value="4KiB") as second,
    ):
        yield [first, second]


class Schedule:
    """Calls that are drawn: what is asked, and what its load does."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def value(self, key: str) -> Any:
        """Return a value, or one that is refused here or by the server; or raise."""
        match self.draw.randrange(8):
            case 0:
                raise NoRowError(key)
            case 1:
                return object()
            case 2:
                return key + "x" * 5000
            case _:
                return key

    async def load(self, key: str) -> Any:
        for _ in range(self.draw.randrange(6)):
            await asyncio.sleep(0)
        return self.value(key)

    async def load_many(self, keys: list[str]) -> dict[str, Any]:
        for _ in range(self.draw.randrange(6)):
            await asyncio.sleep(0)
        if self.draw.random() < 0.3:
            raise NoRowError(keys[0])
        return {key: self.value(key) if self.draw.random() < 0.05 else key for key in keys}

    async def call(self, cache: AsyncCache) -> None:
        key, options = self.draw.choice(KEYS), self.options()
        match self.draw.randrange(8):
            case 0:
                await cache.set(key, "set", **options)
            case 4:
                await asyncio.to_thread(self.call_in_thread, cache.sync, key, options)
            case 5:
                loads = [functools.partial(self.load, key) for key in KEYS[:4]]
                await asyncio.gather(
                    *(cache.get_or_load(key, load, wait=1, **options) for key, load in zip(KEYS, loads, strict=False))
                )
            case 1:
                await cache.invalidate(key, *self.draw.sample(MANY, 20))
            case 2:
                keys = self.draw.sample(MANY, 20)
                await cache.get_or_load_many(keys, self.load_many, wait=1, **options)
            case 3:
                # Of another type than what is there, which is invalidated and fetched once more.
                await cache.get_or_load(key, functools.partial(self.load, key), type=int, wait=1, **options)
            case _:
                await cache.get_or_load(key, functools.partial(self.load, key), wait=1, **options)

    def call_in_thread(self, cache: Cache, key: str, options: dict[str, Any]) -> None:
        """Use the other face: a write, or a load that goes on when the task that waits for it is cancelled."""
        if self.draw.random() < 0.5:
            cache.invalidate(key)
        else:
            cache.get_or_load(key, functools.partial(self.value, key), wait=1, **options)

    def options(self) -> dict[str, Any]:
        """Return how long values live: many are stale at once, so that hits bring leases too."""
        refresh = self.draw.choice([None, 0.001, 0.001])
        return {"ttl": 60, "refresh_after": refresh, "stale_if_error": self.draw.choice([None, 60])}


async def run_and_cancel(cache: AsyncCache, draw: random.Random) -> None:
    """Run calls of which half are cancelled: after some turns of the loop, or in the turn of a reply."""
    schedule = Schedule(draw)
    tasks = []
    for _ in range(12):
        task = asyncio.create_task(schedule.call(cache))
        tasks.append(task)
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        if draw.random() < 0.5:
            draw.choice(tasks).cancel()
    await asyncio.sleep(draw.choice([0, 0, 0.001]))
    for task in tasks:
        if draw.random() < 0.3:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    expected = (NoRowError, TypeError, globalcache.CacheError, asyncio.CancelledError)
    wrong = [
        outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, expected)
    ]
    assert not wrong, wrong


def cancel_with_replies(cache: AsyncCache, draw: random.Random) -> None:
    """Cancel tasks of the loop in the turn in which replies arrive: what came for them is theirs no more."""
    servers: list[Any] = list(cache._servers)  # noqa: SLF001
    for server in servers:
        for link in server._connections.values():  # noqa: SLF001
            received = link.data_received

            def data_received(data: bytes, received: Callable[[bytes], None] = received) -> None:
                received(data)
                for task in asyncio.all_tasks():
                    if "Schedule.call" in repr(task.get_coro()) and draw.random() < 0.2:
                        task.cancel()

            transport = link._transport  # noqa: SLF001
            link.data_received = data_received
            transport.set_protocol(link)


@pytest.mark.parametrize("with_replies", [False, True], ids=["by turns", "with replies"])
def test_no_lease_is_forgotten_by_tasks(*, with_replies: bool) -> None:
    """Calls end by values, exceptions, cancellations at any await, and refused fills; the second server fails."""
    draw = random.Random(SEED)

    async def run() -> AsyncCache:
        with two_servers() as servers, Proxy(servers[1].address) as proxy:
            cache = last_long(AsyncCache([servers[0].url, f"globalcache://{proxy.address}"], timeout=1))
            last_long(cache.sync)
            for number in range(ROUNDS):
                if with_replies:
                    with contextlib.suppress(globalcache.CacheError):
                        await cache.ping()
                    cancel_with_replies(cache, draw)
                proxy.refusing = number % 4 == 3
                if proxy.refusing:
                    proxy.cut()
                await run_and_cancel(cache, draw)
                if number % 8 == 7:
                    refreshes = cache._state.async_refresher._tasks  # noqa: SLF001
                    await asyncio.gather(*refreshes, return_exceptions=True)
                    await asyncio.to_thread(until_none_held, servers, KEYS + MANY)
            await cache.aclose()
            return cache

    # Only now have the threads ended.
    asyncio.run(run()).sync.close()


def run_alone(name: str) -> None:
    """Run a function of this module in a process of its own: it leaves connections that nobody closes."""
    code = f"from tests.faults import test_leases; test_leases.{name}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_no_lease_is_forgotten_at_the_end_of_a_loop() -> None:
    """The loop ends with loads, waits and refreshes in hand: all are cancelled, some before their first line."""
    run_alone("end_loops")


def end_loops() -> None:
    """Its connection stays open, or the server would pass on what it held."""
    draw = random.Random(SEED)
    with globalcache.Server(memory="32MiB", threads=1) as server:
        cache, tasks = last_long(AsyncCache(server.url)), []

        async def run() -> None:
            schedule = Schedule(draw)
            await cache.set_many(dict.fromkeys(KEYS, "old"))
            for key in KEYS:
                await cache.set(key, "old", ttl=60, refresh_after=0.001)
            for _ in range(20):
                tasks.append(asyncio.create_task(schedule.call(cache)))
                tasks[-1].add_done_callback(lambda task: task.cancelled() or task.exception())
            for _ in range(draw.randrange(10)):
                await asyncio.sleep(0)

        for _ in range(ROUNDS):
            asyncio.run(run())
            until_none_held([server], KEYS + MANY)
        asyncio.run(cache.aclose())


def in_threads(cache: Cache, draw: random.Random, ending: threading.Event) -> None:
    """Make calls as `Schedule` has them, until this thread is stopped."""
    schedule = Schedule(draw)
    while not ending.is_set():
        key, options = draw.choice(KEYS), schedule.options()
        with contextlib.suppress(NoRowError, TypeError, globalcache.CacheError):
            if draw.random() < 0.2:
                cache.invalidate(key)
            elif draw.random() < 0.5:
                cache.get_or_load(key, functools.partial(schedule.value, key), wait=1, **options)
            else:
                keys = draw.sample(MANY, 20)
                cache.get_or_load_many(keys, lambda keys: {key: schedule.value(key) for key in keys}, wait=1, **options)


def test_no_lease_is_forgotten_by_threads() -> None:
    """Threads are interrupted at any instruction, as by the handler of a signal; the second server fails at times."""
    run_alone("interrupt_threads")


class Interrupted(threading.Thread):
    """A thread that may be stopped at any instruction but those by which it starts another.

    Until that one runs it has the number of the one that starts it, and CPython would interrupt it instead.
    """

    starting: ClassVar[set[int | None]] = set()

    def start(self) -> None:
        self.starting.add(threading.get_ident())
        try:
            super().start()
        finally:
            self.starting.discard(threading.get_ident())

    def stop(self) -> None:
        while self.ident in self.starting:
            time.sleep(0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(Stop))


def interrupt_threads() -> None:
    """Have threads call, and raise in each of them at some moment."""
    draw = random.Random(SEED)
    threading.Thread = Interrupted  # type: ignore[misc]
    # An exception within a handler of `logging` leaves its lock locked for all.
    logging.disable()

    def work(cache: Cache, seed: int, ending: threading.Event) -> None:
        with contextlib.suppress(Stop):
            in_threads(cache, random.Random(seed), ending)

    with two_servers() as servers, Proxy(servers[1].address) as proxy:
        cache = last_long(Cache([servers[0].url, f"globalcache://{proxy.address}"], timeout=1))
        for number in range(ROUNDS):
            proxy.refusing = number % 4 == 3
            if proxy.refusing:
                proxy.cut()
            ending = threading.Event()
            threads = [
                Interrupted(target=work, args=(cache, draw.randrange(1 << 30), ending), daemon=True) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            time.sleep(draw.random() * 0.02)
            for thread in threads:
                thread.stop()
            ending.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            del threads
            if number % 8 == 7:
                until_none_held(servers, KEYS + MANY)
        cache.close()
