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
from globalcache.loaders.app import work

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
