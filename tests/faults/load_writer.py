"""Lanes of the mixed load that write and read: what was written last is found."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from tests.faults.load_clients import Json, Memcached, Resp, Stopped, Word, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.load_run import Run

# What a value that was just written may be missing by eviction: few of those that are small beside the memory.
MOST_LOST = 0.02
# Keys of one MGET.
MOST_KEYS = 40


class Written:
    """What a lane knows of one key: the value that was written last, or several that it may be."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.there_until = float("inf")  # it was sent before, so it is there until then, unless it is evicted
        self.gone_at: float | None = None  # the latest time at which it must be gone
        self.unknown = False


class Writer:
    """Writes, reads and removes in three protocols, through any of several connections of each."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number
        self.draw = random.Random(run.draw.random())
        self.keys = {f"w{number}:{n}": Written() for n in range(run.key_count())}
        self.names = list(self.keys)
        self.version = 0
        self.peers: list[Any] = []

    async def lane(self) -> None:
        while not self.run.ended:
            try:
                self.peers = [await Resp(self.run).open(), await Resp(self.run).open()]
                self.peers += [await Memcached().open(self.run), await Json().open(self.run)]
                for _ in range(self.draw.randrange(50, 400)):
                    if self.run.ended:
                        break
                    await self.step()
            except Stopped:
                for written in self.keys.values():
                    written.unknown = True
            finally:
                for peer in self.peers:
                    peer.close()

    async def step(self) -> None:
        key = self.draw.choice(self.names)
        steps: list[Callable[[str, Written], Awaitable[None]]] = [self.set, self.set, self.read, self.read]
        steps += [self.read, self.many, self.remove, self.invalidate, self.append, self.batch, self.transaction]
        await self.draw.choice(steps)(key, self.keys[key])

    def found(self, key: str, written: Written, value: bytes | None, after: float) -> None:
        """Compare what was read, by a request sent at `after`, with what is known."""
        count, known = self.run.findings, written.value
        if written.unknown:
            return
        if value is None:
            if known is not None and time.monotonic() < written.there_until:
                count.counts["missing"] += 1
            return
        count.counts["hits"] += 1
        # A string that came as JSON is kept as JSON.
        value = value[1:-1] if value[:1] == b'"' else value
        if known is None:
            count.fault("a removed value came back", f"{key}: {value[:40]!r}")
            return
        count.check(
            value == known, "wrong value", f"{key}: {value[:40]!r} of {len(value)}, {known[:40]!r} {len(known)}"
        )
        late = written.gone_at is not None and after > written.gone_at + 0.1
        count.check(not late, "an expired value was read", key)

    async def set(self, key: str, written: Written) -> None:
        self.version += 1
        value, sent = body(key, self.version, self.run.length(self.draw)), time.monotonic()
        peer = self.draw.choice(self.peers)
        ttl = (
            self.draw.choice([0, 0, 1, 2, 3600])
            if not isinstance(peer, Resp)
            else self.draw.choice([0, 0.005, 0.3, 60])
        )
        if isinstance(peer, Resp):
            words: list[Word] = ["SET", key, value]
            if self.draw.randrange(2):
                words = ["CACHE.SET", key, value, "TAGS", 1, f"wt{self.number}"]
                words += ["TTL", int(ttl * 1000)] if ttl else []
            elif ttl:
                words += ["PX", int(ttl * 1000)]
            reply = await peer.ask(*words)
            done: bool | str = reply == b"OK" or (type(reply) is int and reply > 0) or str(reply)
        else:
            done = await peer.set(key, value, int(ttl))
        self.wrote(key, written, value, ttl, done)
        written.there_until = sent + ttl - 0.1 if ttl else float("inf")
        if done is True and (not ttl or ttl > 0.3):
            await self.expect(key, written, value)

    def wrote(self, key: str, written: Written, value: bytes, ttl: float, done: bool | str) -> None:
        count = self.run.findings
        if done is True:
            count.counts["sets"] += 1
            count.check(len(value) <= self.run.max_value, "a value above the limit was stored", f"{len(value)}")
            written.value, written.unknown = value, False
            written.gone_at = time.monotonic() + ttl if ttl else None
            written.there_until = float("inf")
        elif "max-value" in str(done) or "too large" in str(done):
            count.counts["refused: too large"] += 1
            longest = len(value) + 2  # as JSON
            count.check(longest > self.run.max_value, "a value below the limit was refused", f"{len(value)}: {done}")
            # memcached removes what was there, so that nothing old stays.
            written.unknown = True
        elif ("OOM" in str(done) or "out of memory" in str(done)) and not self.run.evicts:
            count.counts["refused: out of memory"] += 1
            written.unknown = True
        else:
            count.fault("a write failed", f"{key} of {len(value)}: {done}")
            written.unknown = True

    async def expect(self, key: str, written: Written, value: bytes) -> None:
        """What was just stored is there, but for few that were evicted."""
        after = time.monotonic()
        peer = self.draw.choice([peer for peer in self.peers if isinstance(peer, Resp)])
        found = await peer.ask("GET", key)
        if isinstance(found, Exception):
            self.run.findings.fault("a read failed", f"{key}: {found}")
            return
        self.found(key, written, found, after)
        # Beside values that are not small the eviction's probation may be short.
        if len(value) <= self.run.memory // 2000 and time.monotonic() < written.there_until:
            self.run.findings.counts["looked at once"] += 1
            self.run.findings.counts["lost at once"] += found is None

    async def read(self, key: str, written: Written) -> None:
        peer = self.draw.choice(self.peers)
        after = time.monotonic()
        if not isinstance(peer, Resp):
            self.found(key, written, await peer.get(key), after)
            return
        match self.draw.randrange(3):
            case 0:
                value = await peer.ask("CACHE.GET", key)
                value = value[0] if isinstance(value, list) else value
            case 1:
                reply = await peer.ask("CACHE.FETCH", key, "LEASE", 0)
                value = reply[1] if isinstance(reply, list) else reply
            case _:
                value = await peer.ask("GET", key)
        if isinstance(value, Exception):
            self.run.findings.fault("a read failed", f"{key}: {value}")
        else:
            self.found(key, written, value, after)

    def resp(self) -> Resp:
        return self.draw.choice([peer for peer in self.peers if isinstance(peer, Resp)])

    async def many(self, key: str, written: Written) -> None:
        names = [key, *self.draw.sample(self.names, self.draw.randrange(1, MOST_KEYS))]
        after = time.monotonic()
        found = await self.resp().ask("MGET", *names)
        self.run.findings.check(
            isinstance(found, list) and len(found) == len(names), "a read failed", f"{found!r:.200}"
        )
        for name, value in zip(names, found, strict=True):
            self.found(name, self.keys[name], value, after)

    async def batch(self, key: str, written: Written) -> None:
        """Many writes in one go, and reads of them behind."""
        peer = self.resp()
        names = self.draw.sample(self.names, self.draw.randrange(1, 60))
        values = [body(name, self.version + n + 1, self.run.length(self.draw, 1)) for n, name in enumerate(names)]
        self.version += len(names)
        replies = await peer.many(*[("SET", name, value) for name, value in zip(names, values, strict=True)])
        for name, value, reply in zip(names, values, replies, strict=True):
            self.wrote(name, self.keys[name], value, 0, reply == b"OK" or str(reply))
        await self.many(key, written)

    async def remove(self, key: str, written: Written) -> None:
        peer = self.draw.choice(self.peers)
        if isinstance(peer, Resp):
            await peer.ask(self.draw.choice(["DEL", "UNLINK"]), key)
        else:
            await peer.delete(key)
        written.value, written.unknown = None, False

    async def invalidate(self, key: str, written: Written) -> None:
        if self.draw.randrange(4):
            await self.resp().ask("CACHE.INVALIDATE", "KEYS", 1, key)
            written.value, written.unknown = None, False
        else:
            # All of the lane's tagged values: what had no tag stays, so both are possible.
            await self.resp().ask("CACHE.INVALIDATE", "TAGS", 1, f"wt{self.number}")
            for other in self.keys.values():
                other.unknown = True

    async def append(self, key: str, written: Written) -> None:
        more = b"y" * self.run.length(self.draw, 1)
        reply = await self.resp().ask("APPEND", key, more)
        written.unknown = True
        if isinstance(reply, Exception):
            allowed = (
                "max-value" in str(reply) or "exceeds" in str(reply) or (not self.run.evicts and "OOM" in str(reply))
            )
            self.run.findings.check(allowed, "a write failed", f"APPEND {len(more)}: {reply}")

    async def transaction(self, key: str, written: Written) -> None:
        """All commands or none, and what is read within is what was written within."""
        self.version += 1
        peer = self.resp()
        value = body(key, self.version, self.run.length(self.draw, 1.2))
        replies = await peer.many(("MULTI",), ("SET", key, value), ("GET", key), ("EXEC",))
        outcome = replies[-1]
        written.unknown = True
        if isinstance(outcome, list):
            stored = outcome[0] == b"OK" and outcome[1] == value
            self.run.findings.check(stored or not self.run.evicts, "a transaction went half", f"{outcome!r:.200}")
            if stored:
                self.wrote(key, written, value, 0, True)
        else:
            allowed = len(value) > self.run.max_value or not self.run.evicts
            self.run.findings.check(allowed, "a transaction was refused", f"{len(value)}: {outcome!r:.200}")
