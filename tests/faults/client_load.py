"""Mixed load of clients of every kind, with oracles: threads, tasks, forks and processes; servers and links that die.

Two servers stand behind proxies. Processes call them through both faces: functions that are cached, batches, plain
reads, writes and invalidations by key and by tag. Loads return, raise, give what cannot be stored, and are cancelled.
The run goes in rounds: first all is well, then links are cut, held and slow, servers and processes are killed and come
back. After each of the two every call is brought to its end, and the servers are asked for their leases. The rows are
counters in a file that all processes map, so each knows what a call must at least give:

- a value that was read equals the row of its version, in every field and type;
- no value is older than the last acknowledged invalidation or write of its row before the call began;
- while nothing dies, one load of a row runs at a time, and none runs again before its value expires, unless the row was
  written or a caller was cancelled meanwhile;
- a caller gets the exception object that its own process's function raised; LoadError only where a process may not try;
- half a second after the last call has ended no server holds a lease; after deaths, once the leases of the dead lapsed;
- no call stalls while nothing dies, none outlives its time, forks and exits with work in hand do not hang.

    python -m tests.faults.client_load --seconds 600 --seed 1

It prints what happened and exits with 1 if an oracle was not quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import dataclasses
import datetime as dt
import faulthandler
import itertools
import json
import logging
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from globalcache import Cache, CacheError, DeadlineError, LoadError, UnavailableError
from tests.conftest import GLOBALCACHE
from tests.faults.findings import Findings
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Rows of each kind; the kinds of row by their cached functions, with ttl and refresh_after in seconds.
ROWS = 12
KINDS: dict[str, dict[str, Any]] = {
    "short": {"ttl": 0.4},
    "fresh": {"ttl": 5, "refresh_after": 0.3},
    "kept": {"ttl": 0.5, "stale_if_error": 5},
    "many": {"ttl": 0.6, "refresh_after": 0.2},
}
NAMES = list(KINDS)
# Processes, lanes of a process: threads that call the plain face, tasks that call the other, one that writes, one that
# forks.
PROCESSES, THREADS, TASKS = 3, 3, 6
LONGEST = "4KiB"
WAIT = 5.0
# A call that takes longer while nothing dies was stalled by a lease that nobody had: those lapse after 3 s.
STALL = 2.5
LAPSE = 3.0
# A process that is told to end says where it hangs, shortly before it is given up.
EXIT = 20.0
# Every call is over after its time-outs and its wait.
LAST_CALL = 15.0
MARGIN = 0.05
WELL, DYING, PAUSE, END = range(4)
# Where the counters stand: the phase, then versions and acknowledged versions, then which lanes rest.
_COUNT = len(KINDS) * ROWS
_VERSION, _ACKNOWLEDGED, _RESTING = 1, 1 + _COUNT, 1 + 2 * _COUNT
_LANES = THREADS + TASKS + 2
_SIZE = 8 * (_RESTING + PROCESSES * _LANES)

# Whether a load runs without a lease: nobody else knows of it, so no oracle counts it. And whether there is no server
# that could tell of an invalidation.
LOCAL: contextvars.ContextVar[bool] = contextvars.ContextVar("local", default=False)
AWAY: contextvars.ContextVar[bool] = contextvars.ContextVar("away", default=False)


class NoDatabaseError(Exception):
    """What loads raise."""

    def __init__(self, number: int) -> None:
        super().__init__(f"load {number}")
        self.pid = os.getpid()


@dataclasses.dataclass
class Row:
    """A row of one version, with fields whose types JSON does not have."""

    index: int
    version: int
    is_away: bool
    price: Decimal
    at: dt.datetime
    parts: list[tuple[int, str]]
    pad: str = dataclasses.field(default="", compare=False)


def row_of(index: int, version: int, *, is_away: bool, pad: str = "") -> Row:
    """Return what a row holds: all follows from its version."""
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=version)
    return Row(index, version, is_away, Decimal(version).scaleb(-2), at, [(version, str(index))], pad)


class Counters:
    """Numbers in a file that all processes map."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def __getitem__(self, at: int) -> int:
        return int(struct.unpack_from("q", self._map, 8 * at)[0])

    def __setitem__(self, at: int, number: int) -> None:
        struct.pack_into("q", self._map, 8 * at, number)

    @property
    def phase(self) -> int:
        return self[0]


