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
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis

from globalcache.client.wire import pack, word_of
from globalcache.units import parse_size
from tests.conftest import GLOBALCACHE
from tests.faults.test_server import resident

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

Word = bytes | str | int

# A reply that takes longer has stopped: the machine may be busy, but not for this long.
REPLY_LIMIT = 20.0
# How long leases last: those of workers, and those of look-aside loads here.
LEASE, LONG_LEASE = 3.0, 8.0
# What is given for the way of messages on a machine that keeps up, and how long it is remembered that one did not.
MARGIN, REMEMBERED = 0.5, 20.0
# What a value that was just written may be missing by eviction: few of those that are small beside the memory.
MOST_LOST = 0.02
LOAD_LIMIT = 5.0
# Keys of one MGET, and of one that waits for the loads of very many.
MOST_KEYS, WIDE = 40, 20_000
# Connections that together make the server hold five times what all connections may, and the bytes of each.
HOARDERS, HOARD = 16, 20 << 20


class Findings:
    """What the oracles saw, and how often everything else happened."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def fault(self, kind: str, detail: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self.faults.setdefault(kind, [])
        if len(self.faults[kind]) < 5:
            self.faults[kind].append(detail)

    def check(self, holds: bool, kind: str, detail: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.fault(kind, detail)

    def report(self, load: str) -> int:
        """Print what happened under a load; returns the status to exit with, 1 if an oracle was not quiet."""
        print(load)
        print("  " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.counts.items())))
        for kind, details in self.faults.items():
            print(f"  {kind}:", *details, sep="\n    ")
        return 1 if self.faults else 0


class Stopped(Exception):  # noqa: N818 - an end, not an error
    """The server closed the connection or did not answer in time."""


class Resp:
    """A RESP3 connection: requests go out together, replies come in order, pushes go to `pushed`."""

    def __init__(self, run: Run, pushed: Callable[[list[Any]], None] | None = None) -> None:
        self.run = run
        self.pushed = pushed
        self._reader = hiredis.Reader(notEnoughData=...)

    async def open(self) -> Resp:
        """Connect; raises Stopped."""
        self.input, self.output = await self.run.connect()
        await self.ask("HELLO", 3)
        return self

    def send(self, *requests: Sequence[Word]) -> None:
        for request in requests:
            self.output.write(packed(*request))

    async def reply(self, limit: float | None = REPLY_LIMIT) -> Any:
        while True:
            found = self._reader.gets()
            if isinstance(found, hiredis.PushNotification):
                if self.pushed is not None:
                    self.pushed(list(found))
            elif found is not ...:
                return found
            else:
                self._reader.feed(await self.run.read(self.input, limit))

    async def many(self, *requests: Sequence[Word]) -> list[Any]:
        self.send(*requests)
        return [await self.reply() for _ in requests]

    async def ask(self, *words: Word) -> Any:
        return (await self.many(words))[0]

    def close(self) -> None:
        self.output.transport.abort()


class Memcached:
    """The text commands of memcached."""

    async def open(self, run: Run) -> Memcached:
        self.run = run
        self.input, self.output = await run.connect()
        self.buffer = b""
        return self

    async def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.buffer += await self.run.read(self.input)
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    async def set(self, key: str, value: bytes, ttl: int) -> bool | str:
        self.output.write(b"set %b 0 %d %d\r\n%b\r\n" % (key.encode(), ttl, len(value), value))
        line = await self._line()
        return line == b"STORED" or line.decode()

    async def get(self, key: str) -> bytes | None:
        self.output.write(b"get %b\r\n" % key.encode())
        line = await self._line()
        if line == b"END":
            return None
        if not line.startswith(b"VALUE"):
            raise ValueError(line)
        length = int(line.split()[-1])
        while len(self.buffer) < length + 7:
            self.buffer += await self.run.read(self.input)
        value, self.buffer = self.buffer[:length], self.buffer[length + 7 :]
        return value

    async def delete(self, key: str) -> None:
        self.output.write(b"delete %b\r\n" % key.encode())
        await self._line()

    def close(self) -> None:
        self.output.transport.abort()


class Json:
    """JSON bodies over TCP, one message a line."""

    async def open(self, run: Run) -> Json:
        self.run = run
        self.number = 0
        self.buffer = b""
        self.input, self.output = await run.connect()
        return self

    async def _ask(self, **body: Any) -> dict[str, Any]:
        self.number += 1
        message = {"src": "c1", "dest": "cache", "body": {**body, "msg_id": self.number}}
        self.output.write(json.dumps(message).encode() + b"\n")
        while b"\n" not in self.buffer:
            self.buffer += await self.run.read(self.input)
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)["body"]
        self.run.findings.check(answer.get("in_reply_to") == self.number, "replies out of order", str(answer)[:200])
        return answer

    async def set(self, key: str, value: bytes, ttl: int) -> bool | str:
        answer = await self._ask(type="set", key=key, value=value.decode(), **({"ttl_ms": ttl * 1000} if ttl else {}))
        return bool(answer["type"] == "set_ok") or str(answer.get("text", answer))

    async def get(self, key: str) -> bytes | None:
        answer = await self._ask(type="get", key=key)
        if answer["type"] != "get_ok":
            raise ValueError(answer)
        value = answer.get("value")
        return None if value is None else str(value).encode()

    async def delete(self, key: str) -> None:
        await self._ask(type="delete", key=key)

    def close(self) -> None:
        self.output.transport.abort()


class Pace:
    """Whether this process and the server get the processor when they want it: else times say nothing of the server."""

    def __init__(self) -> None:
        self.late: list[tuple[float, float]] = []
        self.worst = 0.0
        self.turned = time.monotonic()

    def saw(self, late: float) -> None:
        """Something came so many seconds later than it should on a machine with nothing else to do."""
        now = time.monotonic()
        self.worst = max(self.worst, late)
        self.late = [(at, much) for at, much in self.late if at > now - REMEMBERED]
        if late > 0.05:
            self.late.append((now, late))

    def margin(self) -> float:
        """What times may be beyond their limits."""
        # It may be late at this moment, and what is read now may have been sent long ago.
        now = time.monotonic() - self.turned
        return MARGIN + 3 * max([now, *(much for _, much in self.late)])

    async def lane(self, run: Run) -> None:
        while not run.ended:
            self.turned = time.monotonic()
            await asyncio.sleep(0.02)
            self.saw(time.monotonic() - self.turned - 0.02)


class Run:
    """One server and the lanes that load it."""

    def __init__(self, memory: str, threads: int, eviction: str, seed: int, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.memory = parse_size(memory)
        self.evicts = eviction != "none"
        self.max_value = self.draw.choice([4_000, 65_536, self.memory // 64])
        self.findings = Findings()
        self.pace = Pace()
        self.log = folder / "log"
        self.options = ["--memory", memory, "--threads", str(threads), "--eviction", eviction]
        self.options += ["--max-value", str(self.max_value), "--client-memory", "64MiB"]
        self.options += ["--loader", "load:*", "--load-timeout", f"{LOAD_LIMIT}s"]
        self.ended = False
        # The workers go when nobody reads any more.
        self.closed = False

    keeper: Resp

    async def start(self) -> None:
        with self.log.open("w") as log:
            self.process = await asyncio.create_subprocess_exec(
                GLOBALCACHE, "serve", "--listen", "127.0.0.1:0", *self.options, stderr=log, stdout=log
            )
        for _ in range(1000):
            for word in self.log.read_text().split():
                if word.startswith(("globalcache://127.0.0.1:", "127.0.0.1:")):
                    self.port = int("".join(c for c in word.rpartition(":")[2] if c.isdigit()))
                    return
            await asyncio.sleep(0.01)
        raise RuntimeError(self.log.read_text())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            pair = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24), REPLY_LIMIT)
        except (OSError, TimeoutError) as error:
            self.findings.fault("connections are not accepted", repr(error))
            await asyncio.sleep(0.5)
            raise Stopped from None
        self.findings.counts["connections"] += 1
        return pair

    async def read(self, stream: asyncio.StreamReader, limit: float | None = REPLY_LIMIT) -> bytes:
        try:
            data = await asyncio.wait_for(stream.read(1 << 18), limit)
        except TimeoutError:
            self.findings.fault("replies stopped", "nothing came")
            raise Stopped from None
        except OSError as error:
            self.findings.fault("connection was cut", repr(error))
            raise Stopped from None
        if not data:
            self.findings.fault("connection was closed", "by the server")
            raise Stopped
        return data

    def length(self, draw: random.Random, most: float = 3) -> int:
        """Draw a length: often near a limit, mostly small, at times anything up to `most` times the longest value."""
        top = int(self.max_value * most)
        match draw.randrange(8):
            case 0:
                return min(top, max(0, self.max_value + draw.randint(-40, 40)))
            case 1:
                return draw.randint(0, top)
            case 2 | 3:
                return draw.randint(0, min(top, 100))
            case _:
                return int(min(top, 10 ** draw.uniform(0, 5)))

    def key_count(self) -> int:
        """How many keys a writer uses: together their values are somewhat more than the memory, or many at least."""
        return min(30_000, max(150, self.memory // 3 // min(self.max_value, 10_000)))

    async def info(self, peer: Resp) -> dict[str, int]:
        text = await peer.ask("INFO")
        pairs = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}


def packed(*words: Word) -> bytes:
    """Return a command as it is sent."""
    return pack(tuple(map(word_of, words)))


def body(key: str, version: int, length: int) -> bytes:
    """A value that tells whose it is; shorter ones tell less."""
    head = f"{key}|{version}|".encode()
    return (head + b"x" * (length - len(head)))[:length] if length > len(head) else head[:length]


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


class Strangers:
    """Peers that go away in the middle of something, storms of connects, and readers that wait and leave."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.draw = random.Random(run.draw.random())

    async def lane(self) -> None:
        while not self.run.ended:
            with contextlib.suppress(Stopped, OSError):
                kinds = [self.torn, self.torn, self.parked, self.half, self.storm, self.tracking]
                await (self.draw.choice(kinds) if self.draw.randrange(60) else self.hoard)()
            await asyncio.sleep(0.02)

    def request(self) -> bytes:
        value = b"q" * self.run.length(self.draw)
        key = f"q:{self.draw.randrange(50)}"
        match self.draw.randrange(6):
            case 0:
                return packed("SET", key, value)
            case 1:
                return b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value)
            case 2:
                text = {
                    "src": "c",
                    "dest": "cache",
                    "body": {"type": "set", "key": key, "value": value.decode(), "msg_id": 1},
                }
                return json.dumps(text).encode() + b"\n"
            case 3:
                return packed("CACHE.FETCH", f"q:{self.draw.randrange(5)}", "WAIT", 1000)
            case 4:
                return b"MULTI\r\n" + packed("SET", key, value) * 3
            case _:
                return packed("MGET", *[f"load:{n}" for n in range(30)])

    async def torn(self) -> None:
        """Stop at any byte."""
        _, output = await self.run.connect()
        data = self.request() * self.draw.randrange(1, 4)
        output.write(data[: self.draw.randrange(len(data) + 1)])
        await asyncio.sleep(self.draw.choice([0, 0.01, 0.3]))
        output.transport.abort() if self.draw.randrange(2) else output.close()

    async def parked(self) -> None:
        """Wait for a load, with more input behind, and leave."""
        _, output = await self.run.connect()
        output.write(b"".join(packed("GET", f"load:{self.draw.randrange(400)}") for _ in range(5)))
        output.write(b"PING\r\n" * self.draw.randrange(1, 5000))
        await asyncio.sleep(self.draw.choice([0, 0.005, 0.05]))
        output.transport.abort()

    async def half(self) -> None:
        """End the input and read all replies: they all come, then the end."""
        stream, output = await self.run.connect()
        many = self.draw.randrange(1, 300)
        output.write(b"PING\r\n" * many)
        output.write_eof()
        data = b""
        with contextlib.suppress(TimeoutError):
            while more := await asyncio.wait_for(stream.read(1 << 16), REPLY_LIMIT):
                data += more
        self.run.findings.check(
            data == b"+PONG\r\n" * many, "a half-closed peer missed replies", f"{len(data)} of {7 * many}"
        )
        output.transport.abort()

    async def storm(self) -> None:
        peers = [asyncio.create_task(self.run.connect()) for _ in range(self.draw.randrange(1, 60))]
        for peer in await asyncio.gather(*peers, return_exceptions=True):
            if isinstance(peer, tuple):
                peer[1].transport.abort()

    async def tracking(self) -> None:
        """An invalidation reaches whoever keeps a copy of the key, whoever loaded it and whatever changes it."""
        told: set[bytes] = set()
        copied: set[bytes] = set()

        def pushed(push: list[Any]) -> None:
            if push[0] == b"invalidate":
                told.update(push[1] or copied)

        reader, writer = Resp(self.run, pushed), await Resp(self.run).open()
        await reader.open()
        try:
            mode = self.draw.choice([(), ("NOLOOP",), ("OPTIN",), ("OPTOUT",), ("BCAST", "PREFIX", "tr:")])
            await reader.ask("CLIENT", "TRACKING", "ON", *mode)
            tag = f"tr{self.draw.getrandbits(40)}"
            keys = [f"tr:{self.draw.getrandbits(40)}" for _ in range(self.draw.randrange(1, 30))]
            tagged = self.draw.randrange(2)
            store = ("TTL", 60_000, "TAGS", 1, tag) if tagged else ("TTL", 60_000)
            if not self.draw.randrange(4):
                # It leaves while it is registered for keys that are not there and that nobody changes.
                await reader.many(*[("GET", f"{key}:none") for key in keys])
                return
            await self.stored(writer, keys, "1", *store)
            # Of rows that workers load the reader is registered when their load has ended.
            served = [] if "BCAST" in mode else [f"load:{key}" for key in keys[:4]]
            for key in keys + served:
                if await self.copy(reader, mode, key):
                    copied.add(key.encode())
                    told.discard(key.encode())
            changed = copied if await self.change(writer, keys, served, tag if tagged else "") else set()
            # It stands before the reply to whatever is asked after the change was answered.
            await reader.ask("PING")
            missed = sorted(changed - told)
            self.run.findings.check(
                not missed,
                "an invalidation did not come",
                f"{mode}, {tagged}: {len(missed)} of {len(copied)}, {missed[:2]}",
            )
            await writer.ask("DEL", *keys, *served)
        finally:
            reader.close()
            writer.close()

    async def copy(self, reader: Resp, mode: tuple[str, ...], key: str) -> bool:
        """Read a key so that the reader is registered for it; whether there was a value."""
        before: list[Sequence[Word]] = []
        if mode == ("OPTIN",):
            before = [("CLIENT", "CACHING", "YES")]
        elif mode == ("OPTOUT",) and self.draw.randrange(2):
            # That counts for the transaction and no longer.
            before = [("CLIENT", "CACHING", "NO"), ("MULTI",), ("GET", "tr:other"), ("EXEC",)]
        replies = await reader.many(*before, ("GET", key))
        return isinstance(replies[-1], bytes)

    async def change(self, writer: Resp, keys: list[str], served: list[str], tag: str) -> bool:
        """Change keys by their tag, or one by one; whether all were changed."""
        if tag:
            await writer.ask("CACHE.INVALIDATE", "TAGS", 1, tag)
        elif self.draw.randrange(2):
            await writer.ask("DEL", *keys)
        elif not await self.stored(writer, keys, "2"):
            return False
        return await self.stored(writer, served, "2")

    async def hoard(self) -> None:
        """With many connections, make the server hold what is run or compared later: queued and watched commands."""
        length = min(self.run.max_value, 50_000)
        if self.draw.randrange(2):
            data = b"MULTI\r\n" + pack(("SET", "q:hoard", b"q" * length)) * (HOARD // length)
        else:
            data = b"".join(pack(("WATCH", f"q:{n}:".ljust(length, "k"))) for n in range(HOARD // length))
        peers = [await self.run.connect() for _ in range(HOARDERS)]
        for _, output in peers:
            output.write(data)
        # Time to send it, and to be refused.
        await asyncio.sleep(2)
        for _, output in peers:
            output.transport.abort()

    async def stored(self, writer: Resp, keys: list[str], value: str, *options: Word) -> bool:
        replies = await writer.many(*[("CACHE.SET", key, value, *(options or ("TTL", 60_000))) for key in keys])
        return all(isinstance(reply, int) and reply > 0 for reply in replies)


class Monitor:
    """Looks at the server from outside, some times a second."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.resident: list[int] = []
        self.slowest = 0.0

    async def lane(self) -> None:
        run, number = self.run, 0
        while not run.ended:
            await asyncio.sleep(0.2)
            with contextlib.suppress(Stopped):
                before = time.monotonic()
                peer = await Resp(run).open()
                await peer.ask("PING")
                took = time.monotonic() - before
                self.slowest = max(self.slowest, took)
                run.pace.saw(took - 0.1)
                number += 1
                await self.unrelated(peer, number)
                peer.close()
            if run.process.returncode is not None:
                run.findings.fault("the server ended", str(run.process.returncode))
                run.ended = True
                return
            self.resident.append(resident(run.process.pid))
        self.judge()

    async def unrelated(self, peer: Resp, number: int) -> None:
        """Invalidate tags that no load has; no fill may be refused by them."""
        words = [("CACHE.INVALIDATE", "TAGS", 2, f"other:{number}:{n}", f"more:{n}") for n in range(50)]
        await peer.many(*words)

    def judge(self) -> None:
        # Connections' buffers have 64 MiB, and the allocator keeps what a burst needed for a while.
        bound = self.run.memory * 1.05 + (16 << 20) + (64 << 20) + (64 << 20)
        highest = max(self.resident, default=0)
        self.run.findings.check(highest <= bound, "memory above its bound", f"{highest >> 20} MiB")


async def long_work(run: Run, peer: Resp, longest: int) -> None:
    """Ask for what goes through very many keys and need not be one step: it stops after each turn."""
    keys = [f"long:{n}" for n in range(WIDE)]
    await peer.many(*[("SET", key, "") for key in keys])
    for request in (("KEYS", "long:*"), ("UNLINK", *keys)):
        await peer.ask(*request)
        turn = (await run.info(peer))["longest_turn_usec"]
        run.findings.check(turn <= longest, "a turn was long", f"{turn} us, {request[0]}")


async def wide(run: Run, peer: Resp, longest: int) -> None:
    """Wait for the loads of very many keys, for which no worker is left, and leave: each costs what one of few does."""
    waiting = await Resp(run).open()
    waiting.send(("MGET", *[f"load:wide:{n}" for n in range(WIDE)]))
    await asyncio.sleep(1)
    waiting.close()
    await asyncio.sleep(1)
    turn = (await run.info(peer))["longest_turn_usec"]
    run.findings.check(turn <= longest, "a request of many keys was slow", f"{turn} us for {WIDE} keys")


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
    slack = 3 if run.pace.worst > 0.1 else 1
    count.check(facts["longest_turn_usec"] <= slack * longest, "a turn was long", f"{facts['longest_turn_usec']} us")
    await long_work(run, peer, slack * longest)
    await wide(run, peer, slack * max(longest, 5_000 + 2 * WIDE))
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
