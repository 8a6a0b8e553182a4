"""Measure the memcached door beside memcached: processor time of the server for each request, medians of many rounds.

Both servers have one thread, pinned to processor 0, and the generator has processor 1; in every round each load is put
on one after the other. Writes docs/benchmarks/memcached.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
from contextlib import ExitStack

from conduct import load
from peers import ROOT, commands, running, versions

LOADS = {
    "get, one at a time": ({"pipeline": 1, "reads": 1.0}, 1.0),
    "set, one at a time": ({"pipeline": 1, "reads": 0.0}, 1.0),
    "get, 16 at a time": ({"pipeline": 16, "reads": 1.0}, 0.8),
    "set, 16 at a time": ({"pipeline": 16, "reads": 0.0}, 0.8),
    "get of 50 keys": ({"pipeline": 1, "reads": 1.0, "multi": 50}, 0.8),
}


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4)
    given = parser.parse_args()
    start = commands()
    took: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        peers = {name: stack.enter_context(running(name, start[name])) for name in ("globalcache", "memcached")}
        for number in range(given.rounds):
            for name, (options, _) in LOADS.items():
                for peer in peers.values():
                    more = {"protocol": "memcached", "value_size": 100, "connections": 50, "preload": number == 0}
                    report = load(peer, given.seconds, **{**more, **options})
                    took.setdefault((name, peer.name), []).append(report["server_cpu_ns"])
    rows = []
    for name, (_, bar) in LOADS.items():
        ours, theirs = (statistics.median(took[name, peer]) for peer in ("globalcache", "memcached"))
        rows.append(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} | {bar} |")
    said = versions(["globalcache", "memcached"])
    how = (
        f"{dt.datetime.now(dt.UTC).date()}; {', '.join(said.values())}; one thread each, 50 connections, values of 100 "
        f"bytes, 100,000 keys, Zipf 0.99; medians of {given.rounds} rounds of {given.seconds} s. `bench/memcached.py` "
        "measures it anew."
    )
    heads = ["| load | globalcache | memcached | ratio | at most |", "|---|--:|--:|--:|--:|"]
    what = "Processor time of the server for each request, nanoseconds:"
    page = ["# The memcached door beside memcached", "", how, "", what, "", *heads, *rows]
    text = "\n".join(page) + "\n"
    print(text)
    (ROOT / "docs/benchmarks/memcached.md").write_text(text)


if __name__ == "__main__":
    main()
