"""Measure the data plane beside other servers: processor time for each request first, then throughput.

Each server is pinned to processor 0 and the generator to processor 1. In every round each cell is measured on every
server one after the other, so that what disturbs the machine disturbs all; the figures are medians over the rounds.
Only the server under load works: the others are idle, and the processor time is that of the server's own threads.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import conduct
from globalcache import _core
from peers import ROOT, Peer, commands, running, versions
from pictures import bars

Figures = dict[str, float]

SIZES = (32, 100, 512)
OTHERS = ("redis", "valkey", "memcached")


@dataclass(frozen=True)
class Cell:
    """A load: who is asked for what."""

    name: str
    options: tuple[tuple[str, Any], ...]
    peers: tuple[str, ...] = ("globalcache", "redis", "valkey")
    # Bytes of a request and of its reply, for the echo.
    echo: tuple[int, int] | None = None


def cells() -> list[Cell]:
    """Return every load that is measured."""
    found = []
    for size in SIZES:
        header = len(f"${size}\r\n")
        get = len("*2\r\n$3\r\nGET\r\n$16\r\n") + 16 + 2
        put = len("*3\r\n$3\r\nSET\r\n$16\r\n") + 16 + 2 + header + size + 2
        for pipeline in (1, 16, 64):
            for kind, reads in (("get", 1.0), ("set", 0.0), ("mixed", 0.9)):
                echo = {"get": (get, header + size + 2), "set": (put, 5)}.get(kind)
                options = {"reads": reads, "pipeline": pipeline, "value_size": size}
                peers = ("globalcache", "redis", "valkey", "memcached")
                found.append(Cell(f"{kind}-p{pipeline}-{size}", tuple(options.items()), peers, echo))
    mget = {"reads": 1.0, "multi": 100, "value_size": 100, "connections": 50}
    return [*found, Cell("mget100-p1-100", tuple(mget.items()))]


def measure(cell: Cell, peer: Peer, seconds: float, *, preload: bool) -> Figures:
    """Put one load on one server, which holds the values already unless it is to `preload` them."""
    options = {
        **dict(cell.options),
        "address": peer.address,
        "pid": peer.pid,
        "cpu": 1,
        "warm_up": 0.1,
        "seconds": seconds,
        "protocol": "memcached" if peer.name == "memcached" else "resp",
        "preload": preload,
        "reply_size": cell.echo[1] if cell.echo and peer.name == "echo" else 0,
    }
    report: Figures = json.loads(_core.run_bench(json.dumps(options)))
    if peer.name != "echo" and (report["errors"] or report["misses"]):
        raise RuntimeError(f"{cell.name} on {peer.name}: {report}")
    return report


def run(chosen: list[Cell], rounds: int, seconds: float) -> dict[str, dict[str, Figures]]:
    """Measure all cells in all rounds and return the medians for each cell and server."""
    samples: dict[tuple[str, str], list[Figures]] = {}
    echo = ROOT / "target/release/examples/echo"
    with ExitStack() as stack:
        start = commands()
        peers = {name: stack.enter_context(running(name, start[name])) for name in start}
        # The size of the values that each server holds: they are written anew only when it changes.
        held: dict[str, int] = {}
        for round_ in range(rounds):
            for cell in chosen:
                present = [peers[name] for name in cell.peers if name in peers]
                if cell.echo:
                    sizes = [str(size) for size in cell.echo]
                    with running("echo", [str(echo), "{port}", *sizes]) as peer:
                        samples.setdefault((cell.name, "echo"), []).append(measure(cell, peer, seconds, preload=False))
                for peer in present:
                    size = dict(cell.options)["value_size"]
                    figures = measure(cell, peer, seconds, preload=held.get(peer.name) != size)
                    held[peer.name] = size
                    samples.setdefault((cell.name, peer.name), []).append(figures)
                line = ", ".join(
                    f"{name} {samples[cell.name, name][-1]['server_cpu_ns']:.0f}"
                    for name in ("globalcache", "redis", "valkey", "memcached", "echo")
                    if (cell.name, name) in samples
                )
                print(
                    f"round {round_ + 1}/{rounds}  {cell.name:16}  ns of the server for each request: {line}",
                    flush=True,
                )
    result: dict[str, dict[str, Figures]] = {}
    for (cell_name, name), all_rounds in samples.items():
        medians = {key: statistics.median(figures[key] for figures in all_rounds) for key in all_rounds[0]}
        result.setdefault(cell_name, {})[name] = medians
    return result


def table(result: dict[str, dict[str, Figures]], key: str, title: str, scale: float = 1.0) -> str:
    """Write one figure of all cells and servers, with our ratio to each other server."""
    names = [name for name in ("redis", "valkey", "memcached", "echo") if any(name in row for row in result.values())]
    lines = [f"### {title}", "", f"| load | globalcache | {' | '.join(f'{name} | ratio' for name in names)} |"]
    lines.append("|---|" + "--:|" * (1 + 2 * len(names)))
    for cell, row in result.items():
        ours = row["globalcache"][key] * scale
        parts = [f"{ours:,.0f}"]
        for name in names:
            theirs = row[name][key] * scale if name in row else None
            parts += [f"{theirs:,.0f}", f"{ours / theirs:.2f}"] if theirs else ["", ""]
        lines.append(f"| {cell} | {' | '.join(parts)} |")
    return "\n".join(lines)


# What is promised of the processor time: the load, the other server, and the ratio that is the most.
BARS = (
    ("get-p1-100", "valkey", 0.95),
    ("set-p1-100", "valkey", 0.95),
    ("get-p1-100", "echo", 1.12),
    ("set-p1-100", "echo", 1.12),
    ("get-p16-100", "valkey", 0.75),
    ("set-p16-100", "valkey", 0.75),
    ("get-p64-100", "valkey", 0.65),
    ("set-p64-100", "valkey", 0.65),
    ("mget100-p1-100", "valkey", 0.5),
)
# In no cell behind any other server by more than this.
BEHIND = 1.03


def promises(result: dict[str, dict[str, Figures]]) -> list[conduct.Finding]:
    """Compare what was measured with what is promised."""
    found = []

    def ratio(cell: str, other: str) -> float:
        return result[cell]["globalcache"]["server_cpu_ns"] / result[cell][other]["server_cpu_ns"]

    for cell, other, most in BARS:
        if other in result.get(cell, {}):
            is_ = ratio(cell, other)
            what = f"processor time of {cell} as a share of {other}'s"
            found.append(conduct.Finding(what, f"{is_:.2f}", f"at most {most:.2f}", is_ <= most))
    others = [(ratio(cell, name), cell, name) for cell in result for name in result[cell] if name in OTHERS]
    if others:
        worst, cell, name = max(others)
        what = f"the largest such share of any load and server: {cell} beside {name}"
        found.append(conduct.Finding(what, f"{worst:.2f}", f"at most {BEHIND}", worst <= BEHIND))
    ours = [row["globalcache"]["own_cpu_ns"] / row["globalcache"]["server_cpu_ns"] for row in result.values()]
    what = "processor time of the generator as a share of this server's, at most"
    found.append(conduct.Finding(what, f"{max(ours):.2f}", "less than 1", max(ours) < 1))
    return found


def draw(result: dict[str, dict[str, Figures]], size: int) -> str:
    """Draw the processor time for values of one size, as multiples of this server's own."""
    groups = {}
    for cell, row in result.items():
        if cell.endswith(f"-{size}") and not cell.startswith("mget"):
            own = row["globalcache"]["server_cpu_ns"]
            groups[cell.removesuffix(f"-{size}")] = {name: row[name]["server_cpu_ns"] * 100 / own for name in row}
    title = f"Processor time of the server for each request, this server = 100; values of {size} bytes"
    return bars(title, groups, 240)


