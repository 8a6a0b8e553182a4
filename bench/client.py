"""The Python client beside others, against one server, in one run: calls a second and processor time per call.

Every subject runs in a process of its own, one after another and in turn, so that none pays for the modules or the
garbage of another; figures are the medians of the rounds. The async ones share the event loop's kind (asyncio's own).
Writes docs/benchmarks/client.md.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from conduct import Finding, table
from globalcache import AsyncCache, Cache, Server
from peers import ROOT, versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

VALUE = "x" * 98
TASKS = 50
MANY = 100
KEYS = [f"bench{number}" for number in range(MANY)]


def timed(call: Callable[[], object], seconds: float, units: int = 1) -> dict[str, float]:
    """Run a call for so long; calls a second, and microseconds of processor time for each."""
    for _ in range(200):
        call()
    count, begun, used = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - begun) < seconds:
        for _ in range(100):
            call()
        count += 100
    used = time.process_time() - used
    return {"per_second": count * units / passed, "cpu_us": used / count / units * 1e6}


async def gathered(call: Callable[[], Awaitable[object]], seconds: float, units: int = 1) -> dict[str, float]:
    """Run a call in many tasks at a time."""
    end, count = 0.0, 0

    async def run() -> None:
        nonlocal count
        while time.perf_counter() < end:
            for _ in range(20):
                await call()
            count += 20

    for _ in range(200):
        await call()
    begun, used = time.perf_counter(), time.process_time()
    end = begun + seconds
    await asyncio.gather(*(run() for _ in range(TASKS)))
    passed, used = time.perf_counter() - begun, time.process_time() - used
    return {"per_second": count * units / passed, "cpu_us": used / count / units * 1e6}


def ours_async(host: str, port: int, seconds: float, kind: Any, name: str = "get") -> dict[str, float]:
    """Our client, reading bytes as they are or decoding them."""

    async def run() -> dict[str, float]:
        async with AsyncCache(f"globalcache://{host}:{port}") as cache:
            if name == "get":
                return await gathered(lambda: cache.get("bench", type=kind), seconds)
            if name == "get_many":
                return await gathered(lambda: cache.get_many(KEYS, type=kind), seconds, MANY)
            return await gathered(lambda: cache.get_or_load("bench", lambda: VALUE, type=kind), seconds)

    return asyncio.run(run())


def redis_async(host: str, port: int, seconds: float, name: str = "get") -> dict[str, float]:
    """redis.asyncio."""
    from redis.asyncio import Redis  # noqa: PLC0415 - each in its own process

    async def run() -> dict[str, float]:
        async with Redis(host=host, port=port) as client:
            if name == "mget":
                return await gathered(lambda: client.mget(KEYS), seconds, MANY)
            return await gathered(lambda: client.get("bench"), seconds)

    return asyncio.run(run())


def glide_async(host: str, port: int, seconds: float) -> dict[str, float]:
    """valkey-glide."""
    import glide  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    async def run() -> dict[str, float]:
        config = glide.GlideClientConfiguration([glide.NodeAddress(host, port)], request_timeout=5000)
        client = await glide.GlideClient.create(config)
        try:
            return await gathered(lambda: client.get("bench"), seconds)
        finally:
            await client.close()

    return asyncio.run(run())


def coredis_async(host: str, port: int, seconds: float) -> dict[str, float]:
    """Coredis."""
    import coredis  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    async def run() -> dict[str, float]:
        client = coredis.Redis(host=host, port=port)
        async with client:
            return await gathered(lambda: client.get("bench"), seconds)

    return asyncio.run(run())


def ours_sync(host: str, port: int, seconds: float, name: str) -> dict[str, float]:
    """Our client on one connection."""
    with Cache(f"globalcache://{host}:{port}") as cache:
        match name:
            case "get":
                return timed(lambda: cache.get("bench", type=bytes), seconds)
            case "get_or_load":
                return timed(lambda: cache.get_or_load("bench", lambda: VALUE, type=bytes), seconds)
            case _:
                return timed(lambda: cache.get_many(KEYS, type=bytes), seconds, MANY)


def redis_sync(host: str, port: int, seconds: float, name: str) -> dict[str, float]:
    """redis-py."""
    import redis  # noqa: PLC0415

    with redis.Redis(host=host, port=port) as client:
        if name == "get":
            return timed(lambda: client.get("bench"), seconds)
        return timed(lambda: client.mget(KEYS), seconds, MANY)


def pymemcache_sync(host: str, port: int, seconds: float, name: str) -> dict[str, float]:
    """Pymemcache, over the memcached protocol of the same server."""
    from pymemcache.client.base import Client  # type: ignore[import-untyped]  # noqa: PLC0415

    client = Client((host, port))
    try:
        if name == "get":
            return timed(lambda: client.get("bench"), seconds)
        return timed(lambda: client.get_many(KEYS), seconds, MANY)
    finally:
        client.close()


def ours_memory(_host: str, _port: int, seconds: float) -> dict[str, float]:
    """A cached function that is a hit in memory://."""
    cache = Cache("memory://")

    @cache.cached("bench:{id}", ttl="1h")
    def bench(id: int) -> int:
        return id

    return timed(lambda: bench(1), seconds)


