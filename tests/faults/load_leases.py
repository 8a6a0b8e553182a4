"""Lanes of the mixed load with leases: fills, loads and workers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.faults.load_clients import Json, Memcached, Resp, Stopped, Word, body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.load_run import Run

# How long leases last: those of workers, and those of look-aside loads here.
LEASE, LONG_LEASE = 3.0, 8.0
LOAD_LIMIT = 5.0


class Filler:
    """Fills the memory again and again with values that expire, are deleted, or are evicted.

    By turns a few values of every length, and bursts of many small ones, so that whole segments come and go.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.draw = random.Random(run.draw.random())
        self.small = [b"f" * self.draw.randrange(10, 900) for _ in range(1000)]

    async def lane(self) -> None:
        while not self.run.ended:
            with contextlib.suppress(Stopped):
                peer = await Resp(self.run).open()
                step, pause = self.draw.choice([(self.any, 0.01), (self.burst, 0)])
                for _ in range(self.draw.randrange(20, 200)):
                    if self.run.ended:
                        break
                    self.judge(await peer.many(*step()))
                    await asyncio.sleep(pause)
                peer.close()

    def burst(self) -> list[Sequence[Word]]:
        keys = max(1000, min(400_000, self.run.memory // 300))
        draw = self.draw
        return [
            ("SET", b"s%d" % draw.randrange(keys), draw.choice(self.small), "PX", draw.randrange(1, 3000))
            for _ in range(300)
        ]

    def any(self) -> list[Sequence[Word]]:
        requests: list[Sequence[Word]] = []
        room = min(2 << 20, self.run.memory // 16)
        while room > 0 and len(requests) < 100:
            length = self.run.length(self.draw, 1)
            room -= length
            ttl = self.draw.choice([1, 10, 100, 1000, 5000, 20_000])
            requests.append(("SET", f"f:{self.draw.randrange(20_000)}", b"f" * length, "PX", ttl))
            if not self.draw.randrange(5):
                requests.append(("DEL", *[f"f:{self.draw.randrange(20_000)}" for _ in range(20)]))
        return requests

    def judge(self, replies: list[Any]) -> None:
        self.run.findings.counts["filler"] += len(replies)
        for reply in replies:
            if isinstance(reply, Exception):
                self.run.findings.counts["filler: refused"] += 1
                allowed = not self.run.evicts and "OOM" in str(reply)
                self.run.findings.check(allowed, "a write failed", f"filler: {reply}")


class Loads:
    """Look-aside loads of keys that only this lane changes: each grant is filled, failed, released, or forgotten."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number
        self.draw = random.Random(run.draw.random())
        self.changed: Counter[str] = Counter()
        self.holders: dict[str, dict[int, float]] = {}  # key -> token -> until when its lease stands
        self.pool: list[Resp] = []

    async def lane(self) -> None:
        while not self.run.ended:
            with contextlib.suppress(Stopped):
                self.pool = [await Resp(self.run).open() for _ in range(4)]
                callers = [asyncio.create_task(self.caller()) for _ in range(6)]
                await asyncio.gather(*callers, return_exceptions=False)
            for peer in self.pool:
                peer.close()

    async def caller(self) -> None:
        """Fetch, load and fill, for a while; the fetch waits, so it has a connection of its own."""
        own = await Resp(self.run).open()
        try:
            for _ in range(self.draw.randrange(5, 40)):
                if self.run.ended:
                    return
                key = f"a{self.number}:{self.draw.randrange(12)}"
                if not self.draw.randrange(6):
                    await self.change(own, key)
                else:
                    own = await self.fetch(own, key)
        finally:
            own.close()

    async def change(self, peer: Resp, key: str) -> None:
        names = [key] if self.draw.randrange(3) else [f"a{self.number}:{n}" for n in range(12)]
        for name in names:
            self.changed[name] += 1
        if len(names) == 1:
            await peer.ask(*self.draw.choice([("CACHE.INVALIDATE", "KEYS", 1, key), ("DEL", key)]))
        else:
            await peer.ask("CACHE.INVALIDATE", "TAGS", 1, f"at{self.number}")
        for name in names:
            self.changed[name] += 1
            self.holders.pop(name, None)

    async def fetch(self, own: Resp, key: str) -> Resp:
        count = self.run.findings
        before, asked = self.changed[key], time.monotonic()
        # Some holders never answer, which ends the lease and nothing else.
        silent = not self.draw.randrange(12)
        lease = 0.3 if silent else LONG_LEASE
        reply = await own.ask("CACHE.FETCH", key, "WAIT", 8000, "LEASE", int(lease * 1000))
        if not isinstance(reply, list):
            count.check("held-off" in str(reply) or "fail" in str(reply).lower(), "a fetch failed", f"{key}: {reply!r}")
            return own
        if reply[0] in {b"hit", b"stale"} and reply[1] is not None:
            count.counts["fetch: hits"] += 1
            count.check(reply[1].startswith(f"{key}|".encode()), "wrong value", f"{key}: {reply!r:.100}")
        if not reply[2]:
            waited = time.monotonic() - asked
            # A connection that holds another lease does not wait.
            if reply[1] is None and reply[0] != b"waiting":
                count.check(
                    waited > 7, "a fetch had neither value nor lease", f"{key} after {waited:.1f} s: {reply!r:.100}"
                )
            return own
        if silent:
            count.counts["loads: never answered"] += 1
            return own
        return await self.load(own, key, int(reply[2]), before)

    async def load(self, own: Resp, key: str, token: int, before: int) -> Resp:
        """Take the lease to one of its ends."""
        count, granted = self.run.findings, time.monotonic()
        holders = self.holders.setdefault(key, {})
        standing = [until for until in holders.values() if until - self.run.pace.margin() > granted]
        # One that was made void may end while a second one runs.
        count.check(not standing or self.changed[key] != before, "two leases of one key stand", key)
        if self.changed[key] == before:
            # Else it may have been made void before its grant was heard of here.
            holders[token] = granted + LONG_LEASE
        count.counts["loads"] += 1
        end = self.draw.randrange(12)
        await asyncio.sleep(self.draw.choice([0.001, 0.01, 0.05, 0.2, 1.0]))
        if end == 0:  # its process is gone
            count.counts["loads: holder closed"] += 1
            holders.pop(token, None)
            own.close()
            return await Resp(self.run).open()
        if end == 1:
            await own.ask("CACHE.RELEASE", key, token)
        elif end == 2:
            await own.ask("CACHE.FAIL", key, token, "the database said no")
        elif end == 3:
            reply = await own.ask("CACHE.FILL", key, token, b"z" * (self.run.max_value + self.draw.randint(1, 9)))
            count.check(isinstance(reply, Exception), "a value above the limit was stored", f"fill: {reply!r:.100}")
        else:
            if end == 4:
                await asyncio.sleep(1.8)
                await own.ask("CACHE.RENEW", key, token, int(LONG_LEASE * 1000))
            value = body(key, token, max(40, self.run.length(self.draw, 0.5)))
            words: list[Word] = ["CACHE.FILL", key, token, value, "TTL", self.draw.choice([5, 50, 500, 5000])]
            words += ["TAGS", 1, f"at{self.number}"]
            reply = await own.ask(*words)
            in_time = time.monotonic() - granted < LONG_LEASE - self.run.pace.margin()
            self.filled(key, token, reply, before, in_time)
        holders.pop(token, None)
        return own

    def filled(self, key: str, token: int, reply: Any, before: int, in_time: bool) -> None:
        count = self.run.findings
        if isinstance(reply, Exception):
            allowed = not self.run.evicts and "OOM" in str(reply)
            count.check(allowed, "a fill failed", f"{key}: {reply}")
        elif reply:
            count.counts["fills"] += 1
        else:
            count.counts["fills: refused"] += 1
            blameless = self.changed[key] == before and in_time and token in self.holders.get(key, {})
            count.check(not blameless, "a fill was refused though nothing changed", key)


class Workers:
    """Loader workers that come and go, one that stays, and readers in all protocols."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.draw = random.Random(run.draw.random())
        self.killed: list[float] = []
        self.failed: list[float] = []
        self.held: dict[bytes, tuple[float, int]] = {}

    async def worker(self, stays: bool) -> None:
        while not self.run.closed:
            with contextlib.suppress(Stopped):
                await self.life(stays)

    async def life(self, stays: bool) -> None:
        """One worker from its first word to its end."""
        me = self.draw.getrandbits(60)
        tasks: set[asyncio.Task[None]] = set()

        def pushed(push: list[Any]) -> None:
            for key, token in push[1:]:
                self.assigned(key, me)
                task = asyncio.create_task(self.load(peer, key, token, stays))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        peer = await Resp(self.run, pushed).open()
        with contextlib.suppress(Stopped):
            # The one that stays can take all loads there are, so that nobody waits for want of workers.
            await peer.ask("CACHE.LOADER", "load:*", "INFLIGHT", 1000 if stays else self.draw.choice([1, 10, 1000]))
            await self.work(peer, 1e9 if stays else self.draw.uniform(0.2, 3))
        self.leave(peer, me, tasks, stays)

    async def work(self, peer: Resp, seconds: float) -> None:
        """Take loads for a while."""
        reading = asyncio.create_task(self.drain(peer))
        end = time.monotonic() + seconds
        while not self.run.closed and not reading.done() and time.monotonic() < end:
            await asyncio.wait([reading], timeout=0.1)
        reading.cancel()
        await asyncio.wait([reading])

    def leave(self, peer: Resp, me: int, tasks: set[asyncio.Task[None]], stays: bool) -> None:
        """Be gone with all loads in hand."""
        for task in list(tasks):
            task.cancel()
        if not stays:
            self.killed.append(time.monotonic())
            self.run.findings.counts["workers killed"] += 1
        for key in [key for key, (_, whose) in self.held.items() if whose == me]:
            del self.held[key]
        peer.close()

    def assigned(self, key: bytes, me: int) -> None:
        self.run.findings.counts["served: loads"] += 1
        until = self.held.get(key, (0.0, 0))[0] - self.run.pace.margin()
        self.run.findings.check(until < time.monotonic(), "two workers load one key", repr(key))
        self.held[key] = time.monotonic() + LEASE, me

    async def drain(self, peer: Resp) -> None:
        """Read the replies to fills, and the loads that are pushed between them."""
        while True:
            found = await peer.reply(None)
            if isinstance(found, Exception) and (self.run.evicts or "OOM" not in str(found)):
                self.run.findings.check("max-value" in str(found), "a fill failed", str(found))

    async def load(self, peer: Resp, key: bytes, token: int, stays: bool) -> None:
        await asyncio.sleep(self.draw.choice([0, 0.001, 0.01, 0.1, 0.3]) if b"crowd" not in key else 0)
        self.held.pop(key, None)
        if not stays and not self.draw.randrange(50):
            self.failed.append(time.monotonic())
            peer.send(("CACHE.FAIL", key, token, "the row is locked"))
            return
        value = key + b"|%d|" % token + (b"x" * self.run.length(self.draw, 0.5) if b"crowd" not in key else b"")
        ttl = self.draw.choice([1, 20, 200, 2000])
        peer.send(("CACHE.FILL", key, token, value[: self.run.max_value], "TTL", ttl, "TAGS", 1, "loaded"))

    async def reader(self) -> None:
        while not self.run.ended:
            peers: list[Any] = []
            try:
                peers = [await Resp(self.run).open(), await Memcached().open(self.run), await Json().open(self.run)]
                for _ in range(self.draw.randrange(20, 200)):
                    if self.run.ended:
                        return
                    await self.read(self.draw.choice(peers))
            except Stopped:
                pass
            finally:
                for peer in peers:
                    peer.close()

    async def read(self, peer: Any) -> None:
        keys = [f"load:{self.draw.randrange(200)}" for _ in range(self.draw.choice([1, 1, 1, 20]))]
        asked = time.monotonic()
        try:
            if isinstance(peer, Resp):
                if len(keys) == 1:
                    found = [await peer.ask(self.draw.choice(["GET", "CACHE.GET"]), keys[0])]
                else:
                    found = await peer.ask("MGET", *keys)
                    found = found if isinstance(found, list) else [found]
            else:
                found = [await peer.get(keys[0])]
        except ValueError as error:
            found = [error]
        for key, value in zip(keys, found, strict=False):
            self.judge(key, value[0] if isinstance(value, list) else value, asked)

    async def crowd(self) -> None:
        """With others of its kind, on other threads of the server: ask for the same new keys at the same moment."""
        while not self.run.ended:
            with contextlib.suppress(Stopped):
                peer = await Resp(self.run).open()
                for _ in range(50):
                    if self.run.ended:
                        break
                    await asyncio.sleep(0.02 - time.monotonic() % 0.02)
                    moment = int(time.monotonic() * 50)
                    asked = time.monotonic()
                    keys = [f"load:crowd:{moment}:{n}" for n in range(40)]
                    name = ["GET", "CACHE.GET", "CACHE.MGET"][moment % 3]
                    if name == "CACHE.MGET":
                        found = await peer.ask(name, *keys)
                        found = found if isinstance(found, list) else [found]
                    else:
                        found = await peer.many(*[(name, key) for key in keys])
                    for key, value in zip(keys, found, strict=False):
                        self.judge(key, value[0] if isinstance(value, list) else value, asked)
                    await asyncio.sleep(0.3 * self.draw.random())
                peer.close()

    def judge(self, key: str, value: Any, asked: float) -> None:
        count, now = self.run.findings, time.monotonic()
        if isinstance(value, bytes):
            count.counts["served: reads"] += 1
            count.check(value.startswith(f"{key}|".encode()), "wrong value", f"{key}: {value[:40]!r}")
            return
        text = str(value)
        counts = sum(at > asked - 6 for at in self.killed[-50:])
        deaths = "ended, twice" in text and counts >= 2
        failed = "locked" in text and any(at > asked - 6 for at in self.failed[-50:])
        full = not self.run.evicts and "stored" in text
        slow = "in time" in text and self.run.pace.margin() > 1
        count.counts["served: errors"] += 1
        count.check(
            deaths or failed or full or slow, "a reader got an error though a worker lives", f"{key}: {text[:120]}"
        )
        count.check(
            now - asked < LOAD_LIMIT + self.run.pace.margin(), "a reader waited too long", f"{key}: {now - asked:.1f} s"
        )
