"""One run of the mixed load: its server, what is drawn, and how the machine keeps up."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from globalcache.units import parse_size
from tests.conftest import GLOBALCACHE
from tests.faults.findings import Findings
from tests.faults.load_clients import REPLY_LIMIT, Resp, Stopped
from tests.faults.load_leases import LOAD_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

# What is given for the way of messages on a machine that keeps up, and how long it is remembered that one did not.
MARGIN, REMEMBERED = 0.5, 20.0


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
