"""Mixed load of every kind on a server of its own process, with oracles that look at effects.

Everything that is drawn comes from one seed: lengths from 0 to three times the longest value, times to live, tags,
protocols, which connection of a client carries which half of an exchange, and when peers and workers go away in the
middle of something. Each lane writes only keys of its own, so it knows what it must find:

- a value that was read is the one that was written last; a value that was removed, invalidated or has expired is gone;
- what fits is stored, and what was stored is found unless it was evicted; a cache that keeps nothing is a fault;
- a value above the limit is refused by an error, and the connection goes on;
- a fill is accepted if nothing that it depends on changed, no key has two holders whose leases both stand, and nobody
  who waits gets an error while a worker that lives could have loaded;
- every request is answered in time, an invalidation reaches whoever tracks the key, and what was held for connections
  is given back when they are closed: leases, memory, the connections themselves;
- no thread of the server is busy for long with one turn, nothing panics, and the process ends well.

    python -m tests.faults.load --memory 64MiB --threads 2 --eviction s3fifo --seconds 240 --seed 1

It prints what happened and exits with 1 if an oracle was not quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.load_clients import Resp, Stopped
from tests.faults.load_leases import LEASE, LOAD_LIMIT, Filler, Loads, Workers
from tests.faults.load_peers import Monitor, Strangers
from tests.faults.load_run import Run
from tests.faults.load_writer import MOST_KEYS, MOST_LOST, Writer
from tests.faults.test_server import processor_time

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from tests.faults.findings import Findings


# Keys of one request that waits for the loads of very many, and of what goes through them in turns.
WIDE, LONG = 20_000, 200_000
# Seconds of processor that a key may cost which is waited for and given up: when it is asked for, kept and left.
KEY_COST = 10e-6


async def long_work(run: Run, peer: Resp) -> None:
    """Ask for what goes through very many keys and need not be one step: it stops after each turn."""
    keys = [f"long:{n}" for n in range(LONG)]
    for start in range(0, LONG, 1000):
        await peer.many(*[("SET", key, "") for key in keys[start : start + 1000]])
    for request in (("KEYS", "none:*"), ("UNLINK", *keys)):
        turns = []
        for _ in range(3):
            await peer.ask("CONFIG", "RESETSTAT")
            await peer.ask(*request)
            turns.append((await run.info(peer))["longest_turn_usec"])
        # A turn is to end after 5 ms; all of it at once takes longer than this. The host may delay one of three.
        run.findings.check(min(turns) <= 15_000, "a turn was long", f"{turns} us, {request[0]} of {LONG} keys")


async def wide(run: Run) -> None:
    """Wait for the loads of very many keys, for which no worker is left, and leave: each costs what one of few does."""
    before = processor_time(run.process.pid)
    waiting = await Resp(run).open()
    waiting.send(("MGET", *[f"load:wide:{n}" for n in range(WIDE)]))
    await asyncio.sleep(1)
    waiting.close()
    await asyncio.sleep(1)
    used = processor_time(run.process.pid) - before
    run.findings.check(used <= 0.1 + WIDE * KEY_COST, "a request of many keys was slow", f"{used:.2f} s for {WIDE}")


async def quiet(run: Run) -> None:
    """After all lanes have ended: nothing is held for anybody, and the cache caches."""
    count = run.findings
    await asyncio.sleep(0.5)
    peer = await Resp(run).open()
    tracked = (await run.info(peer))["tracking_total_items"]
    count.check(tracked <= 1, "registrations of closed connections", str(tracked))
    run.keeper.close()
    await asyncio.sleep(0.1)
    facts = await run.info(peer)
    count.check(facts["leases_unowned"] == 0, "leases without a holder", str(facts["leases_unowned"]))
    count.check(facts["connected_clients"] == 1, "connections that nobody uses", str(facts["connected_clients"]))
    # Work that may be interrupted ends its turn after 5 ms; one MGET is one step and takes up to 1 ns for a byte.
    longest = 5_000 + MOST_KEYS * run.max_value // 1000
    # Where the host takes a processor away, the clock of a thread that ran on it goes on.
    longest += int(min(run.pace.worst, 0.1) * 1_000_000)
    count.check(facts["longest_turn_usec"] <= longest, "a turn was long", f"{facts['longest_turn_usec']} us")
    await long_work(run, peer)
    await wide(run)
    end = time.monotonic() + LOAD_LIMIT + LEASE
    while facts["leases"] and time.monotonic() < end:
        await asyncio.sleep(0.25)
        facts = await run.info(peer)
    count.check(facts["leases"] == 0, "leases that do not end", str(facts["leases"]))
    for name in ("evicted_keys", "leases", "longest_turn_usec", *[n for n in facts if n.startswith("fills_")]):
        count.counts[f"info: {name}"] = facts.get(name, -1)
    if not run.evicts:
        await peer.ask("FLUSHALL")
    kept = await peer.many(*[("SET", f"last:{n}", b"v" * 50) for n in range(300)])
    found = await peer.ask("MGET", *[f"last:{n}" for n in range(300)])
    whole = all(reply == b"OK" for reply in kept) and sum(value is None for value in found) <= 3
    count.check(whole, "the cache does not cache", f"{found.count(None)} of 300 are missing, {kept[0]!r}")
    lost, looked = count.counts["lost at once"], count.counts["looked at once"]
    if looked > 200:
        count.check(lost <= (looked * MOST_LOST if run.evicts else 0), "values are lost at once", f"{lost} of {looked}")
    if not run.evicts:
        count.check(count.counts["missing"] == 0, "values vanish without eviction", str(count.counts["missing"]))
    peer.close()


async def mixed(run: Run, seconds: float) -> Findings:
    """Run all lanes for a while and stop the server."""
    await run.start()
    # While it tracks the server keeps its table, so registrations that nobody needs stay to be seen.
    run.keeper = await Resp(run).open()
    await run.keeper.many(("CLIENT", "TRACKING", "ON"), ("GET", "tr:kept"))
    workers, monitor = Workers(run), Monitor(run)
    lanes: list[Coroutine[Any, Any, None]] = [Writer(run, n).lane() for n in range(3)]
    lanes += [Filler(run).lane()]
    lanes += [Loads(run, n).lane() for n in range(2)]
    lanes += [workers.reader() for _ in range(4)] + [workers.crowd() for _ in range(4)]
    lanes += [Strangers(run).lane(), Strangers(run).lane(), monitor.lane(), run.pace.lane(run)]
    tasks = [asyncio.create_task(lane) for lane in lanes]
    loading = [asyncio.create_task(workers.worker(stays)) for stays in (True, False, False)]
    # A lane ends by itself only when something is wrong.
    await asyncio.wait(tasks + loading, timeout=seconds, return_when="FIRST_COMPLETED")
    run.ended = True
    await ending(run, tasks)
    run.closed = True
    await ending(run, loading)
    if run.process.returncode is None:
        with contextlib.suppress(Stopped):
            await quiet(run)
        await stop(run)
    run.findings.counts["slowest probe, ms"] = int(monitor.slowest * 1000)
    run.findings.counts["latest turn of the load, ms"] = int(run.pace.worst * 1000)
    run.findings.counts["resident, MiB"] = max(monitor.resident, default=0) >> 20
    return run.findings


async def ending(run: Run, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for lanes that end by themselves; one that raises is a fault of the server or of its lane."""
    for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Stopped):
            run.findings.fault("a lane broke", repr(outcome))


async def stop(run: Run) -> None:
    """End the server as an operator does."""
    run.process.send_signal(signal.SIGTERM)
    status = await asyncio.wait_for(run.process.wait(), 20)
    run.findings.check(status == 0, "the server ended badly", str(status))
    said = run.log.read_text()
    run.findings.check("panicked" not in said, "a thread panicked", said[-400:])


def load(memory: str, threads: int, eviction: str, seed: int, seconds: float) -> Findings:
    """Load a new server and return what the oracles saw."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(mixed(Run(memory, threads, eviction, seed, Path(folder)), seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed load with oracles.")
    parser.add_argument("--memory", default="64MiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eviction", default="s3fifo")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    findings = load(given.memory, given.threads, given.eviction, given.seed, given.seconds)
    return findings.report(
        f"{given.memory}, {given.threads} threads, {given.eviction}, seed {given.seed}, {given.seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