class Log:
    """What a process did: lines that survive its death."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, *facts: Any) -> None:
        os.write(self._file, json.dumps(facts).encode() + b"\n")

    def fault(self, kind: str, detail: str) -> None:
        self("fault", kind, detail[:400])


# One process


class Part:
    """One process of the load, and the forks it makes."""

    def __init__(self, number: int, folder: Path, urls: list[str], seed: int) -> None:
        self.number = number
        self.draw = random.Random(seed)
        self.counters = Counters(folder / "counters")
        self.log = Log(folder / "log")
        # Where the cache raises, a write that returned was acknowledged.
        self.raises = number % 2 == 0
        self.cache = Cache(urls, on_error="raise" if self.raises else "miss", timeout=1, wait=WAIT, local_loads=8)
        self.aio = self.cache.aio
        self.numbers = itertools.count()
        self.raised: dict[int, NoDatabaseError] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.forked = False
        # Held while a thread forks: one that the end of the interpreter stops there would keep locks of Python's.
        self.forking = threading.Lock()
        for face in (self.cache, self.aio):
            _mark_local(face)
            _never_early(face)
        self._decorate()

    def _decorate(self) -> None:
        self.functions: list[Callable[[int], Any]] = []
        self.aio_functions: list[Callable[[int], Any]] = []
        for kind in NAMES[:3]:
            first = NAMES.index(kind) * ROWS

            def load(id: int, first: int = first) -> Row:
                return self.load(first + id)

            async def load_async(id: int, first: int = first) -> Row:
                return await self.load_async(first + id)

            options: dict[str, Any] = {**KINDS[kind], "tags": "row:{id}", "ignore": ("first",), "shared": True}
            self.functions.append(self.cache.cached(f"{kind}:{{id}}", **options)(load))
            self.aio_functions.append(self.aio.cached(f"{kind}:{{id}}", **options)(load_async))

    # Loads

    def begin(self, index: int) -> tuple[int, int, int]:
        """Note a load; returns its number, the row and the version that it reads."""
        number = os.getpid() << 32 | next(self.numbers)
        self.log("begin", number, index, LOCAL.get(), time.monotonic())
        return number, index, self.counters[_VERSION + index]

    def end(self, *begun: tuple[int, int, int]) -> list[Row]:
        """Return the rows of loads that were begun together, each (number, index, version), or raise for all of them.

        At times a row is longer than a server takes.
        """
        luck = [self.draw.random() for _ in begun]
        if min(luck) < 0.05:
            for number, _, _ in begun:
                self.log("end", number, "failed", time.monotonic())
            number = begun[luck.index(min(luck))][0]
            self.raised[number] = NoDatabaseError(number)
            if len(self.raised) > 2000:
                del self.raised[next(iter(self.raised))]
            raise self.raised[number]
        return [self.row(*load, is_long=chance < 0.08) for load, chance in zip(begun, luck, strict=True)]

    def row(self, number: int, index: int, version: int, *, is_long: bool) -> Row:
        self.log("end", number, "long" if is_long else "ok", time.monotonic())
        return row_of(index, version, is_away=AWAY.get(), pad="x" * 6000 if is_long else "")

    def load(self, index: int) -> Row:
        begun = self.begin(index)
        time.sleep(self.draw.random() * 0.03)
        return self.end(begun)[0]

    async def load_async(self, index: int) -> Row:
        begun = self.begin(index)
        await asyncio.sleep(self.draw.random() * 0.03)
        return self.end(begun)[0]

    def load_many(self, keys: list[str]) -> dict[str, Row]:
        begun = [self.begin(_index(key)) for key in keys]
        time.sleep(self.draw.random() * 0.03)
        return dict(zip(keys, self.end(*begun), strict=True))

    async def load_many_async(self, keys: list[str]) -> dict[str, Row]:
        begun = [self.begin(_index(key)) for key in keys]
        await asyncio.sleep(self.draw.random() * 0.03)
        return dict(zip(keys, self.end(*begun), strict=True))

    # Calls

    def check(self, index: int, row: Any, least: int) -> None:
        """Compare what a call gave with what the row must at least be."""
        self.counts["checks"] += 1
        if not isinstance(row, Row):
            self.log.fault("a value of another type", f"{index}: {row!r}")
            return
        expected = row_of(index, row.version, is_away=row.is_away, pad=row.pad)
        if repr(row) != repr(expected) or set(row.pad) - {"x"}:
            self.log.fault("a value is not what was stored", f"{row!r}, expected {expected!r}")
        if row.version < least and not row.is_away:
            long = " of a long value" if row.pad else ""
            detail = f"row {index}: {row.version}, acknowledged {least}, phase {self.counters.phase}{long}"
            self.log.fault("an old value", detail)

    def failed(self, error: Exception, indexes: Iterable[int]) -> None:
        """Judge the exception that a call ended by."""
        self.counts[f"raised: {type(error).__name__}"] += 1
        if isinstance(error, NoDatabaseError):
            if error.pid != os.getpid() and not self.forked:
                self.log.fault("another process's exception", repr(error))
            elif not self.forked and all(error is not mine for mine in list(self.raised.values())):
                self.log.fault("an exception that the function did not raise", repr(error))
        elif isinstance(error, LoadError):
            if error.key is None:
                self.log.fault("a LoadError without a key", repr(error))
        elif isinstance(error, UnavailableError):
            if not self.raises:
                self.log.fault("UnavailableError, where misses were asked for", repr(error))
        elif not isinstance(error, DeadlineError):
            self.log.fault("an exception of another kind", f"{list(indexes)}: {error!r}")
        elif self.counters.phase == WELL and not self.raises:
            self.counts["deadlines while nothing dies"] += 1

    def ended(self, what: str, begun: float, phase: int) -> None:
        """Judge how long a call took."""
        self.counts[what] += 1
        took = time.monotonic() - begun
        if took > LAST_CALL:
            self.log.fault("a call that does not end", f"{what}: {took:.1f} s")
        if phase == self.counters.phase == WELL and took > STALL:
            self.log.fault("a call stalled", f"{what}: {took:.1f} s")

    def call(self) -> None:
        """Make a call of the plain face, and judge what it gives."""
        what, indexes, least = self.drawn()
        begun, phase = time.monotonic(), self.counters.phase
        try:
            for index, row in self._call(what, indexes).items():
                self.check(index, row, least[index])
        except Exception as error:  # noqa: BLE001 - all are judged
            self.failed(error, indexes)
        self.ended(what, begun, phase)

    def _call(self, what: str, indexes: list[int]) -> dict[int, Any]:
        key = _key(indexes[0])
        if what == "cached":
            return {indexes[0]: self.functions[indexes[0] // ROWS](indexes[0] % ROWS)}
        if what == "load":
            options = {**KINDS[NAMES[indexes[0] // ROWS]], "tags": f"row:{indexes[0] % ROWS}"}
            return {indexes[0]: self.cache.get_or_load(key, lambda: self.load(indexes[0]), type=Row, **options)}
        if what == "many":
            found = self.cache.get_or_load_many(list(map(_key, indexes)), self.load_many, type=Row, **KINDS["many"])
        elif what == "get":
            found = {key: self.cache.get(key, type=Row)}
        else:
            found = self.cache.get_many(list(map(_key, indexes)), type=Row)
        return {_index(name): row for name, row in found.items() if row is not None}

    async def call_async(self) -> None:
        """Make a call of the other face; some are cancelled."""
        what, indexes, least = self.drawn()
        begun, phase = time.monotonic(), self.counters.phase
        task = asyncio.create_task(self._call_async(what, indexes))
        if self.draw.random() < 0.15:
            await asyncio.sleep(self.draw.choice([0, 0, 0.001, 0.01, 0.03]))
            task.cancel()
        try:
            for index, row in (await task).items():
                self.check(index, row, least[index])
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            for index in indexes:
                self.log("changed", index, begun, time.monotonic() + 0.1)
        except Exception as error:  # noqa: BLE001 - all are judged
            self.failed(error, indexes)
        self.ended(what, begun, phase)

    async def _call_async(self, what: str, indexes: list[int]) -> dict[int, Any]:
        key = _key(indexes[0])
        if what == "cached":
            return {indexes[0]: await self.aio_functions[indexes[0] // ROWS](indexes[0] % ROWS)}
        if what == "load":
            options = {**KINDS[NAMES[indexes[0] // ROWS]], "tags": f"row:{indexes[0] % ROWS}"}
            row = await self.aio.get_or_load(key, lambda: self.load_async(indexes[0]), type=Row, **options)
            return {indexes[0]: row}
        if what == "many":
            keys = list(map(_key, indexes))
            found = await self.aio.get_or_load_many(keys, self.load_many_async, type=Row, **KINDS["many"])
        elif what == "get":
            found = {key: await self.aio.get(key, type=Row)}
        else:
            found = await self.aio.get_many(list(map(_key, indexes)), type=Row)
        return {_index(name): row for name, row in found.items() if row is not None}

    def drawn(self) -> tuple[str, list[int], dict[int, int]]:
        """Draw a call: what, of which rows, and what they are at least."""
        what = self.draw.choice(["cached", "cached", "cached", "load", "many", "get", "get_many"])
        if what == "many":
            indexes = [3 * ROWS + number for number in self.draw.sample(range(ROWS), 5)]
        elif what == "get_many":
            indexes = self.draw.sample(range(_COUNT), 8)
        else:
            indexes = [self.draw.randrange(3 * ROWS)]
        return what, indexes, {index: self.counters[_ACKNOWLEDGED + index] for index in indexes}

    # Writes: the rows whose number leaves this remainder are this process's.

    def write(self) -> None:
        number = self.draw.choice(range(self.number, ROWS, PROCESSES))
        rows = [kind * ROWS + number for kind in range(len(KINDS))]
        how = self.draw.choice(["tag", "key", "set", "keys"])
        # Those of a batch share their options, so they have no tags of their own.
        indexes = {"tag": rows[:-1], "keys": rows}.get(how, [self.draw.choice(rows)])
        begun, phase = time.monotonic(), self.counters.phase
        versions = {index: self.counters[_VERSION + index] + 1 for index in indexes}
        for index, version in versions.items():
            self.log("changed", index, begun, begun + LAST_CALL)
            self.counters[_VERSION + index] = version
        try:
            self._write(how, number, versions)
        except (UnavailableError, DeadlineError):
            self.counts["writes lost"] += 1
        except CacheError as error:
            self.log.fault("a write failed", repr(error))
        else:
            if self.raises:
                for index, version in versions.items():
                    self.counters[_ACKNOWLEDGED + index] = version
        for index in indexes:
            self.log("changed", index, begun, time.monotonic() + 0.02)
        self.ended("writes", begun, phase)

    def _write(self, how: str, number: int, versions: dict[int, int]) -> None:
        face: Any = self.cache
        if how == "tag":
            face.invalidate(tags=[f"row:{number}"])
        elif how == "set":
            index, version = next(iter(versions.items()))
            options = {name: value for name, value in KINDS[NAMES[index // ROWS]].items() if name != "negative_ttl"}
            row = row_of(index, version, is_away=False)
            face.set(_key(index), row, type=Row, tags=f"row:{number}", **options)
        else:
            face.invalidate(*map(_key, versions))

    # Lanes

    def rests(self, lane: int, *, resting: bool) -> None:
        self.counters[_RESTING + self.number * _LANES + lane] = resting

    def lane(self, lane: int, step: Callable[[], object], pause: float) -> None:
        while self.counters.phase != END:
            if self.counters.phase == PAUSE:
                self.rests(lane, resting=True)
                time.sleep(0.005)
                continue
            self.rests(lane, resting=False)
            if self.counters.phase != PAUSE:
                step()
                time.sleep(self.draw.random() * pause)
        self.rests(lane, resting=True)

    async def lane_of_tasks(self, lane: int) -> None:
        while self.counters.phase != END:
            if self.counters.phase == PAUSE:
                self.rests(lane, resting=True)
                await asyncio.sleep(0.005)
                continue
            self.rests(lane, resting=False)
            if self.counters.phase != PAUSE:
                await self.call_async()
                await asyncio.sleep(self.draw.random() * 0.02)
        self.rests(lane, resting=True)

    def tasks(self) -> None:
        async def run() -> None:
            await asyncio.gather(*(self.lane_of_tasks(THREADS + number) for number in range(TASKS)))
            await self.aio.aclose()

        asyncio.run(run())

    def fork(self) -> None:
        """Fork with threads, loads and connections in hand; the child calls through both faces and ends."""
        with self.forking:
            child = os.fork()
            if child == 0:
                self.run_fork()
        end = time.monotonic() + LAST_CALL + 5
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                self.log.fault("a fork that does not end", str(child))
            time.sleep(0.01)
        self.counts["forks"] += 1

    def run_fork(self) -> NoReturn:
        status = 1
        try:
            self.forked = True
            self.numbers = itertools.count()
            for _ in range(3):
                self.call()
            asyncio.run(self.call_async())
            status = 0
        finally:
            os._exit(status)

    def exit(self, *_: object) -> NoReturn:
        """End at once, with whatever is in hand."""
        faulthandler.dump_traceback_later(EXIT * 0.75)
        self.forking.acquire()
        sys.exit(0)

    def run(self) -> None:
        """Run all lanes until the end."""
        lanes = [threading.Thread(target=self.tasks)]
        lanes += [threading.Thread(target=self.lane, args=(lane, self.call, 0.02)) for lane in range(THREADS)]
        lanes += [threading.Thread(target=self.lane, args=(THREADS + TASKS, self.write, 0.1))]
        lanes += [threading.Thread(target=self.lane, args=(THREADS + TASKS + 1, self.fork, 1.0))]
        for lane in lanes:
            lane.daemon = True  # a process that is told to end does not wait for its calls
            lane.start()
        for lane in lanes:
            lane.join()
        self.log("counts", dict(self.counts))
        self.cache.close()


@contextlib.contextmanager
def _marked(*, is_away: bool) -> Iterator[None]:
    before = LOCAL.set(True), AWAY.set(is_away)
    try:
        yield
    finally:
        LOCAL.reset(before[0])
        AWAY.reset(before[1])


def _mark_local(face: Any) -> None:
    """Let loads know whether they run without a lease, and whether they were begun where there is no server."""
    loading = face._loading  # noqa: SLF001 - below what users see
    for one, name in ((loading, "_load_locally"), (loading.local, "load_keys")):
        setattr(one, name, _marking(getattr(one, name)))


def _marking(inner: Any) -> Any:
    def load_here(*args: Any, **options: Any) -> Any:
        # A coroutine is not begun here: the other face's is marked when it is.
        with _marked(is_away=options.get("joins", False)):
            return inner(*args, **options)

    async def load_here_async(*args: Any, **options: Any) -> Any:
        with _marked(is_away=options.get("joins", False)):
            return await inner(*args, **options)

    return load_here_async if asyncio.iscoroutinefunction(inner) else load_here


def _never_early(face: Any) -> None:
    """Have values refreshed at their time alone.

    A value whose load took long is refreshed earlier now and then, by luck: on a busy machine no oracle could tell that
    from a value that was lost.
    """
    answers = face._loading.answers  # noqa: SLF001 - below what users see
    inner = answers.fill_options

    def fill_options(server: Any, policy: Any, loaded: Any, cost: float) -> Any:
        return inner(server, policy, loaded, 0.0 * cost)

    answers.fill_options = fill_options


def _key(index: int) -> str:
    return f"{NAMES[index // ROWS]}:{index % ROWS}"


def _index(key: str) -> int:
    kind, _, number = key.partition(":")
    return NAMES.index(kind) * ROWS + int(number)


# All of it


class Server:
    """A server in a process of its own that may be killed and comes back at the same address."""

    def __init__(self, folder: Path, number: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / f"server{number}"
        self.start()
        self.proxy = Proxy(self.address)

    def start(self) -> None:
        words = ["serve", "--listen", self.address, "--memory", "64MiB", "--threads", "1", "--max-value", LONGEST]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([GLOBALCACHE, *words], stderr=log, stdout=log)
        end = time.monotonic() + 10
        with Cache(f"globalcache://{self.address}", on_error="raise") as cache:
            while True:
                with contextlib.suppress(CacheError):
                    cache.ping()
                    return
                if time.monotonic() > end:
                    raise RuntimeError(self.log.read_text())
                time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def held(self) -> list[str]:
        """Return the keys that somebody has a lease of."""
        with Cache(f"globalcache://{self.address}", on_error="raise", timeout=5) as cache:
            if cache.server_info()[0]["leases"] == "0":
                return []
            facts = {_key(index): cache.inspect(_key(index)) for index in range(_COUNT)}
        return [f"{key}: {known}" for key, known in facts.items() if known["lease"] not in {"none", "void"}]

    def stop(self) -> None:
        self.proxy.close()
        self.process.terminate()
        self.process.wait(20)


class Run:
    """Servers, proxies and processes, and the rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.findings = Findings()
        (folder / "counters").write_bytes(bytes(_SIZE))
        self.counters = Counters(folder / "counters")
        self.servers = [Server(folder, number) for number in range(2)]
        self.urls = [f"globalcache://{server.proxy.address}" for server in self.servers]
        self.parts: list[subprocess.Popen[bytes]] = [self.part(number) for number in range(PROCESSES)]
        # When all was well, from and to.
        self.well: list[tuple[float, float]] = []

    def part(self, number: int) -> subprocess.Popen[bytes]:
        for lane in range(_LANES):
            self.counters[_RESTING + number * _LANES + lane] = 0
        given = json.dumps([number, str(self.folder), self.urls, self.draw.randrange(1 << 30)])
        with (self.folder / f"part{number}").open("a") as log:
            return subprocess.Popen([sys.executable, "-m", "tests.faults.client_load", "--part", given], stderr=log)

    def rounds(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        time.sleep(min(2.0, seconds / 4))  # until processes have begun
        while time.monotonic() < end:
            span = min(6.0, seconds / 5)
            begun = time.monotonic()
            self.counters[0] = WELL
            time.sleep(span)
            self.well.append((begun, time.monotonic()))
            self.pause(0.5)
            self.counters[0] = DYING
            until = time.monotonic() + span
            while time.monotonic() < until:
                self.harm()
            self.mend()
            self.pause(0.5 + LAPSE)
            self.findings.counts["rounds"] += 1

    def harm(self) -> None:
        """Let something die, or be bad for a while."""
        server = self.draw.choice(self.servers)
        proxy, pause = server.proxy, self.draw.random() * 0.3
        what = self.draw.choice(["cut", "cut", "truncate", "hold", "slow", "refuse", "kill server", "kill", "end"])
        self.findings.counts[f"harm: {what}"] += 1
        match what:
            case "cut":
                proxy.cut()
            case "truncate":
                direction = self.draw.choice([proxy.to_client, proxy.to_server])
                direction.cut_after = self.draw.randrange(2000)
            case "hold":
                proxy.hold()
                time.sleep(self.draw.random() * 1.5)
                proxy.release()
            case "slow":
                proxy.to_client.delay = self.draw.random() * 0.2
            case "refuse":
                proxy.refusing = True
                proxy.cut()
            case "kill server":
                server.kill()
                time.sleep(self.draw.random())
                server.start()
            case _:
                self.end_part(what)
        time.sleep(pause)
        proxy.refusing, proxy.to_client.delay = False, 0.0

    def end_part(self, what: str) -> None:
        """End a process, by a signal that it does not hear or by one that it does, and begin it again."""
        number = self.draw.randrange(PROCESSES)
        part = self.parts[number]
        if what == "kill":
            part.kill()
        else:
            part.send_signal(signal.SIGTERM)
        try:
            part.wait(EXIT)
        except subprocess.TimeoutExpired:
            said = (self.folder / f"part{number}").read_text()
            self.findings.fault("a process that does not exit", f"{number}: {said[-3000:]}")
            part.kill()
            part.wait()
        self.parts[number] = self.part(number)

    def mend(self) -> None:
        for server in self.servers:
            for direction in (server.proxy.to_client, server.proxy.to_server):
                direction.cut_after = None

    def pause(self, limit: float) -> None:
        """Have all calls end, and look for leases that nobody has."""
        self.counters[0] = PAUSE
        end = time.monotonic() + LAST_CALL + 5
        lanes = range(_RESTING, _RESTING + PROCESSES * _LANES)
        while not all(self.counters[lane] for lane in lanes):
            if time.monotonic() > end:
                self.findings.fault("calls that do not end", str([n for n in lanes if not self.counters[n]]))
                return
            time.sleep(0.005)
        end = time.monotonic() + limit
        held = [key for server in self.servers for key in server.held()]
        while held and time.monotonic() < end:
            time.sleep(0.02)
            held = [key for server in self.servers for key in server.held()]
        self.findings.check(not held, "leases of no running load", f"after {limit} s: {held[:3]}")

    def stop(self) -> None:
        self.counters[0] = END
        for number, part in enumerate(self.parts):
            try:
                status = part.wait(LAST_CALL + 10)
            except subprocess.TimeoutExpired:
                self.findings.fault("a process that does not exit", str(number))
                part.kill()
                part.wait()
            else:
                self.findings.check(status == 0, "a process ended badly", f"{number}: {status}")
            said = (self.folder / f"part{number}").read_text()
            self.findings.check("Traceback" not in said, "a process said", said[-1500:])
        for server in self.servers:
            server.stop()
            self.findings.check("panicked" not in server.log.read_text(), "a server panicked", str(server.log))

    def judge(self) -> None:
        """Read what the processes wrote, and compare the loads of each row with one another."""
        loads: dict[int, list[Any]] = {}
        changes: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for line in (self.folder / "log").read_text().splitlines():
            word, *facts = json.loads(line)
            match word:
                case "fault":
                    self.findings.fault(*facts)
                case "counts":
                    self.findings.counts.update(facts[0])
                case "begin":
                    number, index, is_local, at = facts
                    loads[number] = [index, is_local, at, None, "died"]
                case "end":
                    number, how, at = facts
                    loads[number][3:] = [at, how]
                case "changed":
                    changes[facts[0]].append((facts[1], facts[2]))
        by_row: dict[int, list[Any]] = defaultdict(list)
        for load in loads.values():
            self.findings.counts["loads without a lease" if load[1] else "loads"] += 1
            if not load[1]:
                by_row[load[0]].append(load)
        for index, of_row in by_row.items():
            self.judge_row(index, sorted(of_row, key=lambda load: float(load[2])), changes[index])

    def judge_row(self, index: int, loads: list[Any], changes: list[tuple[float, float]]) -> None:
        policy = KINDS[NAMES[index // ROWS]]
        # What is loaded expires up to a tenth earlier than it may.
        lives = 0.9 * min(policy["ttl"], policy.get("refresh_after", policy["ttl"]))
        for one, other in itertools.pairwise(loads):
            _, _, begun, ended, how = one
            again = other[2]
            if how not in {"ok", "failed"} or not self.was_well(begun, again):
                continue
            if any(since - MARGIN < again and until + MARGIN > begun for since, until in changes):
                continue
            detail = f"{_key(index)}: {one[2:]}, {other[2:]}"
            self.findings.check(again > ended, "two loads of a row at once", detail)
            if how == "ok":
                self.findings.check(again > ended + lives - MARGIN, "loaded again before it expired", detail)

    def was_well(self, since: float, until: float) -> bool:
        return any(begun <= since and until <= ended for begun, ended in self.well)


def load(seconds: float, seed: int) -> Findings:
    """Load servers from several processes, and return what the oracles saw."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seed)
        try:
            run.rounds(seconds)
        finally:
            run.stop()
        run.judge()
        return run.findings


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed load of clients with oracles.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", help="what one of its processes is told")
    given = parser.parse_args()
    if given.part:
        number, folder, urls, seed = json.loads(given.part)
        logging.getLogger("globalcache").setLevel(logging.CRITICAL)
        part = Part(number, Path(folder), urls, seed)
        signal.signal(signal.SIGTERM, part.exit)
        part.run()
        return 0
    findings = load(given.seconds, given.seed)
    return findings.report(f"clients, seed {given.seed}, {given.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
