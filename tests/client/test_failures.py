"""Loads that fail: whose exception a caller gets, how often a function is tried, and what other processes learn.

Processes are caches on one store with a clock that the test moves; each has failures of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import random
import threading
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache, LoadError
from globalcache.client.failures import LONGEST_KEPT, MOST_KEPT, Failures
from globalcache.client.guard import Guard
from globalcache.client.raised import Handled
from globalcache.contrib.testing import CacheForTests
from tests.client.faces import Face
from tests.client.loads import (
    Forbidden,
    Sick,
    failing,
    processes,
    raised,
)
from tests.conftest import Wire, transport, until


class Mute(Exception):  # noqa: N818
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_the_same_object_until_the_hold_off_ends() -> None:
    world, (cache,) = processes(1)
    ran: list[Any] = []
    error = Sick("no database")
    for _ in range(3):
        assert raised(lambda: cache.get_or_load("k", failing(error, ran))) is error
    assert len(ran) == 1
    world.clock.advance(0.1)
    assert cache.get_or_load("k", lambda: 7) == 7


def test_the_hold_off_doubles_up_to_a_second() -> None:
    """The function runs when a hold-off ends: after 0.1, 0.2, 0.4, 0.8 s, and then every second."""
    world, (cache,) = processes(1)
    ran: list[float] = []

    def load() -> Any:
        ran.append(world.clock())
        raise Sick

    for _ in range(600):
        raised(lambda: cache.get_or_load("k", load))
        world.clock.advance(0.01)
    gaps = [after - before for before, after in pairwise(ran)]
    assert gaps == [pytest.approx(gap, abs=0.011) for gap in (0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1)]


def test_an_exception_is_kept_as_long_as_the_key_is_held_off() -> None:
    """The server hears of the failure 300 ms later, so its hold-off of a second ends that much later than one here."""
    now = 0.0
    kept, guard, error = Failures(lambda: now), Guard("f"), Sick()
    kept.failed((b"k",), error, guard, Handled(), ran=False)
    now = 1.3
    answer = LoadError("k: failed", key="k", cause_class=f"{Sick.__module__}.Sick")
    assert raised(lambda: kept.elsewhere(b"k", answer)) is error
    now = 2.0
    assert kept.elsewhere(b"k", answer) is answer


def test_another_process_runs_its_own_function() -> None:
    """A fails and the key is held off. B runs its function once in 100 ms; beyond that it gets A's failure."""
    world, (a, b) = processes(2)
    raised(lambda: a.get_or_load("k", failing(Sick("SECRET"))))
    assert b.get_or_load("k", lambda: "b") == "b"
    assert b.get("k") is None
    error = raised(lambda: b.get_or_load("k", lambda: "b"))
    assert isinstance(error, LoadError)
    assert (error.key, error.cause_class) == ("k", f"{Sick.__module__}.Sick")
    assert "SECRET" not in str(error)
    raised(lambda: a.get_or_load("k", failing(Sick())))
    world.clock.advance(0.1)
    assert a.get_or_load("k", lambda: "a") == b.get_or_load("k", lambda: "b") == "a"


def test_its_own_failure_is_what_it_gets_then() -> None:
    _, (a, b) = processes(2)
    raised(lambda: a.get_or_load("k", failing(Sick())))
    own, ran = Forbidden(), list[Any]()
    for _ in range(3):
        assert raised(lambda: b.get_or_load("k", failing(own, ran))) is own
    assert len(ran) == 1


def test_twenty_tries_a_second_for_a_function() -> None:
    _, (a, b) = processes(2)
    for number in range(30):
        raised(lambda number=number: a.get_or_load(f"k{number}", failing(Sick())))  # type: ignore[misc]
    got: list[Any] = []

    def load() -> int:
        return 1

    for number in range(30):
        try:
            got.append(b.get_or_load(f"k{number}", load))
        except LoadError:
            got.append(None)
    # After five keys A's breaker is open: it answers without a try, and that is a failure for B as well.
    assert got == [1] * 20 + [None] * 10


def test_plain_readers_and_others_learn_the_class_only() -> None:
    _, (a, b) = processes(2)
    raised(lambda: a.get_or_load("k", failing(Sick("SECRET"))))
    assert b.get_or_load("k", lambda: 1) == 1
    assert str(raised(lambda: b.get_or_load("k", lambda: 1))) == f"test:k: {Sick.__module__}.Sick"


def test_tell_text() -> None:
    _, (a, b) = processes(2, tell_text=True)
    raised(lambda: a.get_or_load("k", failing(Sick("of\nits tables"))))
    b.get_or_load("k", lambda: 1)
    error = raised(lambda: b.get_or_load("k", lambda: 1))
    assert isinstance(error, LoadError)
    assert str(error) == f"test:k: {Sick.__module__}.Sick: of its tables"
    assert error.cause_class == f"{Sick.__module__}.Sick"


