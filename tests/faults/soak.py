"""Mixed load for a long time: memory stays flat, nothing fails, the end is as fast as the beginning.

The load generator asks at a steady rate and measures. Beside it threads write values of 10 bytes to 200 kB, with and
without expiry and tags, on connections that live for some hundred commands, invalidate keys and tags, and read keys
that workers load; a worker is killed every ten seconds. The server is full before the first of ten parts begins.
`make soak SECONDS=1800` runs it; it exits with 1 if a bar is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from globalcache import Cache
from tests.conftest import GLOBALCACHE
from tests.faults.test_server import report, resident
from tests.integration.test_workers import APPLICATION, Served

MEMORY = 64 << 20
SIZES = [10, 100, 1000, 10_000, 200_000]
PARTS = 10
RATE = 2000


class Churn:
    """Threads that use the cache in every other way while it is measured."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.commands = self.kills = 0
        self.errors: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._guarded, args=(number,)) for number in range(4)]
        self.threads.append(threading.Thread(target=self._kill))

    def _guarded(self, number: int) -> None:
        draw = random.Random(number)
        while not self.ended.is_set():
            try:
                with Cache(self.server.url, timeout=30) as cache:
                    for _ in range(draw.randrange(100, 500)):
                        self._step(cache, draw)
                        self.commands += 1
                        if self.ended.wait(0.002):
                            break
            except Exception as error:  # noqa: BLE001 - counted: the bar is none
                self.errors.append(f"{type(error).__name__}: {error}")

    def _step(self, cache: Cache, draw: random.Random) -> None:
        key = f"churn:{draw.randrange(20_000)}"
        match draw.randrange(10):
            case 0:
                cache.invalidate(key)
            case 1:
                cache.invalidate(tags=f"tag:{draw.randrange(500)}")
            case 2:
                number = draw.randrange(200)
                if not int(cache.command("GET", f"pid:{number}")):
                    raise ValueError(f"pid:{number} is wrong")
            case 3 | 4 | 5:
                found = cache.get(key)
                if found is not None and not found.startswith(key):
                    raise ValueError(f"{key} holds another value")
            case _:
                ttl = draw.choice([1, 60, 3600])
                value = key + "x" * draw.choice(SIZES)
                cache.set(key, value, ttl=ttl, tags=[f"tag:{draw.randrange(500)}"])

    def _kill(self) -> None:
        number = 1_000_000
        while not self.ended.wait(10):
            number += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server.pid(number), signal.SIGKILL)
                self.kills += 1

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(60)


def measure(url: str, seconds: float) -> dict[str, float]:
    """Ask at a steady rate for a while."""
    options = ["--seconds", str(seconds), "--rate", str(RATE), "--connections", "20", "--keys", "20000", "--json"]
    done = subprocess.run([GLOBALCACHE, "bench", "--url", url, *options], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fill(url: str) -> None:
    """Write twice what fits."""
    with Cache(url, timeout=30) as cache:
        for number in range(2 * MEMORY // 100_000):
            cache.set(f"fill:{number}", "x" * 100_000)


class Memory:
    """What is resident, looked at every second: the medians of parts are compared, since values come and go."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seen: list[int] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()

    def _look(self) -> None:
        while not self.ended.wait(1):
            self.seen.append(resident(self.pid))

    def part(self) -> float:
        """Return the median since the last call."""
        seen, self.seen = self.seen, []
        return statistics.median(seen)

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


def soak(seconds: float) -> bool:
    """Run and report; tells whether all bars were reached."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APPLICATION)
        server = Served(Path(folder), "--memory", str(MEMORY), "--workers", "2")
        churn, memory = Churn(server), Memory(server.process.pid)
        try:
            fill(server.url)
            for thread in churn.threads:
                thread.start()
            measure(server.url, max(5.0, min(60, seconds / PARTS)))
            memory.part()
            held, parts = [], []
            for part in range(PARTS):
                parts.append(measure(server.url, seconds / PARTS))
                held.append(memory.part())
                print(
                    f"  {part + 1:2} of {PARTS}: {held[-1] / 2**20:.1f} MiB, p99.9 {parts[-1]['p999']:.0f} us",
                    flush=True,
                )
        finally:
            memory.end()
            churn.end()
            server.process.terminate()
            ended = server.process.wait(20)
            server.end()
    # The three last against the three first: one part may have more large values than another.
    growth = statistics.mean(held[-3:]) / statistics.mean(held[:3]) - 1
    slower = parts[-1]["p999"] / parts[0]["p999"]
    errors = len(churn.errors) + sum(int(part["errors"]) for part in parts)
    asked = churn.commands + sum(int(part["requests"]) for part in parts)
    report("memory of the last parts to that of the first", f"{growth:+.1%}", "+2 %")
    report("errors", f"{errors} in {asked:,} commands, {churn.kills} workers killed, exit code {ended}", "0")
    report("p99.9 of the last part to that of the first", f"{slower:.2f}", "1.2")
    for error in churn.errors[:5]:
        print(f"    {error}")
    return growth <= 0.02 and errors == 0 and slower <= 1.2 and ended == 0


if __name__ == "__main__":
    print(f"soak for {sys.argv[1]} s; begun {time.strftime('%H:%M:%S')}")
    sys.exit(not soak(float(sys.argv[1])))
