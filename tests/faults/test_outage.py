"""A database that is written to while the link to the cache breaks again and again: no process reads an old value.

The property: a read that begins after an invalidation returned, in the same process, gives what was written before that
invalidation or something newer; with the server up, cut off, hanging, or answering late.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from globalcache import AsyncCache, Cache
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    import globalcache

KEYS = [f"row{number}" for number in range(8)]
SECONDS = 2.5
# How long the server is away at once; ten seconds in `make faults`.
AWAY = 10 if int(os.environ.get("FAULTS_ROUNDS", "1")) > 1 else 1


class Database:
    """Rows that only grow, and for each what an invalidation has told at least."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(KEYS, 0)
        self.told = dict.fromkeys(KEYS, 0)
        self.old: list[tuple[str, int, int]] = []

    def check(self, key: str, value: int, at_least: int) -> None:
        if value < at_least:
            self.old.append((key, value, at_least))


class Run:
    """A run of some seconds, and of up to a minute more while its client has not met enough: a machine may be slow."""

    def __init__(self, seconds: float, **least: int) -> None:
        self._end = time.monotonic() + seconds
        self._least = least
        self.undelivered = 0.0

    def goes_on(self, stats: dict[str, float]) -> bool:
        """Return whether readers and writers have to go on."""
        self.undelivered = stats["undelivered"]
        late = time.monotonic() - self._end
        return late < 0 or (late < 60 and any(stats[name] < number for name, number in self._least.items()))

    def check(self, stats: dict[str, float]) -> None:
        """Check that the client met enough."""
        assert {name: min(stats[name], number) for name, number in self._least.items()} == self._least


async def tasks(url: str, database: Database, draw: random.Random, run: Run) -> dict[str, float]:
    async with AsyncCache(url, timeout=0.15) as cache:

        async def load(key: str) -> int:
            value = database.rows[key]
            await asyncio.sleep(draw.random() * 0.004)
            return value

        async def read() -> None:
            while run.goes_on(cache.stats()):
                key = draw.choice(KEYS)
                at_least = database.told[key]
                value = await cache.get_or_load(key, partial(load, key), ttl="1h", tags=[f"tag:{key}"])
                database.check(key, value, at_least)
                await asyncio.sleep(0)

        async def write() -> None:
            while run.goes_on(cache.stats()):
                key = draw.choice(KEYS)
                database.rows[key] += 1
                written = database.rows[key]
                if draw.random() < 0.5:
                    await cache.invalidate(key)
                else:
                    await cache.invalidate(tags=f"tag:{key}")
                database.told[key] = max(database.told[key], written)
                await asyncio.sleep(draw.random() * 0.01)

        await asyncio.gather(*(read() for _ in range(8)), write())
        return cache.stats()


def in_tasks(url: str, database: Database, draw: random.Random, run: Run) -> dict[str, float]:
    return asyncio.run(tasks(url, database, draw, run))


def threads(url: str, database: Database, draw: random.Random, run: Run) -> dict[str, float]:
    cache, errors = Cache(url, timeout=0.15), []

    def read() -> None:
        try:
            while run.goes_on(cache.stats()):
                key = draw.choice(KEYS)
                at_least = database.told[key]
                value = cache.get_or_load(key, partial(database.rows.__getitem__, key), ttl="1h", tags=[f"tag:{key}"])
                database.check(key, value, at_least)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    while run.goes_on(cache.stats()):
        key = draw.choice(KEYS)
        database.rows[key] += 1
        cache.invalidate(key) if draw.random() < 0.5 else cache.invalidate(tags=f"tag:{key}")
        database.told[key] = database.rows[key]
        time.sleep(draw.random() * 0.01)
    for reader in readers:
        reader.join(10)
    assert errors == []
    cache.close()
    return cache.stats()


def trouble(proxy: Proxy, draw: random.Random, is_over: threading.Event) -> None:
    """Break the link in one way after another."""
    while not is_over.is_set():
        time.sleep(0.1 + draw.random() * 0.1)
        match draw.randrange(4):
            case 0:
                proxy.refusing = True
                proxy.cut()
                time.sleep(draw.random() * 0.3)
                proxy.refusing = False
            case 1:
                proxy.hold(proxy.to_server)
                time.sleep(0.2)
                proxy.release()
            case 2:
                proxy.hold(proxy.to_client)
                time.sleep(0.2)
                proxy.release()
            case _:
                proxy.to_server.delay = 0.3  # what is sent now arrives late, after what is sent later
                time.sleep(0.1)
                proxy.to_server.delay = 0.0


@pytest.mark.parametrize("face", [in_tasks, threads])
def test_no_old_value_is_read_after_an_invalidation(
    server: globalcache.Server, face: Callable[[str, Database, random.Random, Run], dict[str, float]]
) -> None:
    draw, database = random.Random(5), Database()
    with Proxy(server.address) as proxy:
        url = f"globalcache://{proxy.address}"
        run, is_over = Run(SECONDS, undelivered=1, connects=3, hits=100), threading.Event()
        breaking = threading.Thread(target=trouble, args=(proxy, random.Random(6), is_over))
        breaking.start()
        try:
            stats = face(url, database, draw, run)
        finally:
            is_over.set()
            breaking.join(10)
    assert database.old == []
    run.check(stats)


def one_outage(proxy: Proxy, run: Run) -> None:
    """Be away for long; what was sent just before arrives when the clients are back already."""
    time.sleep(0.5)
    proxy.to_server.delay = AWAY + 0.8
    # A write has to be on its way, however slow the machine is.
    end = time.monotonic() + 60
    while not run.undelivered and time.monotonic() < end:
        time.sleep(0.05)
    proxy.refusing = True
    time.sleep(AWAY)
    # Not before: a link that was accepted just in time would work all the while.
    proxy.to_server.delay = 0.0
    proxy.refusing = False


@pytest.mark.parametrize("face", [in_tasks, threads])
def test_a_long_outage_leaves_no_old_value_behind(
    server: globalcache.Server, face: Callable[[str, Database, random.Random, Run], dict[str, float]]
) -> None:
    draw, database = random.Random(7), Database()
    with Proxy(server.address) as proxy:
        run = Run(AWAY + 3, connects=2, undelivered=1, local_loads=10)
        breaking = threading.Thread(target=one_outage, args=(proxy, run))
        breaking.start()
        stats = face(f"globalcache://{proxy.address}", database, draw, run)
        breaking.join(10)
        delivered = proxy.to_server.delivered
    assert database.old == []
    run.check(stats)
    assert delivered > 0