def test_a_load_error_is_pickled_whole() -> None:
    error = pickle.loads(pickle.dumps(LoadError("k: a.B", key="k", cause_class="a.B")))  # noqa: S301 - our own
    assert (str(error), error.key, error.cause_class) == ("k: a.B", "k", "a.B")


def test_the_text_stays_in_the_log_of_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Once for a row of failures of one function, whatever number of callers it has."""
    world, (cache,) = processes(1)
    for _ in range(5):
        raised(lambda: cache.get_or_load("k", failing(Sick("no route to 10.0.0.7"))))
        world.clock.advance(2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "test:k: Sick: no route to 10.0.0.7" in warnings[0]


@pytest.mark.parametrize("error", [ValueError("caf\udce9"), Mute(), ExceptionGroup("two", [Sick(), Sick()])])
def test_exceptions_whose_text_cannot_be_sent(error: Exception) -> None:
    """The caller gets the exception, a stale value stands in for it, and nobody waits for its lease."""
    world, (cache, other) = processes(2)
    assert raised(lambda: cache.get_or_load("k", failing(error))) is error
    assert other.get_or_load("k", lambda: 1) == 1
    cache.set("stale", "old", ttl=1, stale_if_error=60)
    world.clock.advance(2)
    assert cache.get_or_load("stale", failing(error), ttl=1, stale_if_error=60) == "old"
    with pytest.raises(type(error)):
        cache.get_or_load_many(["a", "b"], lambda _: failing(error)())


def test_stop_iteration_is_an_exception_like_others() -> None:
    """Through the generators of context managers, and through a future, it would become a RuntimeError."""
    _, (cache,) = processes(1)
    error = StopIteration(3)
    assert raised(lambda: cache.get_or_load("k", failing(error))) is error
    assert raised(lambda: cache.get_or_load("k", failing(error))) is error

    async def run() -> None:
        tasks = AsyncCache("memory://")
        with pytest.raises(RuntimeError, match="StopIteration"):  # what Python itself makes of it in a coroutine
            await tasks.get_or_load("k", failing(error))

    asyncio.run(run())


def test_an_interrupted_load_is_handed_on_and_an_exit_fails() -> None:
    cache: Any
    other: Any
    _, (cache, other) = processes(2)
    for error in (KeyboardInterrupt(), SystemExit(1)):
        assert raised(lambda error=error: cache.get_or_load("k", failing(error))) is error  # type: ignore[misc]
        store = transport(other)
        is_held_off = isinstance(store.fetch(b"test:k", 0, None), Exception)
        assert is_held_off == isinstance(error, SystemExit)


def test_a_load_that_raises_cancelled_error_fails() -> None:
    """Nobody cancelled its caller: a shared task that it awaited was. Each holder in turn would meet the same."""
    world = CacheForTests()

    async def run() -> None:
        cache = AsyncCache("memory://", namespace="test")
        world.stand_in_for(cache)

        async def cancelled() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await cache.get_or_load("k", cancelled)
        await asyncio.gather(*cache._state.async_refresher._tasks)  # noqa: SLF001 - what runs behind
        assert isinstance(world._state.servers.transports[0].fetch(b"test:k", 0), Exception)  # noqa: SLF001

        waiting = asyncio.create_task(cache.get_or_load("other", lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.gather(*cache._state.async_refresher._tasks)  # noqa: SLF001
        reply: Any = world._state.servers.transports[0].fetch(b"test:other", 0)  # noqa: SLF001
        assert reply.state == b"miss"

    asyncio.run(run())


def test_threads_that_wait_get_the_exception_of_the_load(server: globalcache.Server) -> None:
    """Twenty threads ask a real server for one key: one runs the function, the others wait for its lease."""
    error, ran = Sick("no database"), list[Any]()
    got: list[BaseException] = []
    everybody = threading.Barrier(20)

    def load() -> Any:
        until_others_wait.wait(10)
        return failing(error, ran)()

    until_others_wait = threading.Event()
    watcher: Any
    with Cache(server.url, timeout=10) as cache, Cache(server.url) as watcher:

        def call() -> None:
            everybody.wait(10)
            got.append(raised(lambda: cache.get_or_load("sick", load)))

        threads = [threading.Thread(target=call) for _ in range(20)]
        for thread in threads:
            thread.start()
        while watcher.inspect("sick")["waiters"] < 19:
            pass
        until_others_wait.set()
        for thread in threads:
            thread.join(20)
    assert len(got) == 20
    assert all(one is error for one in got)
    assert len(ran) == 1


def test_a_flight_without_a_server_raises_one_object() -> None:
    world, (cache,) = processes(1)
    error, got = Sick(), list[BaseException]()
    may_end = threading.Event()

    def load() -> Any:
        may_end.wait(10)
        raise error

    def call() -> None:
        got.append(raised(lambda: cache.get_or_load("k", load)))

    with world.faults.dead():
        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        may_end.set()
        for thread in threads:
            thread.join(10)
    assert all(one is error for one in got)
    assert len(got) == 5


class Big:
    """Something in the frame of a caller."""


def test_an_exception_and_its_frames_are_let_go() -> None:
    """Without the collector of cycles: none may hold a frame, and after the hold-off nothing else does."""
    world, (cache,) = processes(1)

    def sick() -> None:
        raise Sick

    def call() -> weakref.ref[Big]:
        big = Big()
        for _ in range(2):
            with contextlib.suppress(Sick):
                cache.get_or_load("k", sick)
        return weakref.ref(big)

    gc.collect()
    gc.disable()
    try:
        seen = call()
        world.clock.advance(LONGEST_KEPT)
        with contextlib.suppress(Sick):
            cache.get_or_load("other", sick)
        assert seen() is None
    finally:
        gc.enable()


def test_a_thread_lets_go_where_no_further_load_fails() -> None:
    now = threading.Event()
    kept = Failures()
    guard = Guard("f")
    kept.failed((b"k",), Sick(), guard, Handled(), ran=False)
    for _ in range(500):
        if not kept._kept:  # noqa: SLF001
            break
        now.wait(0.01)
    assert not kept._kept  # noqa: SLF001


def test_a_thousand_exceptions_are_kept() -> None:
    kept = Failures(lambda: 1.0)
    for number in range(MOST_KEPT + 50):
        kept.failed((b"k%d" % number,), Sick(), Guard("f"), Handled(), ran=False)
    assert len(kept._kept) == MOST_KEPT  # noqa: SLF001


# Many at once


def test_batches_share_the_exception_and_the_breaker() -> None:
    _, (cache,) = processes(1)
    error, ran = Sick(), list[Any]()

    @cache.batch_loader("row:{id:int}", ttl="1m")
    def rows(ids: list[int]) -> dict[int, int]:
        ran.append(ids)
        raise error

    assert raised(lambda: rows([1, 2])) is error
    assert raised(lambda: rows([1, 2])) is error
    assert raised(lambda: rows([2])) is error
    assert ran == [[1, 2]]
    for number in range(10, 30):
        raised(lambda number=number: rows([number]))  # type: ignore[misc]
    assert len(ran) == 5


def test_one_failure_of_many_keys_that_were_waited_for() -> None:
    """The keys failed by one call elsewhere in the process: its exception, not a LoadError that lists them."""
    _, (cache,) = processes(1)
    error = Sick()
    raised(lambda: cache.get_or_load_many(["a", "b"], lambda _: failing(error)()))
    assert raised(lambda: cache.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))) is error


# Everything at random


class _World:
    """Processes whose functions fail, return or pass through as drawn, and what each of them ever raised."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.world = CacheForTests()
        self.caches = [AsyncCache("memory://", namespace="test") for _ in range(3)]
        self.world.stand_in_for(*self.caches)
        self.raised: dict[int, set[int]] = defaultdict(set)
        self.alive: list[BaseException] = []
        self.failed: list[tuple[float, int, str]] = []
        self.returned: dict[str, set[str]] = defaultdict(set)
        # Of what is drawn: loads that fail, and failures that are passed through.
        self.sick, self.forbidden = 0.5, 0.2
        self.functions = [self._function(process, cache) for process, cache in enumerate(self.caches)]

    def _function(self, process: int, cache: AsyncCache) -> Any:
        @cache.cached("k{number}", ttl="1h", pass_through=[Forbidden])
        async def function(number: int) -> str:
            for _ in range(self.draw.randrange(4)):
                await asyncio.sleep(0)
            if self.draw.random() >= self.sick:
                value = f"{process} {len(self.alive)}"
                self.returned[f"k{number}"].add(value)
                return value
            error: Exception = Forbidden() if self.draw.random() < self.forbidden else Sick()
            self.alive.append(error)  # so that no other one has its id
            self.raised[process].add(id(error))
            if type(error) is Sick:
                self.failed.append((self.world.clock(), process, f"k{number}"))
            raise error

        return function

    async def call(self, process: int, key: int) -> None:
        got: Any = (await asyncio.gather(self.functions[process](key), return_exceptions=True))[0]
        if isinstance(got, LoadError):
            assert (got.key, got.cause_class) in {(f"k{key}", f"{Sick.__module__}.{n}") for n in ("Sick", "Forbidden")}
        elif isinstance(got, BaseException):
            assert id(got) in self.raised[process]
        else:
            assert got in self.returned[f"k{key}"]

    async def run(self, steps: int, keys: int) -> None:
        tasks: list[asyncio.Task[None]] = []
        for _ in range(steps):
            drawn = [(self.draw.randrange(3), self.draw.randrange(keys)) for _ in range(self.draw.randrange(6))]
            tasks += [asyncio.create_task(self.call(process, key)) for process, key in drawn]
            for _ in range(self.draw.randrange(8)):
                await asyncio.sleep(0)
            self.world.clock.advance(self.draw.choice([0.001, 0.01, 0.03]))
            if self.sick < 1 and self.draw.random() < 0.1:
                await self.caches[0].invalidate(f"k{self.draw.randrange(keys)}")
        await asyncio.gather(*tasks)
        for number in range(keys):
            value = await self.caches[1].get(f"k{number}")
            assert value is None or value in self.returned[f"k{number}"]