def write_report(
    result: dict[str, dict[str, Figures]], found: list[conduct.Finding], rounds: int, seconds: float
) -> None:
    """Write docs/benchmarks/serve.md with its pictures and the figures behind it."""
    folder = ROOT / "docs/benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in result.values() for name in row} - {"echo"})
    said = versions(names)
    cpu = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), "").strip()
    how = (
        f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {cpu}, Linux {platform.release()}; one thread each, pinned to one "
        "processor, the generator on the other; 50 connections, 100,000 keys of 16 bytes, Zipf 0.99; medians of "
        f"{rounds} rounds of {seconds:g} s, interleaved. A load is named by what it asks, its pipeline depth and the "
        "bytes of its values. `make bench` measures it anew. The echo only counts bytes: it is the floor under every "
        "server of one thread."
    )
    parts = [
        "# The data plane beside other servers",
        how,
        "\n".join(f"- {said[name]}" for name in names),
        "## What is promised, and what is",
        conduct.table([*promises(result), *found]),
        "## Figures",
        *(f"![Values of {size} bytes](serve-{size}.svg)" for size in SIZES),
        table(result, "server_cpu_ns", "Processor time of the server, nanoseconds for each request"),
        table(result, "throughput", "Requests in a second"),
        table(result, "p99", "99th percentile of the latency at that load, microseconds"),
        table(result, "own_cpu_ns", "Processor time of the generator, nanoseconds for each request"),
    ]
    for size in SIZES:
        (folder / f"serve-{size}.svg").write_text(draw(result, size))
    tried = (folder / "tried.md").read_text()
    (folder / "serve.md").write_text("\n\n".join([*parts, tried]))
    (folder / "serve.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {folder / 'serve.md'}")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="measure only loads whose name contains this, and write no report")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--conduct", action="store_true", help="measure only how clients of every kind are served")
    given = parser.parse_args()
    build = ["cargo", "build", "--release", "--quiet", "-p", "globalcache-loadgen", "--example", "echo"]
    subprocess.run(build, cwd=ROOT, check=True)
    if given.conduct:
        print(conduct.table(conduct.findings(given.rounds, given.seconds)))
        return
    chosen = [cell for cell in cells() if given.only is None or given.only in cell.name]
    if not chosen:
        sys.exit(f"no load is called {given.only}")
    result = run(chosen, given.rounds, given.seconds)
    print(table(result, "server_cpu_ns", "Processor time of the server, nanoseconds for each request"))
    if given.only is None:
        found = conduct.findings(given.rounds, given.seconds)
        print(conduct.table([*promises(result), *found]))
        write_report(result, found, given.rounds, given.seconds)


if __name__ == "__main__":
    main()
