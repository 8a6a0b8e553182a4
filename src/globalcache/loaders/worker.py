"""A worker: takes the loads that a server pushes, runs the loaders of an application, and fills what they return.

Sync functions run in threads, async ones on the loop; batch loaders collect loads for a moment. A lease that is held is
renewed every second, so that a slow query does not become two; what waited so long that its lease has passed on is not
begun. A connection that is lost is made again; loads under way go on meanwhile: tokens are good on any connection.

A load fails at its time-out, whatever its call does then. A call that does not end when it is cancelled is stuck: it
takes its place among the calls that may run at a time, and what it returns is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import random
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from globalcache.client.batches import apart, rows_of
from globalcache.client.breaker import Breaker
from globalcache.client.guard import Absent, cause_of, qualified, text_of
from globalcache.client.home import ASK_LONGEST, least_absence, longest_value
from globalcache.client.wire import tag_name
from globalcache.errors import ConfigError
from globalcache.loaders.link import Link, Load, command

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from concurrent.futures import Future

    from globalcache.client.address import Address
    from globalcache.client.functions import Loader

log = logging.getLogger("globalcache.worker")

# The server's lease for a worker lasts 3 s. Renewed every second it survives two renewals that are late.
_LEASE, _RENEW_EVERY, _TICK = 3.0, 1.0, 0.25
_CONNECT_TIMEOUT = 5.0
_RECONNECT = (0.05, 2.0)
# What loads under way are given to end when the worker is told to stop; then what those that are cancelled are given,
# and what the loaders are given to close their connections. The sum is less than the grace of a supervisor.
_GRACE, _CLEANUP, _CLOSE = 5.0, 1.0, 1.0
LONGEST_END = _GRACE + _CLEANUP + _CLOSE
# A call that still runs so long after its time-out does not end soon.
_STUCK = 1.0
# A server that has been silent so long is asked for a sign of life; the connection is given up later.
_PING_AFTER, _DEAD_AFTER = 5.0, 15.0
# While a loader fails, the server asks again after this, so that what is back is seen to be back.
_RETRY_MS = 500
# Loads that a connection can have at a time at most.
_MOST_LOADS = 1 << 16
_LONGEST_CAUSE = 300
# Between two errors in the log of one kind, in seconds.
_COMPLAINT = 3600.0


@dataclass(slots=True, eq=False)
class _Job:
    """A load: its key as the server knows it, its token, the values in the key, and when the lease was last new."""

    key: bytes
    token: int
    values: Sequence[Any]
    arrived: float
    renewed: float


@dataclass(slots=True, eq=False)
class _Run:
    """One call, and the jobs that it has not answered: none after its time-out, though the call may still run."""

    jobs: list[_Job]
    begun: float
    deadline: float
    task: asyncio.Task[None] | None = None
    thread: Future[Any] | None = None


class Worker:
    """Loads for one server.

    `encode` gives a value of a type as bytes and flags, and raises TypeError for what it cannot; `prefix` stands before
    every key and tag, as the namespace of the cache, and `tags` are given to all that is filled. `tls` is for addresses
    that have it; `tell_text` sends the text of exceptions to clients, not only the name of their class. `clock` returns
    seconds.
    """

    def __init__(  # noqa: PLR0913 - an option each
        self,
        loaders: Iterable[Loader],
        address: Address,
        encode: Callable[[Any, Any], tuple[bytes, int]],
        *,
        prefix: str = "",
        tags: Sequence[bytes] = (),
        tls: ssl.SSLContext | None = None,
        tell_text: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.tls = tls
        self.tell_text = tell_text
        # Bytes of the longest value, and for how many milliseconds an absence is kept at least: by the greeting.
        self.max_value = self.least_absence = 0
        self.clock = clock
        self.prefix = prefix
        self.tags = tags
        self.encode = encode
        self.lanes = [_Lane(loader, self) for loader in loaders]
        if not self.lanes:
            raise ConfigError("the cache has no loaders: decorate a function with @cache.loader")
        self._stop = asyncio.Event()
        self._lost = asyncio.Event()
        self._link: Link | None = None
        self._complained: dict[str, float] = {}

    @property
    def patterns(self) -> list[bytes]:
        """The patterns of the keys that it loads."""
        return patterns_of((lane.loader for lane in self.lanes), self.prefix)

    def stop(self) -> None:
        """Take no more loads, end those under way, and then end `run`, LONGEST_END seconds later at the latest."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until told to stop; `ready` is called each time the server knows of it."""
        ticking = asyncio.create_task(self._tick())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._serve(ready, stopping)
            await self._drain()
        finally:
            ticking.cancel()
            stopping.cancel()
            await asyncio.gather(*(lane.close() for lane in self.lanes))
            if self._link is not None:
                self._link.close()
                await asyncio.sleep(0)

    async def _serve(self, ready: Callable[[], None], stopping: asyncio.Task[Any]) -> None:
        pause, is_away = _RECONNECT[0], False
        while not self._stop.is_set():
            try:
                is_known = await self._unless_stopped(self._connect(), stopping)
            except (OSError, TimeoutError) as error:
                # Once for each time that the server is away.
                level = logging.DEBUG if is_away else logging.WARNING
                log.log(level, "%s: %s; trying again", self.address, error or "no answer in time")
                is_away = True
                await asyncio.wait([stopping], timeout=pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(pause * 2, _RECONNECT[1])
                continue
            if is_known:
                pause, is_away = _RECONNECT[0], False
                ready()
                await self._unless_stopped(self._lost.wait(), stopping)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any], stopping: asyncio.Task[Any]) -> bool:
        """Do it unless the worker is told to stop before it is done; returns whether it was. Raises what it raises."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_done = not task.cancel()
        if is_done:
            await task
        else:
            await asyncio.gather(task, return_exceptions=True)
        return is_done

    async def _connect(self) -> None:
        self._lost.clear()
        self._link = None
        link: Link | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                link = await self._open()
                self._link = link
                await self._greet(link)
        except BaseException:
            # A connection that was refused, or answered too late, must not stay open beside the next one.
            self._link = None
            self._drop_waiting()
            if link is not None:
                link.abort()
            raise

    async def _open(self) -> Link:
        loop = asyncio.get_running_loop()

        def make() -> Link:
            return Link(self._take, self._lost_it, self._refused)

        address = self.address
        if address.kind == "unix":
            return (await loop.create_unix_connection(make, address.path))[1]
        tls = (self.tls or True) if address.tls else None
        return (await loop.create_connection(make, address.host, address.port, ssl=tls))[1]

    async def _greet(self, link: Link) -> None:
        address = self.address
        words = [b"HELLO", b"3"]
        if address.password is not None:
            words += b"AUTH", (address.user or "default").encode(), address.password.encode()
        greeting = [command(*words, b"SETNAME", f"worker:{os.getpid()}".encode())]
        if address.db:
            greeting.append(command(b"SELECT", b"%d" % address.db))
        await link.ask(greeting)
        await self._ask_limits(link)
        credit = min(sum(lane.credit for lane in self.lanes), _MOST_LOADS)
        await link.ask([command(b"CACHE.LOADER", *self.patterns, b"INFLIGHT", b"%d" % credit)])

    async def _ask_limits(self, link: Link) -> None:
        """Ask how long a value may be and how an absence is kept, and say what this client is."""
        own = os.urandom(8).hex().encode()
        commands = [
            command(b"CACHE.SESSION", own, b"1"),
            command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"globalcache"),
        ]
        session, _ = await link.ask_all(commands)
        facts = session if isinstance(session, dict) else {}  # a user who may not ask
        self.max_value = facts.get(b"max_value") or longest_value(*await link.ask_all([command(*ASK_LONGEST)]))
        self.least_absence = least_absence(facts)

    def _lost_it(self, link: Link) -> None:
        if link is not self._link:
            return  # one that was given up before
        self._drop_waiting()
        self._lost.set()

    def _drop_waiting(self) -> None:
        """Forget what was not begun: the server hands the leases of a connection that has ended to others."""
        for lane in self.lanes:
            lane.waiting.clear()

    def _refused(self, job: Any, error: str) -> None:
        """Answer for a value that the server did not take; its lease would last on."""
        if job is not None:
            self.complain("refused", f"{_text(job.key)}: the server refused its value: {error}")
            self.fail(job.key, job.token, "the server refused its value")
        else:
            self.complain("answer", f"the server refused an answer: {error}")

    def complain(self, about: str, text: str) -> None:
        """Log what may come with every load: an error once an hour, and at level debug in between."""
        now = self.clock()
        is_new = now - self._complained.get(about, -_COMPLAINT) >= _COMPLAINT
        if is_new:
            self._complained[about] = now
        log.log(logging.ERROR if is_new else logging.DEBUG, "%s", text)

    def _take(self, loads: list[Load]) -> None:
        if self._stop.is_set():
            return  # the end of the connection hands them to others
        now = self.clock()
        stirred = set()
        for key, token in loads:
            lane, values, cause = self._route(key)
            if lane is None:
                self.fail(key, token, cause)
                continue
            lane.waiting.append(_Job(key, token, values, now, now))
            stirred.add(lane)
        for lane in stirred:
            lane.pump()

    def _route(self, key: bytes) -> tuple[_Lane | None, Sequence[Any], str]:
        """Find the loader whose key this is, and the values in it."""
        try:
            text = key.decode().removeprefix(self.prefix)
        except UnicodeDecodeError:
            return None, (), "the key is no UTF-8"
        cause = "no loader has such keys"
        for lane in self.lanes:
            if text.startswith(lane.loader.template.prefix):
                try:
                    return lane, lane.loader.template.parse(text), ""
                except BaseException as error:  # noqa: BLE001 - whatever reads the fields of a key
                    cause = text_of(error).removeprefix(f"{text}: ")
        return None, (), cause

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = self.clock()
            for lane in self.lanes:
                lane.tick(now)
            if self._link is not None:
                self._link.check(_PING_AFTER, _DEAD_AFTER)

    async def _drain(self) -> None:
        """Answer for what was begun; the rest is for others. Waits for no call that does not end when cancelled."""
        if self._link is not None:
            self.say(command(b"CACHE.LOADER", *self.patterns, b"INFLIGHT", b"1"))
        for lane in self.lanes:
            for job in lane.waiting:
                self.release(job)
            lane.waiting.clear()
        await _wait([run.task for lane in self.lanes for run in lane.runs if run.jobs], _GRACE)
        await _wait([task for lane in self.lanes for task in lane.give_back()], _CLEANUP)

    def say(self, data: bytes, job: _Job | None = None) -> None:
        """Send one command, for a load if it fills one; dropped while there is no connection: its lease passes on."""
        if self._link is not None:
            self._link.say(data, job)

    def fail(self, key: bytes, token: int, cause: str, retry_ms: int | None = None) -> None:
        """Say that a load failed, and why."""
        # One line, as a reply is.
        line = " ".join(cause[:_LONGEST_CAUSE].split())
        words = [b"CACHE.FAIL", key, b"%d" % token, line.encode(errors="backslashreplace")]
        if retry_ms is not None:
            words += b"RETRY", b"%d" % retry_ms
        self.say(command(*words))

    def release(self, job: _Job) -> None:
        """Hand a load to somebody else."""
        self.say(command(b"CACHE.RELEASE", job.key, b"%d" % job.token))

    def renew(self, job: _Job, now: float) -> None:
        """Keep the lease of a load."""
        job.renewed = now
        self.say(command(b"CACHE.RENEW", job.key, b"%d" % job.token, b"%d" % (_LEASE * 1000)))


class _Lane:
    """One loader: what waits for it, what runs, and whether it may."""

    def __init__(self, loader: Loader, worker: Worker) -> None:
        self.loader = loader
        self.worker = worker
        self.breaker = Breaker()
        self.waiting: deque[_Job] = deque()
        self.runs: set[_Run] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pool = None if loader.is_async else ThreadPoolExecutor(loader.concurrency, f"loader-{loader.name}")
        self._constant_tags = all(tag.is_constant for tag in loader.tags)
        self._tags = self._encoded([tag.format({}) for tag in loader.tags]) if self._constant_tags else []

    @property
    def credit(self) -> int:
        """How many loads it can have: those that run, and as many that wait."""
        return self.loader.concurrency * max(self.loader.batch, 1) * 2

    def pump(self) -> None:
        """Begin what may begin."""
        size = self.loader.batch
        if not size:
            while self.waiting and self._has_room():
                self._begin([self.waiting.popleft()])
        elif self._has_room():
            while len(self.waiting) >= size and self._has_room():
                self._begin([self.waiting.popleft() for _ in range(size)])
            if self.waiting and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self.loader.max_wait, self._flush)

    def _flush(self) -> None:
        self._timer = None
        while self.waiting and self._has_room():
            self._begin([self.waiting.popleft() for _ in range(min(self.loader.batch, len(self.waiting)))])

    def _has_room(self) -> bool:
        return len(self.runs) < self.loader.concurrency

    def _is_blocked(self, now: float) -> bool:
        """Return whether all calls that may run at a time are stuck, so that nothing can begin."""
        since = now - self.loader.timeout - _STUCK
        return not self._has_room() and all(not run.jobs and run.begun <= since for run in self.runs)

    def _begin(self, jobs: list[_Job]) -> None:
        now = self.worker.clock()
        for job in [job for job in jobs if now - job.renewed >= _LEASE]:
            # Its lease has passed on while this process was held up.
            jobs.remove(job)
            self.worker.release(job)
        if not jobs:
            return
        run = _Run(jobs, now, now + self.loader.timeout)
        self.runs.add(run)
        run.task = asyncio.get_running_loop().create_task(self._run(run))
        run.task.add_done_callback(lambda task: self._ended(run, task))

    async def _run(self, run: _Run) -> None:
        # Asked now, not when it was queued: of many that begin together the first that fail speak for the others.
        if not self.breaker.allows(self.worker.clock()):
            self._fail_all(run, self.breaker.cause, _RETRY_MS)
            return
        try:
            results = await self._call(run)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not _is_running(run):
                raise
            if run.jobs:
                self._failed(run, error)
            return
        # There are no jobs if the time-out has passed, or if the worker ends: what is late is dropped.
        if run.jobs:
            self.breaker.succeeded()
            cost = self.worker.clock() - run.begun
            for job, result in zip(tuple(run.jobs), results, strict=True):
                self._fill(job, result, cost)
                del run.jobs[0]

    def _ended(self, run: _Run, task: asyncio.Task[None]) -> None:
        """Answer what a call has left without an answer, and begin others unless its thread still runs."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", self.loader.name, type(error).__name__)
        self._fail_all(run, "the answer could not be made")
        if run.thread is None or run.thread.done():
            self._free(run)
            return
        loop = asyncio.get_running_loop()

        def free(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed before the thread ended
                loop.call_soon_threadsafe(self._free, run)

        run.thread.add_done_callback(free)

    def _free(self, run: _Run) -> None:
        self.runs.discard(run)
        self.pump()

    def give_back(self) -> list[asyncio.Task[None] | None]:
        """Hand what is being loaded to others and cancel the calls; returns their tasks."""
        for run in self.runs:
            # First, so that what a cancelled call returns or raises is no answer.
            for job in run.jobs:
                self.worker.release(job)
            run.jobs.clear()
            if run.task is not None:
                run.task.cancel()
        return [run.task for run in self.runs]

    async def _call(self, run: _Run) -> list[Any]:
        """Return values in the order of the jobs; None or an Absent where there is no row."""
        loader = self.loader
        if not loader.batch:
            try:
                return [await self._invoke(run, *run.jobs[0].values)]
            except loader.guard.absent as error:
                return [loader.guard.absence(error)]
        is_single = len(loader.template.field_names) == 1
        items = [job.values[0] if is_single else tuple(job.values) for job in run.jobs]
        rows: list[Any] = [None] * len(items)
        for group in apart(items):
            asked = list(group)
            found = await self._invoke(run, asked)
            for place, row in zip(group.values(), rows_of(loader.name, asked, found), strict=True):
                rows[place] = row
        return rows

    async def _invoke(self, run: _Run, *args: Any) -> Any:
        if self._pool is None:
            return await self.loader.function(*args)
        run.thread = self._pool.submit(contextvars.copy_context().run, _outcome, self.loader.function, *args)
        return await _result(run.thread)

    def _fill(self, job: _Job, result: Any, cost: float) -> None:
        """Answer with a value; with a failure if it cannot be stored, whatever is wrong with it."""
        loader = self.loader
        try:
            data, flags = self._encode(result)
            tags = self._tags if self._constant_tags else self._encoded(loader.tags_of(job.values))
            absent = result is None or isinstance(result, Absent)
            draw = random.random()  # noqa: S311 - no secret
            least = self.worker.least_absence
            words = loader.policy.words(
                draw=draw, absent=absent, least_absence=least, cost=cost, flags=flags, tags=tags
            )
            request = command(b"CACHE.FILL", job.key, b"%d" % job.token, data, *words)
        except BaseException as error:  # noqa: BLE001 - serializers and templates of the application run here
            self.worker.complain(f"form {loader.name}", f"{loader.name}: {_text(job.key)}: {cause_of(error)}")
            self.worker.fail(job.key, job.token, self._message(error))
            return
        if len(data) > self.worker.max_value:
            size = f"its value has {len(data)} bytes; the server takes {self.worker.max_value} (--max-value)"
            self.worker.complain(f"size {loader.name}", f"{loader.name}: {_text(job.key)}: {size}")
            self.worker.fail(job.key, job.token, "too large")
            return
        self.worker.say(request, job)

    def _encode(self, result: Any) -> tuple[bytes, int]:
        if isinstance(result, Absent):
            return result.name.encode(), 0
        return (b"", 0) if result is None else self.worker.encode(result, self.loader.type)

    def _encoded(self, tags: list[str]) -> list[bytes]:
        return [*self.worker.tags, *(tag_name(self.worker.prefix + tag) for tag in tags)]

    def _message(self, error: BaseException) -> str:
        name = qualified(type(error))
        return f"{name}: {text_of(error)}" if self.worker.tell_text else name

    def _fail_all(self, run: _Run, cause: str, retry_ms: int | None = None) -> None:
        for job in run.jobs:
            self.worker.fail(job.key, job.token, cause, retry_ms)
        run.jobs.clear()

    def _failed(self, run: _Run, error: BaseException) -> None:
        if isinstance(error, self.loader.guard.pass_through):
            self._fail_all(run, self._message(error), 0)
        else:
            self._count_failure(run, self._message(error), error)

    def _count_failure(self, run: _Run, cause: str, error: BaseException | None = None) -> None:
        key, is_first = run.jobs[0].key, not self.breaker.is_failing
        opened = self.breaker.failed(key, cause, self.worker.clock())
        self._fail_all(run, cause, _RETRY_MS if self.breaker.is_open else None)
        log.log(
            logging.DEBUG if self.breaker.is_open and not opened else logging.WARNING,
            "%s: %s: %s",
            self.loader.name,
            _text(key),
            cause if error is None else cause_of(error),
            exc_info=error if is_first else None,
        )
        if opened:
            log.warning("%s: fails for one key after another; tried once a second until it is back", self.loader.name)

    def tick(self, now: float) -> None:
        """Keep leases, and give up what takes too long."""
        for run in self.runs:
            if now >= run.deadline:
                self._give_up(run, now)
            self._renew(run.jobs, now)
        is_blocked = self._is_blocked(now)
        while self.waiting and (is_blocked or now - self.waiting[0].arrived >= self.loader.timeout):
            self._refuse(self.waiting.popleft(), is_blocked=is_blocked)
        self._renew(self.waiting, now)

    def _give_up(self, run: _Run, now: float) -> None:
        """Fail the load at once, for its call may not end; cancel it, and again when its clean-up takes as long."""
        if run.jobs:
            self._count_failure(run, f"no answer within {self.loader.timeout:g} s")
        run.deadline = now + self.loader.timeout
        if run.task is not None:
            run.task.cancel()

    def _refuse(self, job: _Job, *, is_blocked: bool) -> None:
        name = self.loader.name
        if is_blocked:
            cause = f"as many calls of {name} as may run at a time still run after their time-out"
            self.worker.complain(f"stuck {name}", f"{_text(job.key)}: {cause}")
            self.worker.fail(job.key, job.token, cause, _RETRY_MS)
        else:
            self.worker.fail(job.key, job.token, f"waited for {name} for {self.loader.timeout:g} s")

    def _renew(self, jobs: Iterable[_Job], now: float) -> None:
        for job in jobs:
            if now - job.renewed >= _RENEW_EVERY:
                self.worker.renew(job, now)

    async def close(self) -> None:
        """Begin nothing more, and close its connections; returns after a second at the latest."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self.loader.close is None:
            return
        closing = asyncio.create_task(self._close_loader(self.loader.close))
        await _wait([closing], _CLOSE)
        if not closing.done():
            closing.cancel()
            log.warning("%s: its connections were not closed within %g s", self.loader.name, _CLOSE)

    async def _close_loader(self, close: Callable[[], Any]) -> None:
        try:
            if self.loader.is_async:
                await close()
            else:
                await _result(ThreadPoolExecutor(1).submit(_outcome, close))
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the others are closed all the same
            log.warning("%s: its connections could not be closed: %s", self.loader.name, cause_of(error))


async def _wait(tasks: Iterable[asyncio.Task[None] | None], limit: float) -> None:
    """Wait for tasks, `limit` seconds at most, whatever they do."""
    if found := [task for task in tasks if task is not None]:
        await asyncio.wait(found, timeout=limit)


def _is_running(run: _Run) -> bool:
    """Return whether the loop runs this task now, rather than that it closes the coroutine of one that never ended."""
    try:
        return asyncio.current_task() is run.task
    except RuntimeError:
        return False


def _outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Run a loader in a thread; returns its value, or what it raised: a future refuses StopIteration."""
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - SystemExit is a failed load as well
        return None, error


async def _result(thread: Future[tuple[Any, BaseException | None]]) -> Any:
    """Return or raise what a function in a thread did."""
    value, error = await asyncio.wrap_future(thread)
    try:
        if error is not None:
            raise error
        return value
    finally:
        # The traceback holds this frame, which must not hold the exception.
        del error


def _text(key: bytes) -> str:
    return key.decode(errors="replace")


def patterns_of(loaders: Iterable[Loader], prefix: str = "") -> list[bytes]:
    """Return the patterns of all keys of these loaders, as the server is told."""
    escaped = "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix)
    return [(escaped + loader.template.pattern).encode() for loader in loaders]