def ours_ping(host: str, port: int, seconds: float) -> dict[str, float]:
    """Nothing but the way to the server and back."""
    with Cache(f"globalcache://{host}:{port}") as cache:
        return timed(cache.ping, seconds)


# What is measured: the name of the row, what it needs, how it runs.
SUBJECTS: dict[str, tuple[str, Callable[[str, int, float], dict[str, float]]]] = {
    "async get: ours, bytes": ("globalcache", partial(ours_async, kind=bytes)),
    "async get: ours, decoded": ("globalcache", partial(ours_async, kind=None)),
    "async get: redis.asyncio": ("redis", redis_async),
    "async get: valkey-glide": ("glide", glide_async),
    "async get: coredis": ("coredis", coredis_async),
    "async get_or_load: ours, bytes": ("globalcache", partial(ours_async, kind=bytes, name="get_or_load")),
    "async get_many of 100: ours": ("globalcache", partial(ours_async, kind=bytes, name="get_many")),
    "async get_many of 100: redis.asyncio": ("redis", partial(redis_async, name="mget")),
    "ping: ours": ("globalcache", ours_ping),
    "get: ours": ("globalcache", partial(ours_sync, name="get")),
    "get: redis-py": ("redis", partial(redis_sync, name="get")),
    "get: pymemcache": ("pymemcache", partial(pymemcache_sync, name="get")),
    "get_or_load: ours": ("globalcache", partial(ours_sync, name="get_or_load")),
    "get_many of 100: ours": ("globalcache", partial(ours_sync, name="get_many")),
    "get_many of 100: redis-py": ("redis", partial(redis_sync, name="mget")),
    "get_many of 100: pymemcache": ("pymemcache", partial(pymemcache_sync, name="get_many")),
    "cached function, memory://": ("globalcache", ours_memory),
}

# Packages whose versions are told, with a module of each.
PACKAGES = {
    "redis": "redis",
    "hiredis": "hiredis",
    "valkey-glide": "glide",
    "coredis": "coredis",
    "pymemcache": "pymemcache",
}

# The bars: row, what of it, at least or at most so many times another row's.
BARS = [
    ("async get: ours, bytes", "per_second", "at least", 8, "async get: redis.asyncio"),
    ("async get: ours, bytes", "per_second", "at least", 4, "async get: valkey-glide"),
    ("async get: ours, decoded", "per_second", "at least", 6, "async get: redis.asyncio"),
    ("async get: ours, decoded", "per_second", "at least", 3, "async get: valkey-glide"),
    ("get: ours", "cpu_us", "at most", 0.75, "get: redis-py"),
    ("get: ours", "per_second", "at least", 1, "get: redis-py"),
    ("get_many of 100: ours", "per_second", "at least", 3, "get_many of 100: redis-py"),
    ("async get_many of 100: ours", "per_second", "at least", 3, "async get_many of 100: redis.asyncio"),
    ("get_or_load: ours", "cpu_us", "at most", 1.4, "get: ours"),
    ("async get_or_load: ours, bytes", "cpu_us", "at most", 1.4, "async get: ours, bytes"),
]


