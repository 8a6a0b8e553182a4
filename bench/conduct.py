"""Measure how the data plane behaves towards clients of every kind: fairness, idle ones, greedy ones, a second thread.

Each figure is measured beside what it is compared with, in turns, and is a median over the rounds.
"""

from __future__ import annotations

import json
import resource
import socket
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from globalcache import _core
from peers import Peer, commands, running

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE = 10_000
# The first is the part of its best rate that the other server is asked for in an open loop.
LOAD_SHARE = 0.7
# A virtual machine stops for some milliseconds about once a second, whatever runs on it: a window holds several such
# stops, so that none has them by luck, and the median is of enough windows.
OPEN_SECONDS = 2.0
OPEN_ROUNDS = 7
BIG = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A figure, what it is to be at most or at least, and whether it is."""

    what: str
    figure: str
    wanted: str
    met: bool


def load(peer: Peer, seconds: float, **more: Any) -> dict[str, float]:
    """Put a load on a server from the second processor."""
    options = {"address": peer.address, "pid": peer.pid, "cpu": 1, "warm_up": 0.2, "seconds": seconds, **more}
    report: dict[str, float] = json.loads(_core.run_bench(json.dumps(options)))
    if report["errors"] or report["misses"]:
        raise RuntimeError(f"{more} on {peer.name}: {report}")
    return report


def memory(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def connect(peer: Peer, count: int) -> list[socket.socket]:
    """Open connections, each of which has asked something and had its answer."""
    opened = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", peer.port), 10)
        one.sendall(b"*1\r\n$4\r\nPING\r\n")
        if one.recv(7) != b"+PONG\r\n":
            raise RuntimeError("no answer")
        opened.append(one)
    return opened


def fairness(ours: Peer, rounds: int, seconds: float) -> Iterator[Finding]:
    """Tell what the slowest connection gets when the server has more to do than it can."""
    for pipeline in (1, 64):
        shares = [load(ours, seconds, pipeline=pipeline, preload=False)["least_share"] for _ in range(rounds)]
        share = statistics.median(shares)
        what = f"slowest of 50 connections at saturation, pipeline {pipeline}, as a share of the mean"
        yield Finding(what, f"{share:.2f}", "at least 0.80", share >= 0.8)


def idle(ours: Peer, rounds: int, seconds: float) -> Iterator[Finding]:
    """Tell what an idle connection costs, and what ten thousand of them do to the others."""
    before = [load(ours, seconds, preload=False)["p99"] for _ in range(rounds)]
    held = memory(ours.pid)
    opened = connect(ours, IDLE)
    each = (memory(ours.pid) - held) / IDLE
    beside = [load(ours, seconds, preload=False)["p99"] for _ in range(rounds)]
    for one in opened:
        one.close()
    yield Finding(f"memory of one of {IDLE:,} idle connections", f"{each:,.0f} bytes", "at most 4,096", each <= 4096)
    yield _times(f"p99 of others beside {IDLE:,} idle connections", before, beside, 1.5)


def greedy(ours: Peer, rounds: int, seconds: float) -> Iterator[Finding]:
    """Tell what readers that stall, and readers of enormous values, do to the others."""
    (writer,) = connect(ours, 1)
    writer.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % BIG + b"b" * BIG + b"\r\n")
    if writer.recv(5) != b"+OK\r\n":
        raise RuntimeError("the value was not stored")
    alone = [load(ours, seconds, preload=False)["p99"] for _ in range(rounds)]
    stalled = connect(ours, 4)
    for one in stalled:
        one.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 100)
    time.sleep(0.2)
    beside = [load(ours, seconds, preload=False)["p99"] for _ in range(rounds)]
    yield _times("p99 of others beside 4 readers that stall with 100 MiB asked for", alone, beside, 1.5)
    for one in [writer, *stalled]:
        one.close()


def open_loop(peers: dict[str, Peer], rounds: int, seconds: float) -> Iterator[Finding]:
    """Compare the slowest answers at a rate that the other server can bear, in windows no shorter than OPEN_SECONDS."""
    if "valkey" not in peers:
        return
    ours, other = peers["globalcache"], peers["valkey"]
    rounds, seconds = max(rounds, OPEN_ROUNDS), max(seconds, OPEN_SECONDS)
    load(other, 0.1)
    best = statistics.median(load(other, seconds, preload=False)["throughput"] for _ in range(rounds))
    found: dict[str, list[float]] = {"globalcache": [], "valkey": []}
    for _ in range(rounds):
        for peer in (ours, other):
            report = load(peer, seconds, preload=False, rate=best * LOAD_SHARE)
            found[peer.name].append(report["p999"])
    mine, theirs = (statistics.median(found[name]) for name in ("globalcache", "valkey"))
    what = f"p99.9 in an open loop of {best * LOAD_SHARE:,.0f} requests a second, 70 % of Valkey's best"
    what += f", median of {rounds} windows of {seconds:g} s in turns"
    yield Finding(what, f"{mine:,.0f} us", f"at most {theirs:,.0f} us, Valkey's", mine <= theirs)


def threads(rounds: int, seconds: float) -> Iterator[Finding]:
    """Compare the processor time for each request with two threads and with one."""
    found: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        peers = {
            count: stack.enter_context(running("globalcache", commands(threads=count)["globalcache"], cpu=None))
            for count in found
        }
        for round_ in range(rounds):
            for count, peer in peers.items():
                report = load(peer, seconds, pipeline=16, preload=round_ == 0)
                found[count].append(report["server_cpu_ns"])
    one, two = statistics.median(found[1]), statistics.median(found[2])
    what = "processor time for each request with two threads, pipeline 16, generator beside them"
    yield Finding(what, f"{two:,.0f} ns", f"told beside one thread's: {one:,.0f} ns, {two / one:.2f} times", met=True)


def _times(what: str, alone: list[float], beside: list[float], bound: float) -> Finding:
    before, after = statistics.median(alone), statistics.median(beside)
    figure = f"{after:,.0f} us, {after / before:.2f} times the {before:,.0f} us without"
    return Finding(what, figure, f"at most {bound} times", after <= before * bound)


def findings(rounds: int, seconds: float) -> list[Finding]:
    """Measure everything."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        start = commands()
        start["globalcache"] += ["--max-clients", str(2 * IDLE)]
        names = [name for name in ("globalcache", "valkey") if name in start]
        peers: dict[str, Peer] = {name: stack.enter_context(running(name, start[name])) for name in names}
        ours = peers["globalcache"]
        load(ours, 0.1)
        found = [*fairness(ours, rounds, seconds), *idle(ours, rounds, seconds)]
        found += [*greedy(ours, rounds, seconds), *open_loop(peers, rounds, seconds)]
    return found + list(threads(rounds, seconds))


def table(found: list[Finding]) -> str:
    """Write the findings as a table."""
    lines = ["| what | figure | wanted | met |", "|---|--:|--:|:-:|"]
    lines += [f"| {one.what} | {one.figure} | {one.wanted} | {'yes' if one.met else '**no**'} |" for one in found]
    return "\n".join(lines)
