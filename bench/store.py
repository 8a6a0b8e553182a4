"""Measure the store beside its peers: memory for each item, what fits, how often reads hit, and its operations alone.

Each part keeps its figures in docs/benchmarks/store.json; docs/benchmarks/store.md is written from all of them.
TRACES names a folder of access traces; without it traces are generated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import fcntl
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libcachesim
import numpy as np

from conduct import Finding, table
from fill import MIB, SERVERS, churn, held, overhead
from peers import ROOT, commands, versions
from pictures import bars
from traces import traces

if TYPE_CHECKING:
    from traces import Keys

FOLDER = ROOT / "docs/benchmarks"
EXAMPLE = ROOT / "target/release/examples/store_bench"
SHAPES = ((16, 32), (16, 100), (32, 500))
POLICIES = ("LRU", "ARC", "LIRS", "WTinyLFU", "S3FIFO", "Sieve", "TwoQ")
SHARES = (0.01, 0.05, 0.2)
LEAST_ITEMS = 1000
# Bytes of a value in traces.
VALUE = 1000
MEMORY = 256 * MIB
STEP = 2_000_000


def store_bench(*words: object) -> list[dict[str, Any]]:
    """Run the example that measures the store without a server."""
    done = subprocess.run([EXAMPLE, *map(str, words)], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def installed() -> list[str]:
    """Return the servers that can be measured here."""
    return [name for name in SERVERS if name in commands()]


def measure_overhead(step: int) -> dict[str, Any]:
    """Measure the bytes that items take besides key and value."""
    return {
        f"{key}, {value}{', TTL' if ttl else ''}": {
            name: round(overhead(name, key, value, ttl, step), 1) for name in installed()
        }
        for key, value in SHAPES
        for ttl in (0, 3600)
    }


def measure_held() -> dict[str, Any]:
    """Measure what fits, and how far memory grows under values of ever other sizes."""
    fits = {name: held(name, MEMORY) for name in installed()}
    return {
        "items": {name: round(items) for name, (items, _) in fits.items()},
        "growth": {name: round(growth / MIB, 1) for name, (_, growth) in fits.items()},
        "churn": {load: round(growth / MIB, 1) for load, growth in churn(MEMORY).items()},
    }


def misses(keys: Keys, items: int, file: Path) -> dict[str, float]:
    """Return the share of reads that miss: of this store with about so many items, of each policy with as many."""
    keys.astype("<u8").tofile(file)
    (own,) = store_bench("trace", file, items, VALUE)
    found = {"globalcache": round(own["misses"] / own["requests"], 5)}
    rows = np.zeros(len(keys), dtype=[("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    rows["time"], rows["id"], rows["size"], rows["next"] = np.arange(len(keys)), keys + np.uint64(1), 1, -2
    rows.tofile(file)
    for policy in POLICIES:
        reader = libcachesim.TraceReader(str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
        found[policy] = round(float(getattr(libcachesim, policy)(own["items"]).process_trace(reader)[0]), 5)
    return found


def measure_hits() -> dict[str, Any]:
    """Replay every trace at several sizes."""
    folder = os.environ.get("TRACES")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, keys in traces(Path(folder) if folder else None):
            distinct = len(np.unique(keys))
            for items in sorted({max(LEAST_ITEMS, int(distinct * share)) for share in SHARES}):
                found[f"{name}, {items:,}"] = misses(keys, items, Path(scratch) / "keys")
    return found


def measure_operations() -> dict[str, Any]:
    """Time the operations of the store in one thread."""
    return {line.pop("what"): line for line in store_bench("ops")}


def _overhead_page(figures: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    ours = figures["16, 100, TTL"]["globalcache"]
    names = list(figures["16, 100, TTL"])
    lines = [f"| key, value | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    lines += [f"| {shape} | {' | '.join(f'{row[name]:.1f}' for name in names)} |" for shape, row in figures.items()]
    (FOLDER / "store-overhead.svg").write_text(bars("Bytes for each item besides key and value", figures, 160))
    what = "bytes for each item besides a key of 16 and a value of 100, with TTL"
    return [Finding(what, f"{ours:.1f}", "at most 24", ours <= 24)], [
        "### Bytes for each item besides key and value",
        "The slope of resident memory from two million items to four million.",
        "![Bytes for each item](store-overhead.svg)",
        "\n".join(lines),
    ]


def _held_page(figures: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    items, growth = figures["items"], figures["growth"]
    found = []
    for name in ("memcached", "valkey"):
        if name in items:
            ratio = items["globalcache"] / items[name]
            what = f"items held in 256 MiB of resident memory, as multiples of {name}'s"
            found.append(Finding(what, f"{ratio:.2f}", "at least 1.3", ratio >= 1.3))
    most, worst = 256 * 1.05 + 16, max(figures["churn"].values())
    what = "growth of memory under values of ever other sizes, MiB, with --memory 256MiB"
    found.append(Finding(what, f"{worst:.1f}", f"at most {most:.1f}", worst <= most))
    lines = ["| server | items | growth of memory, MiB |", "|---|--:|--:|"]
    lines += [f"| {name} | {items[name]:,} | {growth[name]:.1f} |" for name in items]
    churned = ["| load | growth of memory, MiB |", "|---|--:|"]
    churned += [f"| {load} | {mib:.1f} |" for load, mib in figures["churn"].items()]
    picture = {name: {name: count / 1000} for name, count in items.items()}
    (FOLDER / "store-held.svg").write_text(bars("Thousands of items in 256 MiB of resident memory", picture, 2400))
    return found, [
        "### What fits",
        (
            "Keys of 16 bytes, values of 100, each with a TTL; twice as many are written as fit. Items are those "
            "for each 256 MiB by which resident memory grew."
        ),
        "![Items](store-held.svg)",
        "\n".join(lines),
        "The largest growth while sizes of values change, each load twice in a row:",
        "\n".join(churned),
    ]


def _hits_page(figures: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    rows = list(figures.values())
    own = sum(row["globalcache"] for row in rows) / len(rows)
    single = min((sum(row[policy] for row in rows) / len(rows), policy) for policy in POLICIES)
    each = sum(min(row[policy] for policy in POLICIES) for row in rows) / len(rows)
    behind, where = max((row["globalcache"] / row["LRU"] - 1, trace) for trace, row in figures.items())
    found = [
        Finding(
            f"misses above the best single policy's ({single[1]}) on the mean",
            f"{own / single[0] - 1:+.1%}",
            "at most +2 %",
            own <= single[0] * 1.02,
        ),
        Finding(
            "misses above the best policy's of each trace on the mean",
            f"{own / each - 1:+.1%}",
            "at most +5 %",
            own <= each * 1.05,
        ),
        Finding(f"misses above LRU's, at the worst ({where} items)", f"{behind:+.1%}", "at most +1 %", behind <= 0.01),
    ]
    lines = [f"| trace, items | globalcache | {' | '.join(POLICIES)} |", f"|---|--:|{'--:|' * len(POLICIES)}"]
    for trace, row in figures.items():
        best = min(row.values())
        cells = [f"**{part:.1%}**" if part == best else f"{part:.1%}" for part in row.values()]
        lines.append(f"| {trace} | {' | '.join(cells)} |")
    return found, [
        "### Reads that miss",
        (
            f"Look-aside reads at 1 %, 5 % and 20 % of the distinct keys, and at least {LEAST_ITEMS:,} items. This "
            f"store is given the memory in which it holds about as many values of {VALUE:,} bytes on the mean, ghosts "
            "and models included; the policies, libcachesim's, which keep nothing but the items, have room for as many "
            "as it held. The least of a row is bold."
        ),
        "\n".join(lines),
    ]


def _operations_page(figures: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    timed = {what: row for what, row in figures.items() if "p50_ns" in row}
    found = []
    for what, row in timed.items():
        if "HashMap" in what:
            continue
        most = 100 if what.startswith("get") else 200  # nanoseconds
        found.append(Finding(f"{what}: median, ns", str(row["p50_ns"]), f"at most {most}", row["p50_ns"] <= most))
    worst = max(row["cpu_p99999_ns"] for row in timed.values())
    found.append(
        Finding(
            "p99.999 of any of these, processor time in µs", f"{worst / 1000:,.0f}", "below 1,000", worst < 1_000_000
        )
    )
    lines = ["| operation | median, ns | 99 %, ns | CPU time, 99.999 %, µs | worst, µs |", "|---|--:|--:|--:|--:|"]
    for what, row in timed.items():
        tail = f"{row['cpu_p99999_ns'] / 1000:,.0f} | {row['cpu_max_ns'] / 1000:,.0f}"
        lines.append(f"| {what} | {row['p50_ns']} | {row['p99_ns']} | {tail} |")
    return found, [
        "### Operations alone",
        (
            "One thread, one million items with values of 100 bytes, Zipf 0.99. In the full store they do not all fit, "
            "and writes evict. Median and 99 % are time that passed, without that of reading the clock, the median of "
            "three rounds (one, of first sets); the tail is "
            "processor time. The HashMap is Rust's own with the same keys and values, on the same draws: what the "
            "memory of this machine allows something that neither evicts nor expires."
        ),
        "\n".join(lines),
    ]


PARTS = {
    "operations": (measure_operations, _operations_page),
    "overhead": (lambda: measure_overhead(STEP), _overhead_page),
    "held": (measure_held, _held_page),
    "hits": (measure_hits, _hits_page),
}


def keep(part: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Put the figures of a part beside those of the others, also if another part ends at the same time."""
    with open(FOLDER / "store.json", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known: dict[str, Any] = json.loads(file.read() or "{}")
        known[part] = figures
        file.truncate(0)
        file.write(json.dumps(known, indent=1) + "\n")
    return known


def write_page(known: dict[str, Any]) -> None:
    """Write the page from what was measured."""
    cpu = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), "").strip()
    found, parts = [], []
    for part, (_, page) in PARTS.items():
        if part in known:
            more, text = page(known[part])
            found += more
            parts += text
    said, missing = versions(installed()), [part for part in PARTS if part not in known]
    head = [
        "# The store beside others",
        f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {cpu}, Linux {platform.release()}. `make bench` measures it anew.",
        "\n".join(f"- {said[name]}" for name in said),
        f"Not measured in this run: {', '.join(missing)}." if missing else "All parts were measured.",
        "## What is promised, and what is",
        table(found),
        "## Figures",
    ]
    (FOLDER / "store.md").write_text("\n\n".join([*head, *parts]) + "\n")
    print(table(found))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "page"], help="all if none is named; `page` only writes")
    given = parser.parse_args()
    build = ["cargo", "build", "--release", "--quiet", "-p", "globalcache-core", "--example", "store_bench"]
    subprocess.run(build, cwd=ROOT, check=True)
    known: dict[str, Any] = {}
    for part in given.parts or PARTS:
        known = keep(part, PARTS[part][0]()) if part != "page" else json.loads((FOLDER / "store.json").read_text())
    write_page(known)


if __name__ == "__main__":
    main()