def run_all(seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Run every subject that is installed, in turn, and return the medians."""
    results: dict[str, list[dict[str, float]]] = {}
    with Server(memory="64MiB", threads=1) as server, Cache(server.url) as cache:
        cache.set_many({"bench": VALUE, **dict.fromkeys(KEYS, VALUE)})
        for _ in range(rounds):
            for name, (module, _) in SUBJECTS.items():
                if importlib.util.find_spec(module) is None:
                    continue
                command = [sys.executable, __file__, "--one", name, server.address, "--seconds", str(seconds)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
                results.setdefault(name, []).append(json.loads(done.stdout))
    return {
        name: {what: statistics.median(one[what] for one in measured) for what in ("per_second", "cpu_us")}
        for name, measured in results.items()
    }


def import_time() -> float:
    """Return the milliseconds that importing the client takes, the median of many."""
    times: dict[str, list[float]] = {"pass": [], "from globalcache import AsyncCache, Cache": []}
    with tempfile.TemporaryDirectory() as compiled:
        # As an installed package has it, whatever this environment says.
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(16):
            for code, taken in times.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, env=env)
                taken.append((time.perf_counter() - begun) * 1000)
    bare, imported = (statistics.median(taken[1:]) for taken in times.values())
    return imported - bare


def judge(medians: dict[str, dict[str, float]]) -> Iterator[Finding]:
    """Tell which bars hold."""
    words = {"per_second": "a second", "cpu_us": "of processor time"}
    for row, what, sense, factor, other in BARS:
        if row in medians and other in medians:
            ratio = medians[row][what] / medians[other][what]
            met = ratio >= factor if sense == "at least" else ratio <= factor
            yield Finding(f"{row}, beside {other}", f"{ratio:.2f} times {words[what]}", f"{sense} {factor}", met)
    cached = medians["cached function, memory://"]["cpu_us"]
    yield Finding("a cached function on a hit with memory://", f"{cached:.2f} us", "at most 3 us", cached <= 3)
    took = import_time()
    yield Finding("importing the client", f"{took:.0f} ms", "less than 50 ms", took < 50)


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        host, port = given.one[1].rsplit(":", 1)
        print(json.dumps(SUBJECTS[given.one[0]][1](host, int(port), given.seconds)))
        return
    medians = run_all(given.seconds, given.rounds)
    rows = [f"| {name} | {each['per_second']:,.0f} | {each['cpu_us']:.2f} |" for name, each in medians.items()]
    found = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(PACKAGES[name])}
    said = [*versions(["globalcache"]).values(), *(f"{name} {version}" for name, version in found.items())]
    how = (
        f"{dt.datetime.now(dt.UTC).date()}, Python {platform.python_version()}; {', '.join(said)}; one server of one "
        f"thread, values of {len(VALUE) + 2} bytes, {TASKS} tasks where it is async; medians of {given.rounds} rounds "
        f"of {given.seconds:g} s. `make bench` measures it anew."
    )
    head = "| what | calls, or keys, a second | processor time for each, us |\n|---|--:|--:|"
    why = (
        "One connection that waits for each answer is bound by the way to the server and back, which `ping` shows: "
        "of a get_many of 100 keys it is most."
    )
    parts = ["# The Python client beside others", how, table(list(judge(medians))), "\n".join([head, *rows]), why]
    text = "\n\n".join(parts) + "\n"
    print(text)
    (ROOT / "docs/benchmarks/client.md").write_text(text)


if __name__ == "__main__":
    main()
