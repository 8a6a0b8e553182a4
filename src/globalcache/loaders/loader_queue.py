"""The queue of one loader in a worker: what waits, what runs, and when each load is answered.

Sync functions run in threads, async ones on the loop; batch loaders collect loads for a moment. A load that waited so
long that its lease has passed on is not begun.

A load fails at its time-out, whatever its call does then. A call that does not end when it is cancelled is stuck: it
takes its place among the calls that may run at a time, and what it returns is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from globalcache.client.batches import apart, rows_of
from globalcache.client.circuit_breaker import CircuitBreaker
from globalcache.client.guard import Absent, cause_of, qualified, text_of
from globalcache.client.leases import LEASE_MS, RENEW_EVERY
from globalcache.client.wire import pack, tag_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from globalcache.client.loader import Loader
    from globalcache.loaders.worker import Worker

log = logging.getLogger("globalcache.worker")

# Seconds that a loader is given to close its connections.
CLOSE = 1.0
# A call that still runs so long after its time-out does not end soon.
_STUCK = 1.0
# While a loader fails, the server asks again after this, so that what is back is seen to be back.
_RETRY_MS = 500


@dataclass(slots=True, eq=False)
class Load:
    """A load: its key as the server knows it, its token, the values in the key, and when its lease was last renewed."""

    key: bytes
    token: int
    values: Sequence[Any]
    arrived: float
    renewed: float


@dataclass(slots=True, eq=False)
class Batch:
    """One call, and the loads that it has not answered: none after its time-out, though the call may still run."""

    loads: list[Load]
    begun: float
    deadline: float
    task: asyncio.Task[None] | None = None
    thread: Future[Any] | None = None


class LoaderQueue:
    """One loader: what waits for it, what runs, and whether it may."""

    def __init__(self, loader: Loader, worker: Worker) -> None:
        self.loader = loader
        self.worker = worker
        self.breaker = CircuitBreaker()
        self.waiting: deque[Load] = deque()
        self.batches: set[Batch] = set()
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
        return len(self.batches) < self.loader.concurrency

    def _is_blocked(self, now: float) -> bool:
        """Return whether all calls that may run at a time are stuck, so that nothing can begin."""
        since = now - self.loader.timeout - _STUCK
        return not self._has_room() and all(not batch.loads and batch.begun <= since for batch in self.batches)

    def _begin(self, loads: list[Load]) -> None:
        now = self.worker.clock()
        for load in [load for load in loads if now - load.renewed >= LEASE_MS / 1000]:
            # Its lease has passed on while this process was held up.
            loads.remove(load)
            self.worker.release(load)
        if not loads:
            return
        batch = Batch(loads, now, now + self.loader.timeout)
        self.batches.add(batch)
        batch.task = asyncio.get_running_loop().create_task(self._run(batch))
        batch.task.add_done_callback(lambda task: self._ended(batch, task))

    async def _run(self, batch: Batch) -> None:
        # Asked now, not when it was queued: of many that begin together the first that fail speak for the others.
        if not self.breaker.allows(self.worker.clock()):
            self._fail_all(batch, self.breaker.cause, _RETRY_MS)
            return
        try:
            results = await self._call(batch)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not _is_running(batch):
                raise
            if batch.loads:
                self._failed(batch, error)
            return
        # There are no loads if the time-out has passed, or if the worker ends: what is late is dropped.
        if batch.loads:
            self.breaker.succeeded()
            cost = self.worker.clock() - batch.begun
            for load, result in zip(tuple(batch.loads), results, strict=True):
                self._fill(load, result, cost)
                del batch.loads[0]

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        """Answer what a call has left without an answer, and begin others unless its thread still runs."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", self.loader.name, type(error).__name__)
        self._fail_all(batch, "the answer could not be made")
        if batch.thread is None or batch.thread.done():
            self._free(batch)
            return
        loop = asyncio.get_running_loop()

        def free(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed before the thread ended
                loop.call_soon_threadsafe(self._free, batch)

        batch.thread.add_done_callback(free)

    def _free(self, batch: Batch) -> None:
        self.batches.discard(batch)
        self.pump()

    def give_back(self) -> list[asyncio.Task[None] | None]:
        """Hand what is being loaded to others and cancel the calls; returns their tasks."""
        for batch in self.batches:
            # First, so that what a cancelled call returns or raises is no answer.
            for load in batch.loads:
                self.worker.release(load)
            batch.loads.clear()
            if batch.task is not None:
                batch.task.cancel()
        return [batch.task for batch in self.batches]

    async def _call(self, batch: Batch) -> list[Any]:
        """Return values in the order of the loads; None or an Absent where there is no row."""
        loader = self.loader
        if not loader.batch:
            try:
                return [await self._invoke(batch, *batch.loads[0].values)]
            except loader.guard.absent as error:
                return [loader.guard.absence(error)]
        is_single = len(loader.template.field_names) == 1
        items = [load.values[0] if is_single else tuple(load.values) for load in batch.loads]
        rows: list[Any] = [None] * len(items)
        for group in apart(items):
            asked = list(group)
            found = await self._invoke(batch, asked)
            for place, row in zip(group.values(), rows_of(loader.name, asked, found), strict=True):
                rows[place] = row
        return rows

    async def _invoke(self, batch: Batch, *args: Any) -> Any:
        if self._pool is None:
            return await self.loader.function(*args)
        batch.thread = self._pool.submit(contextvars.copy_context().run, _outcome, self.loader.function, *args)
        return await _result(batch.thread)

    def _fill(self, load: Load, result: Any, cost: float) -> None:
        """Answer with a value; with a failure if it cannot be stored, whatever is wrong with it."""
        loader = self.loader
        try:
            data, flags = self._encode(result)
            tags = self._tags if self._constant_tags else self._encoded(loader.tags_of(load.values))
            absent = result is None or isinstance(result, Absent)
            draw = random.random()  # noqa: S311 - no secret
            least = self.worker.least_absence
            words = loader.policy.words(
                draw=draw, absent=absent, least_absence=least, cost=cost, flags=flags, tags=tags
            )
            request = pack((b"CACHE.FILL", load.key, b"%d" % load.token, data, *words))
        except BaseException as error:  # noqa: BLE001 - serializers and templates of the application run here
            self.worker.complain(f"form {loader.name}", f"{loader.name}: {text_of_key(load.key)}: {cause_of(error)}")
            self.worker.fail(load.key, load.token, self._message(error))
            return
        if len(data) > self.worker.max_value:
            size = f"its value has {len(data)} bytes; the server takes {self.worker.max_value} (--max-value)"
            self.worker.complain(f"size {loader.name}", f"{loader.name}: {text_of_key(load.key)}: {size}")
            self.worker.fail(load.key, load.token, "too large")
            return
        self.worker.say(request, load)

    def _encode(self, result: Any) -> tuple[bytes, int]:
        if isinstance(result, Absent):
            return result.name.encode(), 0
        return (b"", 0) if result is None else self.worker.encode(result, self.loader.type)

    def _encoded(self, tags: list[str]) -> list[bytes]:
        return [*self.worker.tags, *(tag_name(self.worker.prefix + tag) for tag in tags)]

    def _message(self, error: BaseException) -> str:
        name = qualified(type(error))
        return f"{name}: {text_of(error)}" if self.worker.tell_text else name

    def _fail_all(self, batch: Batch, cause: str, retry_ms: int | None = None) -> None:
        for load in batch.loads:
            self.worker.fail(load.key, load.token, cause, retry_ms)
        batch.loads.clear()

    def _failed(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, self.loader.guard.pass_through):
            self._fail_all(batch, self._message(error), 0)
        else:
            self._count_failure(batch, self._message(error), error)

    def _count_failure(self, batch: Batch, cause: str, error: BaseException | None = None) -> None:
        key, is_first = batch.loads[0].key, not self.breaker.is_failing
        opened = self.breaker.failed(key, cause, self.worker.clock())
        self._fail_all(batch, cause, _RETRY_MS if self.breaker.is_open else None)
        log.log(
            logging.DEBUG if self.breaker.is_open and not opened else logging.WARNING,
            "%s: %s: %s",
            self.loader.name,
            text_of_key(key),
            cause if error is None else cause_of(error),
            exc_info=error if is_first else None,
        )
        if opened:
            log.warning("%s: fails for one key after another; tried once a second until it is back", self.loader.name)

    def tick(self, now: float) -> None:
        """Keep leases, and give up what takes too long."""
        for batch in self.batches:
            if now >= batch.deadline:
                self._give_up(batch, now)
            self._renew(batch.loads, now)
        is_blocked = self._is_blocked(now)
        while self.waiting and (is_blocked or now - self.waiting[0].arrived >= self.loader.timeout):
            self._refuse(self.waiting.popleft(), is_blocked=is_blocked)
        self._renew(self.waiting, now)

    def _give_up(self, batch: Batch, now: float) -> None:
        """Fail the load at once, for its call may not end; cancel it, and again when its clean-up takes as long."""
        if batch.loads:
            self._count_failure(batch, f"no answer within {self.loader.timeout:g} s")
        batch.deadline = now + self.loader.timeout
        if batch.task is not None:
            batch.task.cancel()

    def _refuse(self, load: Load, *, is_blocked: bool) -> None:
        name = self.loader.name
        if is_blocked:
            cause = f"as many calls of {name} as may run at a time still run after their time-out"
            self.worker.complain(f"stuck {name}", f"{text_of_key(load.key)}: {cause}")
            self.worker.fail(load.key, load.token, cause, _RETRY_MS)
        else:
            self.worker.fail(load.key, load.token, f"waited for {name} for {self.loader.timeout:g} s")

    def _renew(self, loads: Iterable[Load], now: float) -> None:
        for load in loads:
            if now - load.renewed >= RENEW_EVERY:
                self.worker.renew(load, now)

    async def close(self) -> None:
        """Begin nothing more, and close its connections; returns after a second at the latest."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self.loader.close is None:
            return
        closing = asyncio.create_task(self._close_loader(self.loader.close))
        await wait_for([closing], CLOSE)
        if not closing.done():
            closing.cancel()
            log.warning("%s: its connections were not closed within %g s", self.loader.name, CLOSE)

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


async def wait_for(tasks: Iterable[asyncio.Task[None] | None], limit: float) -> None:
    """Wait for tasks, `limit` seconds at most, whatever they do."""
    if found := [task for task in tasks if task is not None]:
        await asyncio.wait(found, timeout=limit)


def _is_running(batch: Batch) -> bool:
    """Return whether the loop runs this task now, rather than that it closes the coroutine of one that never ended."""
    try:
        return asyncio.current_task() is batch.task
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


def text_of_key(key: bytes) -> str:
    """Return a key for logs and errors."""
    return key.decode(errors="replace")
