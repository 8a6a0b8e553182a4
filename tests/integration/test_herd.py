"""Many processes on one hot key: one of them loads it each time it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import globalcache

# A thousand tasks in `make faults`.
PROCESSES, TASKS, SECONDS = (8, 125, 10.0) if int(os.environ.get("FAULTS_ROUNDS", "1")) > 1 else (4, 50, 1.5)
TTL = 0.1
CODE = """
import asyncio, json, sys, time
from globalcache import AsyncCache, Policy

async def main(url, tasks, seconds, ttl):
    loads, begun = [], time.monotonic()
    end = begun + seconds
    policy = Policy(ttl=ttl, jitter=0)
    async with AsyncCache(url) as cache:
        async def load():
            start = time.monotonic()
            await asyncio.sleep(0.005)
            loads.append([start, time.monotonic()])
            return "value"
        async def reader():
            while time.monotonic() < end:
                assert await cache.get_or_load("hot", load, policy=policy) == "value"
                await asyncio.sleep(0.001)
        await asyncio.gather(*(reader() for _ in range(tasks)))
    print(json.dumps([loads, begun, time.monotonic()]))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
"""


def test_one_load_for_each_end_of_a_hot_key(server: globalcache.Server) -> None:
    command = [sys.executable, "-c", CODE, server.url, str(TASKS), str(SECONDS), str(TTL)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    told = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    loads, begun, ended = (list(column) for column in zip(*told, strict=True))
    loads = sorted(load for part in loads for load in part)
    # Never two at a time, and none while the value is young: the server has one refreshed early, the earlier the longer
    # its load took.
    assert all(start >= end for (_, end), (start, _) in pairwise(loads))
    assert 2 <= len(loads) <= 2 * (max(ended) - min(begun)) / TTL + 1
