"""1,000 readers in 8 processes ask for one product that is not in the cache: the database is asked once.

Run it while `make run` is up, or give it the server: `python herd.py globalcache://127.0.0.1:7412`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from globalcache import AsyncCache, Cache

PROCESSES, READERS, KEY = 8, 125, "product:77"


async def read() -> None:
    """Read the product by 125 tasks, all beginning when the others have come as far."""
    cache = AsyncCache(os.environ.get("GLOBALCACHE_URL"), timeout="30s")
    await cache.get("herd:warm")
    print("ready", flush=True)
    sys.stdin.readline()

    async def reader() -> float:
        begun = time.perf_counter()
        product = await cache.get(KEY)
        assert product["id"] == 77, product
        return time.perf_counter() - begun

    times = await asyncio.gather(*(reader() for _ in range(READERS)))
    print(max(times))
    await cache.aclose()


def loads(cache: Cache) -> int:
    """Return how many loads the cache has sent to workers so far: each was a query."""
    return int(cache.server_info()[0]["loads"])


def main() -> int:
    """Start the processes, let them go at once, and tell what the cache says of it."""
    if len(sys.argv) > 1:
        os.environ["GLOBALCACHE_URL"] = sys.argv[1]
    with Cache() as cache:
        cache.invalidate(KEY)
        before = loads(cache)
        command = [sys.executable, __file__, "--reader"]
        pipe = subprocess.PIPE
        readers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
        for reader in readers:
            reader.stdout.readline()  # type: ignore[union-attr]  # they have pipes
        for reader in readers:
            reader.stdin.write("go\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
        slowest = [float(reader.communicate(timeout=60)[0]) for reader in readers]
        asked = loads(cache) - before
    queries = "1 query" if asked == 1 else f"{asked} queries"
    total = PROCESSES * READERS
    took = f"all answered, slowest {max(slowest) * 1000:.0f} ms"
    print(f"{PROCESSES} processes, {total:,} readers, {KEY} cold: {queries}, {took}")
    return asked != 1


if __name__ == "__main__":
    sys.exit(asyncio.run(read()) if sys.argv[1:] == ["--reader"] else main())
