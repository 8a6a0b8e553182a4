"""Mixed load of clients of every kind, with oracles: threads, tasks, forks and processes; servers and links that die.

Two servers stand behind proxies. Processes call them through both faces: functions that are cached, batches, plain
reads, writes and invalidations by key and by tag. Loads return, raise, give what cannot be stored, and are cancelled.
The run goes in rounds: first all is well, then links are cut, held and slow, servers and processes are killed and come
back. After each of the two every call is brought to its end, and the servers are asked for their leases. The rows are
counters in a file that all processes map, so each knows what a call must at least give:

- a value that was read equals the row of its version, in every field and type;
- no value is older than the last acknowledged invalidation or write of its row before the call began;
- while nothing dies, one load of a row runs at a time, and none runs again before its value expires, unless the row was
  written or a caller was cancelled meanwhile;
- a caller gets the exception object that its own process's function raised; LoadError only where a process may not try;
- half a second after the last call has ended no server holds a lease; after deaths, once the leases of the dead lapsed;
- no call stalls while nothing dies, none outlives its time, forks and exits with work in hand do not hang.

    python -m tests.faults.client_load --seconds 600 --seed 1

It prints what happened and exits with 1 if an oracle was not quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from globalcache import Cache, CacheError
from tests.conftest import GLOBALCACHE
from tests.faults.client_part import Part
from tests.faults.client_rows import (
    COUNT,
    DYING,
    END,
    EXIT,
    KINDS,
    LANES,
    LAST_CALL,
    NAMES,
    PAUSE,
    PROCESSES,
    RESTING,
    ROWS,
    SIZE,
    WELL,
    Counters,
    key_of,
)
from tests.faults.findings import Findings
from tests.faults.proxy import Proxy

# The longest value that the servers take; seconds after which a lease lapses, and by which times may differ.
LONGEST = "4KiB"
LAPSE, MARGIN = 3.0, 0.05


class Server:
    """A server in a process of its own that may be killed and comes back at the same address."""

    def __init__(self, folder: Path, number: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / f"server{number}"
        self.start()
        self.proxy = Proxy(self.address)

    def start(self) -> None:
        words = ["serve", "--listen", self.address, "--memory", "64MiB", "--threads", "1", "--max-value", LONGEST]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([GLOBALCACHE, *words], stderr=log, stdout=log)
        end = time.monotonic() + 10
        with Cache(f"globalcache://{self.address}", on_error="raise") as cache:
            while True:
                with contextlib.suppress(CacheError):
                    cache.ping()
                    return
                if time.monotonic() > end:
                    raise RuntimeError(self.log.read_text())
                time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def held(self) -> list[str]:
        """Return the keys that somebody has a lease of."""
        with Cache(f"globalcache://{self.address}", on_error="raise", timeout=5) as cache:
            if cache.server_info()[0]["leases"] == "0":
                return []
            facts = {key_of(index): cache.inspect(key_of(index)) for index in range(COUNT)}
        return [f"{key}: {known}" for key, known in facts.items() if known["lease"] not in {"none", "void"}]

    def stop(self) -> None:
        self.proxy.close()
        self.process.terminate()
        self.process.wait(20)


class Run:
    """Servers, proxies and processes, and the rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.findings = Findings()
        (folder / "counters").write_bytes(bytes(SIZE))
        self.counters = Counters(folder / "counters")
        self.servers = [Server(folder, number) for number in range(2)]
        self.urls = [f"globalcache://{server.proxy.address}" for server in self.servers]
        self.parts: list[subprocess.Popen[bytes]] = [self.part(number) for number in range(PROCESSES)]
        # When all was well, from and to.
        self.well: list[tuple[float, float]] = []

    def part(self, number: int) -> subprocess.Popen[bytes]:
        for lane in range(LANES):
            self.counters[RESTING + number * LANES + lane] = 0
        given = json.dumps([number, str(self.folder), self.urls, self.draw.randrange(1 << 30)])
        with (self.folder / f"part{number}").open("a") as log:
            return subprocess.Popen([sys.executable, "-m", "tests.faults.client_load", "--part", given], stderr=log)

    def rounds(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        time.sleep(min(2.0, seconds / 4))  # until processes have begun
        while time.monotonic() < end:
            span = min(6.0, seconds / 5)
            begun = time.monotonic()
            self.counters[0] = WELL
            time.sleep(span)
            self.well.append((begun, time.monotonic()))
            self.pause(0.5)
            self.counters[0] = DYING
            until = time.monotonic() + span
            while time.monotonic() < until:
                self.harm()
            self.mend()
            self.pause(0.5 + LAPSE)
            self.findings.counts["rounds"] += 1

    def harm(self) -> None:
        """Let something die, or be bad for a while."""
        server = self.draw.choice(self.servers)
        proxy, pause = server.proxy, self.draw.random() * 0.3
        what = self.draw.choice(["cut", "cut", "truncate", "hold", "slow", "refuse", "kill server", "kill", "end"])
        self.findings.counts[f"harm: {what}"] += 1
        match what:
            case "cut":
                proxy.cut()
            case "truncate":
                direction = self.draw.choice([proxy.to_client, proxy.to_server])
                direction.cut_after = self.draw.randrange(2000)
            case "hold":
                proxy.hold()
                time.sleep(self.draw.random() * 1.5)
                proxy.release()
            case "slow":
                proxy.to_client.delay = self.draw.random() * 0.2
            case "refuse":
                proxy.refusing = True
                proxy.cut()
            case "kill server":
                server.kill()
                time.sleep(self.draw.random())
                server.start()
            case _:
                self.end_part(what)
        time.sleep(pause)
        proxy.refusing, proxy.to_client.delay = False, 0.0

    def end_part(self, what: str) -> None:
        """End a process, by a signal that it does not hear or by one that it does, and begin it again."""
        number = self.draw.randrange(PROCESSES)
        part = self.parts[number]
        if what == "kill":
            part.kill()
        else:
            part.send_signal(signal.SIGTERM)
        try:
            part.wait(EXIT)
        except subprocess.TimeoutExpired:
            said = (self.folder / f"part{number}").read_text()
            self.findings.fault("a process that does not exit", f"{number}: {said[-3000:]}")
            part.kill()
            part.wait()
        self.parts[number] = self.part(number)

    def mend(self) -> None:
        for server in self.servers:
            for direction in (server.proxy.to_client, server.proxy.to_server):
                direction.cut_after = None

    def pause(self, limit: float) -> None:
        """Have all calls end, and look for leases that nobody has."""
        self.counters[0] = PAUSE
        end = time.monotonic() + LAST_CALL + 5
        lanes = range(RESTING, RESTING + PROCESSES * LANES)
        while not all(self.counters[lane] for lane in lanes):
            if time.monotonic() > end:
                self.findings.fault("calls that do not end", str([n for n in lanes if not self.counters[n]]))
                return
            time.sleep(0.005)
        end = time.monotonic() + limit
        held = [key for server in self.servers for key in server.held()]
        while held and time.monotonic() < end:
            time.sleep(0.02)
            held = [key for server in self.servers for key in server.held()]
        self.findings.check(not held, "leases of no running load", f"after {limit} s: {held[:3]}")

    def stop(self) -> None:
        self.counters[0] = END
        for number, part in enumerate(self.parts):
            try:
                status = part.wait(LAST_CALL + 10)
            except subprocess.TimeoutExpired:
                self.findings.fault("a process that does not exit", str(number))
                part.kill()
                part.wait()
            else:
                self.findings.check(status == 0, "a process ended badly", f"{number}: {status}")
            said = (self.folder / f"part{number}").read_text()
            self.findings.check("Traceback" not in said, "a process said", said[-1500:])
        for server in self.servers:
            server.stop()
            self.findings.check("panicked" not in server.log.read_text(), "a server panicked", str(server.log))

    def judge(self) -> None:
        """Read what the processes wrote, and compare the loads of each row with one another."""
        loads: dict[int, list[Any]] = {}
        changes: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for line in (self.folder / "log").read_text().splitlines():
            word, *facts = json.loads(line)
            match word:
                case "fault":
                    self.findings.fault(*facts)
                case "counts":
                    self.findings.counts.update(facts[0])
                case "begin":
                    number, index, is_local, at = facts
                    loads[number] = [index, is_local, at, None, "died"]
                case "end":
                    number, how, at = facts
                    loads[number][3:] = [at, how]
                case "changed":
                    changes[facts[0]].append((facts[1], facts[2]))
        by_row: dict[int, list[Any]] = defaultdict(list)
        for load in loads.values():
            self.findings.counts["loads without a lease" if load[1] else "loads"] += 1
            if not load[1]:
                by_row[load[0]].append(load)
        for index, of_row in by_row.items():
            self.judge_row(index, sorted(of_row, key=lambda load: float(load[2])), changes[index])

    def judge_row(self, index: int, loads: list[Any], changes: list[tuple[float, float]]) -> None:
        policy = KINDS[NAMES[index // ROWS]]
        # What is loaded expires up to a tenth earlier than it may.
        lives = 0.9 * min(policy["ttl"], policy.get("refresh_after", policy["ttl"]))
        for one, other in itertools.pairwise(loads):
            _, _, begun, ended, how = one
            again = other[2]
            if how not in {"ok", "failed"} or not self.was_well(begun, again):
                continue
            if any(since - MARGIN < again and until + MARGIN > begun for since, until in changes):
                continue
            detail = f"{key_of(index)}: {one[2:]}, {other[2:]}"
            self.findings.check(again > ended, "two loads of a row at once", detail)
            if how == "ok":
                self.findings.check(again > ended + lives - MARGIN, "loaded again before it expired", detail)

    def was_well(self, since: float, until: float) -> bool:
        return any(begun <= since and until <= ended for begun, ended in self.well)


def load(seconds: float, seed: int) -> Findings:
    """Load servers from several processes, and return what the oracles saw."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seed)
        try:
            run.rounds(seconds)
        finally:
            run.stop()
        run.judge()
        return run.findings


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed load of clients with oracles.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", help="what one of its processes is told")
    given = parser.parse_args()
    if given.part:
        number, folder, urls, seed = json.loads(given.part)
        logging.getLogger("globalcache").setLevel(logging.CRITICAL)
        part = Part(number, Path(folder), urls, seed)
        signal.signal(signal.SIGTERM, part.exit)
        part.run()
        return 0
    findings = load(given.seconds, given.seed)
    return findings.report(f"clients, seed {given.seed}, {given.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
