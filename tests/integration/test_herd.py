"""Many processes on one hot key: one of them loads it each time it ends."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import globalcache

PROCESSES, SECONDS, TTL = 4, 1.5, 0.1
CODE = """
import asyncio, sys, time
from globalcache import AsyncCache, Policy

async def main(url, seconds, ttl):
    loads, end = 0, time.monotonic() + seconds
    policy = Policy(ttl=ttl, jitter=0)
    async with AsyncCache(url) as cache:
        async def load():
            nonlocal loads
            loads += 1
            await asyncio.sleep(0.005)
            return "value"
        async def reader():
            while time.monotonic() < end:
                assert await cache.get_or_load("hot", load, policy=policy) == "value"
                await asyncio.sleep(0.001)
        await asyncio.gather(*(reader() for _ in range(50)))
    print(loads)

asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
"""


def test_one_load_for_each_end_of_a_hot_key(server: globalcache.Server) -> None:
    command = [sys.executable, "-c", CODE, server.url, str(SECONDS), str(TTL)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    loads = [int(process.communicate(timeout=60)[0]) for process in running]
    # They do not begin at the same moment: twice the time at most, and one load at its beginning.
    assert 2 <= sum(loads) <= 2 * SECONDS / TTL + 1