@pytest.mark.parametrize("seed", range(20))
def test_random_callers_processes_and_failures(seed: int) -> None:
    """Whoever raises the function's class raises an object of that process, and no failed load stores a value."""
    world = _World(seed)
    asyncio.run(world.run(300, keys=5))
    assert world.failed


@pytest.mark.parametrize("seed", range(10))
def test_random_callers_of_a_database_that_is_sick(seed: int) -> None:
    """Three processes and forty keys of one function: at most ten tries in any second once each has seen five fail."""
    world = _World(seed)
    world.sick, world.forbidden = 1.0, 0.0
    asyncio.run(world.run(600, keys=40))
    begun = world.failed[0][0]
    later = [at for at, _, _ in world.failed if at > begun + 1]
    assert later
    assert max(sum(at <= other < at + 1 for other in later) for at in later) <= 10


@pytest.mark.parametrize("seed", range(10))
def test_random_callers_of_one_sick_key(seed: int) -> None:
    """One key cannot open a breaker: with its lease and on its own, a process tries it twice in 100 ms at most."""
    world = _World(seed)
    world.sick, world.forbidden = 1.0, 0.0
    asyncio.run(world.run(600, keys=1))
    for process in range(3):
        times = [at for at, of, _ in world.failed if of == process]
        assert max(sum(at <= other < at + 0.0999 for other in times) for at in times) <= 2
    times = [at for at, _, _ in world.failed]
    assert max(sum(at <= other < at + 1 for other in times) for at in times) <= 10


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("cause", ["the client that loaded it ended, twice", "no one who loaded it answered in time"])
def test_a_load_that_two_clients_did_not_survive_is_not_tried(
    server: globalcache.Server, cause: str, kind: str
) -> None:
    """Two who load a key end, or say nothing until their leases lapse: a third would do no better, and is told."""
    lease = b"100" if "in time" in cause else b"20000"
    fetch = b"CACHE.FETCH lost WAIT 20000 LEASE " + lease + b"\r\n"
    ran: list[Any] = []

    def waiters() -> Any:
        return int(str(probe.inspect("lost").get("waiters", 0)))

    with (
        Wire(server.address) as first,
        Wire(server.address) as second,
        Face(kind, server.url) as face,
        Cache(server.url) as probe,
        ThreadPoolExecutor(1) as pool,
    ):
        first.ask(fetch, b"*6\r\n$4\r\nmiss\r\n")
        second.send(fetch)
        until(lambda: waiters() == 1)
        waiting = pool.submit(face, "get_or_load", "lost", lambda: ran.append(1), wait=20)
        until(lambda: waiters() == 2)
        if "ended" in cause:
            first.socket.close()
            until(lambda: waiters() == 1)
            second.socket.close()
        error = waiting.exception(20)
    assert isinstance(error, LoadError)
    assert cause in str(error)
    assert ran == []


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_load_that_two_workers_did_not_survive_is_not_tried(server: globalcache.Server, kind: str) -> None:
    """A worker is told to load a key and ends, and so does the one that is told next."""
    begin, ran = b"HELLO 3\r\nCACHE.LOADER lost:*\r\n", list[Any]()

    def read_until(worker: Wire, text: bytes) -> None:
        got = b""
        while text not in got:
            got += worker.socket.recv(1 << 16)

    with (
        Wire(server.address) as first,
        Wire(server.address) as second,
        Face(kind, server.url) as face,
        ThreadPoolExecutor(1) as pool,
    ):
        first.send(begin)
        waiting = pool.submit(face, "get_or_load", "lost:1", lambda: ran.append(1), wait=20)
        read_until(first, b"lost:1")
        second.send(begin)
        read_until(second, b"+OK\r\n")
        first.socket.close()
        read_until(second, b"lost:1")
        second.socket.close()
        error = waiting.exception(20)
    assert isinstance(error, LoadError)
    assert "the worker that loaded it ended, twice" in str(error)
    assert ran == []
