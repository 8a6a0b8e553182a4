"""Refreshes in the background."""

from __future__ import annotations

import asyncio
import threading

from globalcache import AsyncCache, Cache
from tests.client.test_single_flight import Outside
from tests.conftest import until


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
