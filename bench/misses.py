"""Measure misses: a herd on a cold key, who waits, loaders that misbehave, loads a second, a database that is down.

Everything is done by real processes: the server, workers, and clients each in processes of their own. Where a figure
is a time, it runs from the event to the last answer, as clients in Python see it, so it is at most that.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conduct import Finding, load, table
from globalcache import Server
from peers import ROOT, Peer, commands, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCESSES, TASKS = 8, 125
WAITERS = PROCESSES * TASKS
# Seconds that a lease lasts unless its holder renews it.
LEASE = 3.0

# A client process: it says that it is ready, waits for a line, and has its tasks ask for the key at once. It tells of
# each load when it begins, and in the end when the last task had the value.
CLIENT = """
import asyncio, os, sys, time
from globalcache import AsyncCache

async def main(url, tasks):
    async with AsyncCache(url, timeout=20, on_error="raise") as cache:
        async def load():
            print("load", os.getpid(), flush=True)
            await asyncio.sleep(0.5)
            return "value"
        await cache.get("other")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        found = await asyncio.gather(*(cache.get_or_load("hot", load, ttl=60) for _ in range(tasks)))
        assert found == ["value"] * tasks, found
        print("done", time.monotonic(), flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

# The application whose loaders misbehave, each in its own way.
APPLICATION = """
import asyncio, os, sys, time
from pathlib import Path
from globalcache import Cache

cache = Cache()
here = Path(__file__).parent

def tell() -> None:
    with open(here / "begun", "a") as file:
        file.write(f"{time.monotonic()}\\n")

@cache.loader("block:{id:int}", ttl="1m", timeout="25s")
def block(id: int) -> int:
    tell()
    time.sleep(20)
    return id

@cache.loader("burn:{id:int}", ttl="1m", timeout="25s")
def burn(id: int) -> int:
    tell()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    return id

@cache.loader("die:{id:int}", ttl="1m")
def die(id: int) -> int:
    tell()
    os._exit(1)

@cache.loader("one:{id:int}", ttl="10m")
async def one(id: int) -> int:
    return id

@cache.batch_loader("many:{id:int}", ttl="10m", max_batch_size=500)
async def many(ids: list[int]) -> dict[int, int]:
    return {id: id for id in ids}

@cache.loader("row:{id:int}", ttl="1s", stale_if_error="1h")
async def row(id: int) -> float:
    if (here / "down").exists():
        with open(here / "attempts", "a") as file:
            file.write(f"{time.monotonic()}\\n")
        raise ConnectionError("the database is down")
    return time.monotonic()
"""


def waiters(rounds: int) -> Iterator[Finding]:
    """Tell how soon those who wait for a key have their answers after it was filled."""
    with running("globalcache", commands()["globalcache"]) as server:
        # Tickets and pushes on few connections, in place on many.
        for connections, bar in ((PROCESSES, 2), (WAITERS, 10)):
            herd = {"waiters": WAITERS, "connections": connections, "requests": WAITERS}
            median = statistics.median(load(server, 10.0, **herd)["max"] for _ in range(rounds)) / 1000
            what = f"{WAITERS:,} wait for a key on {connections:,} connections: the last answer after its fill"
            yield Finding(what, f"{median:.2f} ms", f"at most {bar} ms", median <= bar)


class Herd:
    """Processes whose tasks all ask for one cold key."""

    def __init__(self, url: str) -> None:
        words = [sys.executable, "-c", CLIENT, url, str(TASKS)]
        pipe = subprocess.PIPE
        self.processes = [subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
        self.lines: list[str] = []
        self.selector = selectors.DefaultSelector()
        for process in self.processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a client process does not start")
            self.selector.register(process.stdout, selectors.EVENT_READ)

    def go(self) -> None:
        """Have all ask."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def read_until(self, over: Callable[[], bool]) -> None:
        """Collect what the processes say."""
        end = time.monotonic() + 30
        while not over():
            if time.monotonic() > end:
                raise RuntimeError(f"clients said only {self.lines}")
            for key, _ in self.selector.select(0.1):
                assert not isinstance(key.fileobj, int)
                line = key.fileobj.readline()  # type: ignore[attr-defined]
                if line:
                    self.lines.append(line)
                else:
                    self.selector.unregister(key.fileobj)

    def said(self, word: str) -> list[str]:
        """Return what followed a word, of each line that began with it."""
        return [line.split()[1] for line in self.lines if line.startswith(word)]

    def end(self) -> None:
        """End all that are left."""
        for process in self.processes:
            process.kill()
            process.communicate()


def herd(rounds: int) -> Iterator[Finding]:
    """Tell how often a cold key is loaded that a thousand clients ask for, and what a lost holder costs them."""
    for what, number, most, bound in (
        ("ask for a cold key", None, 1, None),
        ("ask for it, the process that loads is stopped", signal.SIGSTOP, 2, LEASE + 1.0),
        ("ask for it, the process that loads is killed", signal.SIGKILL, 2, 1.0),
    ):
        loads, times = [], []
        for _ in range(rounds):
            with Server(memory="64MiB", threads=1) as server:
                clients = Herd(server.url)
                try:
                    clients.go()
                    clients.read_until(lambda clients=clients: bool(clients.said("load")))  # type: ignore[misc]
                    left, begun = PROCESSES, time.monotonic()
                    if number is not None:
                        left -= 1
                        os.kill(int(clients.said("load")[0]), number)
                    clients.read_until(lambda clients=clients, left=left: len(clients.said("done")) == left)  # type: ignore[misc]
                    loads.append(len(clients.said("load")))
                    times.append(max(float(moment) for moment in clients.said("done")) - begun)
                finally:
                    clients.end()
        took = statistics.median(times)
        figure = f"{max(loads)} {'query' if max(loads) == 1 else 'queries'}, {took:.2f} s with a load of 0.5 s"
        wanted = f"at most {most}" + (f", within {bound:.1f} s" if bound else "")
        met = max(loads) <= most and (bound is None or took <= bound)
        yield Finding(f"{WAITERS:,} clients in {PROCESSES} processes {what}", figure, wanted, met)


@contextmanager
def working(server: Peer, *before: str) -> Iterator[Path]:
    """Run a worker for the application; its command line begins with what is to come `before`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APPLICATION)
        words = [str(Path(sys.executable).with_name("globalcache")), "worker", "app:cache", "--url"]
        words = [*before, *words, f"globalcache://{server.address}"]
        process = subprocess.Popen(words, cwd=folder, process_group=0, stderr=subprocess.DEVNULL)
        try:
            yield Path(folder)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# Starts a worker anew whenever it ends, as `globalcache serve` does.
KEEPER = """
import subprocess, sys
while True:
    subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
"""


class Asker:
    """A connection that has keys loaded, and need not wait for them."""

    def __init__(self, server: Peer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 60)
        self.reader = self.socket.makefile("rb")
        self.number = 0
        self.ask("HELLO 3\r\nPING")
        while self.reader.readline() != b"+PONG\r\n":
            pass

    def ask(self, line: str) -> None:
        """Send a request."""
        self.socket.sendall(line.encode() + b"\r\n")

    def ask_many(self, kind: str, first: int, last: int) -> None:
        """Ask for keys with numbers from `first` on."""
        self.ask("MGET " + " ".join(f"{kind}:{number}" for number in range(first, last)))

    def values(self, count: int) -> int:
        """Read an array of so many replies, and return how many of them are values."""
        if (line := self.reader.readline()) != b"*%d\r\n" % count:
            raise RuntimeError(f"no array of {count}: {line!r}")
        found = 0
        for _ in range(count):
            line = self.reader.readline()
            if line.startswith(b"$"):
                self.reader.read(int(line[1:]) + 2)
                found += 1
        return found

    def wait_for_worker(self) -> None:
        """Return when a worker loads a key that nobody has asked for: another may still be there from before."""
        for _ in range(400):
            self.ask(f"GET one:{time.time_ns()}")
            if self.reader.readline().startswith(b"$"):
                self.reader.readline()
                return
            time.sleep(0.05)
        raise RuntimeError("no worker came")

    def tickets(self, kind: str, count: int) -> None:
        """Have keys loaded that nobody has asked for."""
        for _ in range(count):
            self.number += 1
            self.ask(f"CACHE.FETCH {kind}:{self.number} WAIT 20000 TICKET")


def isolation(rounds: int) -> Iterator[Finding]:
    """Tell what loaders that block, burn or die cost those who ask for something else.

    One connection asks for hits, so that the second processor, which it shares with the worker, has time left for it.
    A round counts only if loads had begun, or the worker died, by the end of its window.
    """
    with running("globalcache", commands()["globalcache"]) as server:
        load(server, 0.2)
        hits = {"preload": False, "connections": 1}
        for kind, what in (("block", "blocks"), ("burn", "burns a processor"), ("die", "dies again and again")):
            found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            begun = []
            for _ in range(rounds):
                found[False].append(load(server, 1.0, **hits))
                with working(server, "taskset", "-c", "1", "chrt", "--idle", "0", sys.executable, "-c", KEEPER) as here:
                    asker = Asker(server)
                    asker.wait_for_worker()
                    over = threading.Event()
                    asking = threading.Thread(target=_keep_asking, args=(asker, kind, over))
                    asking.start()
                    time.sleep(0.5)
                    found[True].append(load(server, 1.0, **hits))
                    over.set()
                    asking.join()
                    asker.socket.close()
                    told = here / "begun"
                    begun.append(len(told.read_text().split()) if told.exists() else 0)
            medians = {
                (name, busy): statistics.median(figures[name] for figures in found[busy])
                for name in ("server_cpu_ns", "p99")
                for busy in (False, True)
            }
            cpu, p99 = (medians[name, True] / medians[name, False] for name in ("server_cpu_ns", "p99"))
            figure = f"processor time {cpu:.2f} times, p99 {p99:.2f} times; {min(begun)} to {max(begun)} loads begun"
            met = cpu <= 1.05 and p99 <= 1.5 and min(begun) > 0
            yield Finding(f"a loader that {what}: hits of others", figure, "at most 1.05 and 1.5 times", met)


def _keep_asking(asker: Asker, kind: str, over: threading.Event) -> None:
    """Have some new keys loaded every moment, a hundred in a second."""
    while not over.wait(0.05):
        asker.tickets(kind, 5)


def loads(rounds: int, keys: int = 50_000, at_once: int = 500) -> Iterator[Finding]:
    """Tell how many keys one worker loads in a second by a function that only returns."""
    for kind, what, bar in (("many", "a function of many keys", 30_000), ("one", "a function of one key", 10_000)):
        rates = []
        with running("globalcache", commands()["globalcache"], cpu=None) as server, working(server):
            askers = [Asker(server) for _ in range(4)]
            askers[0].wait_for_worker()
            for round_ in range(rounds):
                begun, served = time.perf_counter(), 0
                for start in range(round_ * keys, (round_ + 1) * keys, at_once * len(askers)):
                    for place, asker in enumerate(askers):
                        first = start + place * at_once
                        asker.ask_many(kind, first, first + at_once)
                    served += sum(asker.values(at_once) for asker in askers)
                rates.append(served / (time.perf_counter() - begun))
        rate = statistics.median(rates)
        yield Finding(f"loads of one worker by {what}", f"{rate:,.0f} a second", f"at least {bar:,}", rate >= bar)


def outage(seconds: float, keys: int = 200) -> Iterator[Finding]:
    """Tell what readers get, and what a database is asked, while it is down and when it is back."""
    with running("globalcache", commands()["globalcache"], cpu=None) as server, working(server) as here:
        asker = Asker(server)
        asker.wait_for_worker()
        asker.ask_many("row", 0, keys)
        asker.values(keys)
        (here / "down").touch()
        asked, served, end = 0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            asker.ask_many("row", 0, keys)
            served += asker.values(keys)
            asked += keys
            time.sleep(0.05)
        attempts = [float(line) for line in (here / "attempts").read_text().split()]
        (here / "down").unlink()
        late = _until_fresh(server, time.monotonic())
    most = max(sum(1 for other in attempts if moment <= other < moment + 1) for moment in attempts)
    what = f"database down for {seconds:.0f} s, {keys} keys within stale_if_error: reads that were served"
    yield Finding(what, f"{served:,} of {asked:,}", "all", served == asked)
    yield Finding("attempts on it in the worst second", f"{most}", "at most 10", most <= 10)
    yield Finding("values are fresh after it is back", f"{late:.2f} s", "at most 2 s", late <= 2)


def _until_fresh(server: Peer, back: float) -> float:
    """Return how long it takes until a value was loaded after the database was back."""
    connection = socket.create_connection(("127.0.0.1", server.port), 10)
    reader = connection.makefile("rb")
    while time.monotonic() < back + 10:
        connection.sendall(b"GET row:1\r\n")
        reader.readline()
        if float(reader.readline()) > back:
            return time.monotonic() - back
        time.sleep(0.02)
    raise RuntimeError("the value never became fresh")


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    "herd": lambda given: herd(given.rounds),
    "waiters": lambda given: waiters(10 * given.rounds),
    "isolation": lambda given: isolation(given.rounds),
    "loads": lambda given: loads(given.rounds),
    "outage": lambda given: outage(given.outage),
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure only this, and write no report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--outage", type=float, default=60, help="seconds that the database is down")
    given = parser.parse_args()
    found = []
    for name, part in PARTS.items():
        if given.only in (None, name):
            for finding in part(given):
                print(f"{finding.what}: {finding.figure} ({finding.wanted})", flush=True)
                found.append(finding)
    print(table(found))
    if given.only is None:
        folder = ROOT / "docs/benchmarks"
        text = __doc__.strip().removeprefix("Measure misses: ").replace("\n", " ", 1) if __doc__ else ""
        (folder / "misses.md").write_text(f"# Misses\n\n{text}\n`make bench` measures it anew.\n\n{table(found)}\n")
        (folder / "misses.json").write_text(json.dumps([vars(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
