"""One process of the mixed load of clients: it loads, calls, writes and forks, and judges what it is given."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NoReturn

from globalcache import Cache, CacheError, DeadlineError, LoadError, UnavailableError
from tests.faults.client_rows import (
    ACKNOWLEDGED,
    COUNT,
    END,
    EXIT,
    KINDS,
    LANES,
    LAST_CALL,
    NAMES,
    PAUSE,
    PROCESSES,
    RESTING,
    ROWS,
    TASKS,
    THREADS,
    VERSION,
    WELL,
    Counters,
    Log,
    Row,
    index_of,
    key_of,
    row_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

# Seconds that a call waits for somebody else's load, and after which one was stalled by a lease that nobody had, while
# nothing dies: those lapse after 3 s.
WAIT, STALL = 5.0, 2.5
# Whether a load runs without a lease: nobody else knows of it, so no oracle counts it. And whether there is no server
# that could tell of an invalidation.
LOCAL: contextvars.ContextVar[bool] = contextvars.ContextVar("local", default=False)
AWAY: contextvars.ContextVar[bool] = contextvars.ContextVar("away", default=False)


class NoDatabaseError(Exception):
    """What loads raise."""

    def __init__(self, number: int) -> None:
        super().__init__(f"load {number}")
        self.pid = os.getpid()


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
        return number, index, self.counters[VERSION + index]

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
        begun = [self.begin(index_of(key)) for key in keys]
        time.sleep(self.draw.random() * 0.03)
        return dict(zip(keys, self.end(*begun), strict=True))

    async def load_many_async(self, keys: list[str]) -> dict[str, Row]:
        begun = [self.begin(index_of(key)) for key in keys]
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
        key = key_of(indexes[0])
        if what == "cached":
            return {indexes[0]: self.functions[indexes[0] // ROWS](indexes[0] % ROWS)}
        if what == "load":
            options = {**KINDS[NAMES[indexes[0] // ROWS]], "tags": f"row:{indexes[0] % ROWS}"}
            return {indexes[0]: self.cache.get_or_load(key, lambda: self.load(indexes[0]), type=Row, **options)}
        if what == "many":
            found = self.cache.get_or_load_many(list(map(key_of, indexes)), self.load_many, type=Row, **KINDS["many"])
        elif what == "get":
            found = {key: self.cache.get(key, type=Row)}
        else:
            found = self.cache.get_many(list(map(key_of, indexes)), type=Row)
        return {index_of(name): row for name, row in found.items() if row is not None}

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
        key = key_of(indexes[0])
        if what == "cached":
            return {indexes[0]: await self.aio_functions[indexes[0] // ROWS](indexes[0] % ROWS)}
        if what == "load":
            options = {**KINDS[NAMES[indexes[0] // ROWS]], "tags": f"row:{indexes[0] % ROWS}"}
            row = await self.aio.get_or_load(key, lambda: self.load_async(indexes[0]), type=Row, **options)
            return {indexes[0]: row}
        if what == "many":
            keys = list(map(key_of, indexes))
            found = await self.aio.get_or_load_many(keys, self.load_many_async, type=Row, **KINDS["many"])
        elif what == "get":
            found = {key: await self.aio.get(key, type=Row)}
        else:
            found = await self.aio.get_many(list(map(key_of, indexes)), type=Row)
        return {index_of(name): row for name, row in found.items() if row is not None}

    def drawn(self) -> tuple[str, list[int], dict[int, int]]:
        """Draw a call: what, of which rows, and what they are at least."""
        what = self.draw.choice(["cached", "cached", "cached", "load", "many", "get", "get_many"])
        if what == "many":
            indexes = [3 * ROWS + number for number in self.draw.sample(range(ROWS), 5)]
        elif what == "get_many":
            indexes = self.draw.sample(range(COUNT), 8)
        else:
            indexes = [self.draw.randrange(3 * ROWS)]
        return what, indexes, {index: self.counters[ACKNOWLEDGED + index] for index in indexes}

    # Writes: the rows whose number leaves this remainder are this process's.

    def write(self) -> None:
        number = self.draw.choice(range(self.number, ROWS, PROCESSES))
        rows = [kind * ROWS + number for kind in range(len(KINDS))]
        how = self.draw.choice(["tag", "key", "set", "keys"])
        # Those of a batch share their options, so they have no tags of their own.
        indexes = {"tag": rows[:-1], "keys": rows}.get(how, [self.draw.choice(rows)])
        begun, phase = time.monotonic(), self.counters.phase
        versions = {index: self.counters[VERSION + index] + 1 for index in indexes}
        for index, version in versions.items():
            self.log("changed", index, begun, begun + LAST_CALL)
            self.counters[VERSION + index] = version
        try:
            self._write(how, number, versions)
        except (UnavailableError, DeadlineError):
            self.counts["writes lost"] += 1
        except CacheError as error:
            self.log.fault("a write failed", repr(error))
        else:
            if self.raises:
                for index, version in versions.items():
                    self.counters[ACKNOWLEDGED + index] = version
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
            face.set(key_of(index), row, type=Row, tags=f"row:{number}", **options)
        else:
            face.invalidate(*map(key_of, versions))

    # Lanes

    def rests(self, lane: int, *, resting: bool) -> None:
        self.counters[RESTING + self.number * LANES + lane] = resting

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
            # A signal may wake any thread, and only this one runs its handler: it looks now and then.
            while lane.is_alive():
                lane.join(0.1)
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
