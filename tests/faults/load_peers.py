"""Peers of the mixed load that come and go, and what the server says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import TYPE_CHECKING, Any

from tests.faults.load_clients import REPLY_LIMIT, Resp, Stopped, Word, packed
from tests.faults.test_server import resident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.load_run import Run

# Connections that together make the server hold five times what all connections may, and the bytes of each.
HOARDERS, HOARD = 16, 20 << 20


class Strangers:
    """Peers that go away in the middle of something, storms of connects, and readers that wait and leave."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.draw = random.Random(run.draw.random())

    async def lane(self) -> None:
        while not self.run.ended:
            with contextlib.suppress(Stopped, OSError):
                kinds = [self.torn, self.torn, self.parked, self.half, self.storm, self.tracking]
                # Where values are long, another connection may hold more than each of those that hoard, and be closed.
                hoards = self.run.max_value <= 65_536 and not self.draw.randrange(60)
                await (self.hoard if hoards else self.draw.choice(kinds))()
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
            data = b"MULTI\r\n" + packed("SET", "q:hoard", b"q" * length) * (HOARD // length)
        else:
            data = b"".join(packed("WATCH", f"q:{n}:".ljust(length, "k")) for n in range(HOARD // length))
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
