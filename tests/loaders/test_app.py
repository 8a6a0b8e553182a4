"""The workers of a cache: what they store is what the cache's own functions return."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.errors import LoadError
from globalcache.loaders.app import _apart, work

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass
class Row:
    """What a loader returns."""

    id: int


async def with_workers(cache: globalcache.AsyncCache, use: Callable[[], Any]) -> None:
    ready = asyncio.Event()
    working = asyncio.create_task(work(cache, None, ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 10)
        await use()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(working, 10)
        await cache.aclose()


def test_a_worker_refuses_what_a_function_could_not_store() -> None:
    """Stored by its class, a Row without an annotation would be read as a dict: the hit would not be the miss."""
    with globalcache.Server(memory="64MiB", threads=1) as server:
        cache = globalcache.AsyncCache(server.url)

        @cache.loader("named:{id:int}", ttl="1m")
        async def named(id: int) -> Row:
            return Row(id)

        @cache.loader("nameless:{id:int}", ttl="1m")
        async def nameless(id: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
            return Row(id)

        async def use() -> None:
            assert await named(1) == Row(1)
            assert await cache.get("named:1") == {"id": 1}
            with pytest.raises(LoadError, match="nameless:1"):
                await cache.command("GET", "nameless:1")

        asyncio.run(with_workers(cache, use))


def test_a_slow_loader_keeps_no_loads_of_another_waiting() -> None:
    """Far more keys of a slow loader are asked for than a worker is sent at a time; a key of a fast one comes at once.

    A third loader has keys that match the pattern of the fast one as well, and gets what is its own.
    """
    with globalcache.Server(memory="64MiB", threads=1) as server:
        cache = globalcache.AsyncCache(server.url, timeout=20)
        go = asyncio.Event()

        @cache.loader("slow:{id:int}", concurrency=1)
        async def slow(id: int) -> int:
            await go.wait()
            return id

        @cache.loader("fast:{id:int}", concurrency=1)
        async def fast(id: int) -> int:
            return id

        @cache.loader("fast:sum:{id:int}", concurrency=1)
        async def fast_sum(id: int) -> int:
            return -id

        async def use() -> None:
            reads = [asyncio.create_task(cache.get(f"slow:{key}")) for key in range(30)]
            while not (await cache.inspect("slow:29"))["waiters"]:  # which is asked for last
                pass
            async with asyncio.timeout(10):
                assert (await cache.get("fast:1"), await cache.get("fast:sum:2")) == (1, -2)
            go.set()
            assert await asyncio.gather(*reads) == list(range(30))

        asyncio.run(with_workers(cache, use))


def test_loaders_are_put_onto_few_connections() -> None:
    cache = globalcache.Cache("memory://")
    for number in range(100):

        def load(id: int) -> int:
            return id

        load.__qualname__ = f"load{number}"
        cache.loader(f"kind{number:02}:{{id:int}}")(load)
    groups = _apart(cache.loaders.values(), 16)
    assert len(groups) == 16
    assert sorted(loader.name for group in groups for loader in group) == sorted(
        loader.name for loader in cache.loaders.values()
    )
