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
import traceback
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from sqlalchemy.exc import NoResultFound

import globalcache
from globalcache import AsyncCache, Cache, ConfigError, LoadError
from globalcache.client.failures import _PRIVATE, LONGEST_KEPT, MOST_KEPT, Failures, is_private
from globalcache.client.guard import Guard
from globalcache.client.raised import Handled
from globalcache.contrib.testing import CacheForTests
from globalcache.errors import ReplyError
from tests.client.test_loading import count_waits
from tests.conftest import transport, until

if TYPE_CHECKING:
    from collections.abc import Callable


class Sick(Exception):  # noqa: N818 - as applications name it
    """The database is away."""


class Forbidden(Exception):  # noqa: N818
    """The caller may not see this."""


class NoUser(Exception):  # noqa: N818
    """There is no such user."""


class NoOrder(Exception):  # noqa: N818
    """There is no such order."""


class NoRow(Exception):  # noqa: N818
    """There is no such row, with a constructor of its own."""

    def __init__(self, table: str, key: str) -> None:
        super().__init__(f"no {table} at {key}")


class HTTPException(Exception):  # noqa: N818
    """An answer to a request: made from one text, it would have that as its status."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status


class Mute(Exception):  # noqa: N818
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def processes(count: int, kind: Any = Cache, **options: Any) -> tuple[CacheForTests, list[Cache]]:
    """Return the cache that has the clock, and caches that stand for processes on its store."""
    world = CacheForTests()
    made = [kind("memory://", namespace="test", **options) for _ in range(count)]
    world.stand_in_for(*made)
    return world, made


def failing(error: BaseException, ran: list[Any] | None = None) -> Callable[[], Any]:
    def load() -> Any:
        if ran is not None:
            ran.append(error)
        raise error

    return load


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test looks at it
        call()
    return caught.value


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
    answer = LoadError("k: failed", key="k", cause_class=f"{__name__}.Sick")
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
    assert (error.key, error.cause_class) == ("k", f"{__name__}.Sick")
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
    assert str(raised(lambda: b.get_or_load("k", lambda: 1))) == f"test:k: {__name__}.Sick"


def test_tell_text() -> None:
    _, (a, b) = processes(2, tell_text=True)
    raised(lambda: a.get_or_load("k", failing(Sick("of\nits tables"))))
    b.get_or_load("k", lambda: 1)
    error = raised(lambda: b.get_or_load("k", lambda: 1))
    assert isinstance(error, LoadError)
    assert str(error) == f"test:k: {__name__}.Sick: of its tables"
    assert error.cause_class == f"{__name__}.Sick"


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


def test_a_sick_database_is_tried_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand keys of one function, each asked once: five tries, then one a second, and one line in the log."""
    world, (cache,) = processes(1)
    ran: list[float] = []

    @cache.cached("row:{id}", ttl="1m")
    def row(id: int) -> int:
        ran.append(world.clock())
        raise Sick(id)

    begun = world.clock()
    for number in range(1000):
        error = raised(lambda number=number: row(number))  # type: ignore[misc]
        assert isinstance(error, Sick | LoadError)
        if isinstance(error, LoadError):
            assert (error.key, error.cause_class) == (f"row:{number}", f"{__name__}.Sick")
        world.clock.advance(0.01)
    assert len(ran) == 5 + 9
    assert max(sum(at <= other < at + 1 for other in ran) for at in ran if at > begun + 0.1) <= 2
    assert sum("once a second" in record.getMessage() for record in caplog.records) == 1


def test_a_breaker_closes_when_a_try_succeeds() -> None:
    world, (cache,) = processes(1)
    sick = True

    @cache.cached("row:{id}", ttl="1m")
    def row(id: int) -> int:
        if sick:
            raise Sick
        return id

    for number in range(10):
        raised(lambda number=number: row(number))  # type: ignore[misc]
    sick = False
    assert isinstance(raised(lambda: row(20)), LoadError)
    world.clock.advance(1)
    assert [row(number) for number in range(20)] == list(range(20))


def test_a_breaker_is_of_one_function() -> None:
    _, (cache,) = processes(1)
    for number in range(10):
        raised(lambda number=number: cache.get_or_load(f"k{number}", failing(Sick())))  # type: ignore[misc]
    assert cache.get_or_load("other", lambda: 1) == 1


def test_any_callable_has_a_breaker() -> None:
    """Mocks have every attribute, methods and partial functions are new ones each time, and objects have no code."""
    _, (cache,) = processes(1)

    class Repository:
        def load(self, _: int = 0) -> Any:
            raise Sick

        def __call__(self) -> Any:
            raise Sick

    mock = Mock(side_effect=Sick())
    makers: list[Callable[[], Any]] = [
        lambda: mock,
        lambda: Repository().load,
        lambda: partial(partial(Repository().load, 1)),
        Repository,
    ]
    for kind, make in enumerate(makers):
        tried = [raised(partial(cache.get_or_load, f"{kind}:{number}", make())) for number in range(8)]
        assert isinstance(tried[-1], LoadError)


def test_what_cannot_be_stored_opens_no_breaker() -> None:
    _, (cache,) = processes(1)

    def load() -> Any:
        return object()

    for number in range(10):
        error = raised(lambda number=number: cache.get_or_load(f"k{number}", load))  # type: ignore[misc]
        assert isinstance(error, TypeError)


def test_a_sick_database_without_a_server() -> None:
    """The process loads by itself while the server is away: a key that failed rests for 100 ms."""
    world, (cache,) = processes(1)
    ran: list[Any] = []
    with world.faults.dead():
        error = Sick()
        for _ in range(5):
            assert raised(lambda: cache.get_or_load("k", failing(error, ran))) is error
        assert len(ran) == 1
        world.clock.advance(0.101)
        assert [cache.get_or_load("k", lambda: 1) for _ in range(2)] == [1, 1]
        for number in range(20):
            raised(lambda number=number: cache.get_or_load(f"k{number}", failing(Sick(), ran)))  # type: ignore[misc]
        assert len(ran) == 5


def test_passed_through_is_held_against_nobody() -> None:
    _, (cache, other) = processes(2)
    ran: list[str] = []

    @cache.cached("page:{id}", ttl="1m", ignore=["user"], pass_through=[Forbidden])
    def page(id: int, user: str) -> str:
        ran.append(user)
        if user == "guest":
            raise Forbidden(user)
        return f"page {id}"

    for number in range(20):
        assert isinstance(raised(lambda number=number: page(number, "guest")), Forbidden)  # type: ignore[misc]
    assert len(ran) == 20
    assert page(1, "ada") == page(1, "guest") == "page 1"
    assert other.get("page:1") == "page 1"


def readers(cache: Any) -> Any:
    """Return a function whose exception concerns its caller alone: a guest may not read what ada may."""

    def page(user: str) -> str:
        if user != "ada":
            raise Forbidden(user)
        return f"page for {user}"

    def of(user: str, begin: Callable[[], object]) -> Any:
        load = lambda: (begin(), page(user))[1]  # noqa: E731
        return cache.get_or_load("page", load, guard=Guard("page", (), (Forbidden,)))

    return of


def outcome_of(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}"


def test_who_waited_for_a_private_failure_loads(server: globalcache.Server) -> None:
    """A guest's load is refused while others wait for it, in this process and in another one.

    Each of them then has its own: guests are refused by their own names, and ada gets her page.
    """
    go, got = threading.Event(), dict[str, str]()
    watcher: Any
    with Cache(server.url, timeout=20) as one, Cache(server.url, timeout=20) as two, Cache(server.url) as watcher:
        callers = {"mallory": one, "ada": one, "bob": one, "eve": two, "carol": two}

        def call(user: str) -> None:
            got[user] = outcome_of(lambda: readers(callers[user])(user, lambda: go.wait(20)))

        threads = [threading.Thread(target=call, args=(user,)) for user in callers]
        for number, thread in enumerate(threads):
            thread.start()
            while watcher.inspect("page")["waiters"] < number or not one.stats()["loads"]:
                pass
        go.set()
        for thread in threads:
            thread.join(20)
        assert (got["mallory"], got["ada"]) == ("Forbidden: mallory", "page for ada")
        assert all(got[user] in {f"Forbidden: {user}", "page for ada"} for user in got)


def test_tasks_that_waited_for_a_private_failure_load(server: globalcache.Server) -> None:
    """As above in one loop: nobody is refused by the name of another one."""

    async def run() -> None:
        async with AsyncCache(server.url, timeout=20) as one, AsyncCache(server.url, timeout=20) as two:
            go = asyncio.Event()

            async def call(cache: AsyncCache, user: str) -> str:
                async def load() -> str:
                    await go.wait()
                    if user != "ada":
                        raise Forbidden(user)
                    return "page"

                try:
                    return str(await cache.get_or_load("page", load, guard=Guard("page", (), (Forbidden,))))
                except Forbidden as error:
                    return str(error)

            users = ["mallory", "bob", "eve", "carol", "ada"]
            tasks = [asyncio.create_task(call((one, two)[place % 2], user)) for place, user in enumerate(users)]
            while (await two.inspect("page")).get("waiters", 0) < len(users) - 1:
                pass
            go.set()
            assert all(got in {user, "page"} for user, got in zip(users, await asyncio.gather(*tasks), strict=True))
            assert tasks[-1].result() == "page"

    asyncio.run(run())


def test_a_hundred_who_are_refused(server: globalcache.Server) -> None:
    """They all wait for one load that is refused; none is refused by another one's name."""

    async def run() -> None:
        async with AsyncCache(server.url, timeout=20) as cache:

            async def call(number: int) -> str:
                async def load() -> str:
                    await asyncio.sleep(0)
                    raise Forbidden(number)

                with pytest.raises(Forbidden) as caught:
                    await cache.get_or_load("page", load, guard=Guard("page", (), (Forbidden,)))
                return str(caught.value)

            assert await asyncio.gather(*map(call, range(100))) == [str(number) for number in range(100)]

    asyncio.run(run())


def test_nobody_waits_for_a_second_private_failure() -> None:
    """One load after another is refused while a caller asks: it loads for itself after the second answer."""
    _, (cache,) = processes(1)
    fetch = transport(cache).fetch = Mock(return_value=ReplyError("LOADFAILED test:k: a.B" + _PRIVATE))
    assert cache.get_or_load("k", lambda: 1, wait=10) == 1
    assert [call.args[1] for call in fetch.call_args_list] == [10, 0]


class Crowd:
    """One caller that is refused while others wait for its load, and what those load then.

    The loads of the others end when so many of them run at a time.
    """

    guard = Guard("page", (), (Forbidden,))

    def __init__(self, number: int, at_a_time: int) -> None:
        self.number = number
        self.first, self.go = threading.Event(), threading.Event()
        self.running = self.most = 0
        self.is_waiting: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        self._at_a_time = at_a_time

    def load(self, number: int) -> None:
        if number == 0:
            assert self.first.wait(20)
        else:
            self._count(1)
            assert self.go.wait(20)
            self._count(-1)
        raise Forbidden(number)

    def _count(self, more: int) -> None:
        with self._lock:
            self.running += more
            self.most = max(self.most, self.running)
            if self.running == self._at_a_time:
                self.go.set()

    def call_threads(self, cache: Cache) -> list[str]:
        def call(number: int) -> str:
            return outcome_of(lambda: cache.get_or_load("page", partial(self.load, number), guard=self.guard))

        with ThreadPoolExecutor(self.number + 1) as pool:
            calls = [pool.submit(call, 0)]
            until(lambda: cache.stats()["loads"] + cache.stats()["local_loads"] == 1)
            calls += [pool.submit(call, number) for number in range(1, self.number + 1)]
            until(self.is_waiting)
            self.first.set()
            return [call.result() for call in calls]

    async def call_tasks(self, cache: AsyncCache) -> list[str]:
        # Loads run in threads, of which there have to be enough.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.number + 1))

        async def call(number: int) -> str:
            try:
                run = partial(asyncio.to_thread, self.load, number)
                await cache.get_or_load("page", run, guard=self.guard)
            except Forbidden as error:
                return f"Forbidden: {error}"
            return "loaded"

        async with cache:
            tasks = [asyncio.create_task(call(number)) for number in range(self.number + 1)]
            await asyncio.to_thread(until, self.is_waiting)
            self.first.set()
            return await asyncio.gather(*tasks)


@pytest.mark.parametrize("local_loads", [20, 4])
@pytest.mark.parametrize("others", ["threads", "tasks"])
def test_all_who_waited_for_a_private_failure_load_at_once(
    server: globalcache.Server, others: str, local_loads: int
) -> None:
    """One caller is refused while twenty wait for its lease: they do not wait for each other as well.

    Their loads end when as many of them run as may run at a time. If each waited for the one before it, none would.
    """
    crowd = Crowd(20, local_loads)
    with Cache(server.url, timeout=20, local_loads=local_loads) as cache, Cache(server.url) as watcher:
        crowd.is_waiting = lambda: watcher.inspect("page").get("waiters", 0) == crowd.number
        got = crowd.call_threads(cache) if others == "threads" else asyncio.run(crowd.call_tasks(cache.aio))
    assert got == [f"Forbidden: {number}" for number in range(crowd.number + 1)]
    # One of them may have the lease.
    assert crowd.most <= local_loads + 1


@pytest.mark.parametrize("local_loads", [20, 4])
@pytest.mark.parametrize("others", ["threads", "tasks"])
def test_all_who_joined_a_private_failure_load_at_once(
    monkeypatch: pytest.MonkeyPatch, others: str, local_loads: int
) -> None:
    """As above without a server: twenty have joined the load of their process that is refused."""
    crowd, waits = Crowd(20, local_loads), count_waits(monkeypatch)
    cache = Cache("globalcache://127.0.0.1:1", local_loads=local_loads)
    if others == "threads":
        crowd.is_waiting = lambda: len(waits) == crowd.number
        got = crowd.call_threads(cache)
    else:
        crowd.is_waiting = lambda: cache.stats()["errors"] == crowd.number + 1
        got = asyncio.run(crowd.call_tasks(cache.aio))
    assert got == [f"Forbidden: {number}" for number in range(crowd.number + 1)]
    assert crowd.most <= local_loads


@pytest.mark.parametrize("others", ["threads", "tasks"])
def test_a_private_failure_without_a_server(others: str) -> None:
    """There is no lease to wait for: those who joined the load in this process load for themselves."""
    users = ["mallory", "bob", "ada", "eve"]
    world, (cache,) = processes(1)
    with world.faults.dead():
        if others == "threads":
            got = dict[str, str]()
            begin = partial(until, lambda: cache.stats()["errors"] == len(users))
            call = readers(cache)

            def run(user: str) -> None:
                got[user] = outcome_of(lambda: call(user, begin))

            threads = [threading.Thread(target=run, args=(user,)) for user in users]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        else:
            got = asyncio.run(tasks_refused(cache.aio, users))
    for user in users:
        assert got[user] == (f"Forbidden: {user}" if user != "ada" else "page for ada") or got[user] == "page for ada"
    assert (got["mallory"], got["ada"]) == ("Forbidden: mallory", "page for ada")


async def tasks_refused(cache: AsyncCache, users: list[str]) -> dict[str, str]:
    async def call(user: str) -> str:
        async def load() -> str:
            await asyncio.sleep(0)
            if user != "ada":
                raise Forbidden(user)
            return f"page for {user}"

        try:
            return str(await cache.get_or_load("page", load, guard=Guard("page", (), (Forbidden,))))
        except Forbidden as error:
            return f"Forbidden: {error}"

    return dict(zip(users, await asyncio.gather(*map(call, users)), strict=True))


@pytest.mark.parametrize("name", ["Forbidden" * 70, "É" * 300, "漢" * 220, "a" + "é" * 300])
def test_a_private_failure_is_recognised_however_long_its_name(server: globalcache.Server, name: str) -> None:
    """A server keeps 512 bytes of a cause, and what says that it is private stands at its end."""
    private = type(name, (Exception,), {})
    said = Failures().failed([b"x"], private(), Guard("f", (), [private]), Handled(), ran=False)
    with Cache(server.url) as cache:
        below = transport(cache)
        lease = below.fetch(b"x", 0)[2]
        below.call(b"CACHE.FAIL", *lease.words, said[0], b"RETRY", b"1000")
        lease.close()
        assert is_private(below.fetch(b"x", 0))


def test_the_text_of_a_private_failure_stays_here(server: globalcache.Server) -> None:
    """Even a cache that lets others read texts does not send this one."""
    with Cache(server.url, tell_text=True) as cache:
        call = Mock(side_effect=transport(cache).call)
        transport(cache).call = call
        assert outcome_of(lambda: readers(cache)("SECRET", lambda: None)) == "Forbidden: SECRET"
        ((words, _),) = call.call_args_list
        assert words[0] == b"CACHE.FAIL"
        assert "SECRET" not in str(words)


def test_the_guard_of_a_load_whose_failures_are_all_private() -> None:
    """Two callers, each with a function of its own from the same place in the code: each gets its own exception."""
    _, (cache,) = processes(1)

    def load_of(user: str) -> Callable[[], Any]:
        def load() -> Any:
            raise Sick(user)

        return load

    for user in ("ann", "bob", "ann"):
        load = load_of(user)
        guard = cache._failures.guard_of(load, (Exception,))  # noqa: SLF001
        assert guard is not cache._failures.guard_of(load)  # noqa: SLF001
        assert str(raised(partial(cache.get_or_load, "k", load, guard=guard))) == user


# What an exception that several callers get has of each of them


def chain_of(error: BaseException | None) -> list[str]:
    """Return all exceptions and functions that a log of this exception would show."""
    shown: list[str] = []
    while error is not None:
        shown.append(repr(error))
        shown += [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        error = error.__cause__ or error.__context__
    return shown


def broken() -> Any:
    try:
        failing(KeyError("row"))()
    except KeyError:
        raise Sick from None


def request_of_ann(call: Callable[[], Any]) -> BaseException:
    try:
        failing(PermissionError("ann"))()
    except PermissionError:
        error = raised(call)
    return error


def request_of_bob(call: Callable[[], Any]) -> BaseException:
    try:
        failing(PermissionError("bob"))()
    except PermissionError:
        error = raised(call)
    return error


def test_a_shared_exception_has_nothing_of_its_callers() -> None:
    """Ann's load fails while she handles another exception, and so does Bob, who gets the same object."""
    _, (cache,) = processes(1)
    first = request_of_ann(lambda: cache.get_or_load("k", broken))
    shown = [chain_of(first)]
    for _ in range(3):
        assert request_of_bob(lambda: cache.get_or_load("k", broken)) is first
        shown.append(chain_of(first))
        assert isinstance(first.__context__, KeyError)
        assert first.__context__.__context__ is None
        assert first.__suppress_context__
        assert first.__cause__ is None
    assert not [text for text in shown[0] if "of_bob" in text or "PermissionError" in text]
    assert not [text for later in shown[1:] for text in later if "of_ann" in text or "PermissionError" in text]
    assert len(shown[1]) == len(shown[3])


def test_a_shared_exception_of_a_batch_keeps_no_caller() -> None:
    _, (cache,) = processes(1)
    calls = [lambda: cache.get_or_load_many(["a", "b"], lambda _: broken()) for _ in range(2)]
    first = request_of_ann(calls[0])
    assert request_of_bob(calls[1]) is first
    assert not [text for text in chain_of(first) if "of_ann" in text or "PermissionError" in text]


def test_what_cannot_be_stored_has_nothing_of_its_callers() -> None:
    _, (cache,) = processes(1)
    first = request_of_ann(lambda: cache.get_or_load("k", object))
    assert isinstance(first, TypeError)
    assert request_of_bob(lambda: cache.get_or_load("k", object)) is first
    assert not [text for text in chain_of(first) if "of_ann" in text or "PermissionError" in text]


def test_a_cause_that_callers_add_is_not_shared() -> None:
    """`raise error from other` in one caller changes the object that the next one gets, unless that is undone."""
    _, (cache,) = processes(1)
    first = raised(lambda: cache.get_or_load("k", broken))
    with pytest.raises(Sick):
        raise first from PermissionError("ann")
    assert raised(lambda: cache.get_or_load("k", broken)).__cause__ is None


def test_an_exception_keeps_what_its_caller_handles() -> None:
    """What passes through is nobody else's, so it is as it would be without a cache."""
    _, (cache,) = processes(1)
    error = request_of_ann(lambda: readers(cache)("guest", lambda: None))
    assert isinstance(error.__context__, PermissionError)


def test_a_flight_without_a_server_shares_nothing_of_its_callers() -> None:
    """Tasks that join one load, each of which handles an exception of its own."""
    world = CacheForTests()

    def deny(user: str) -> None:
        raise PermissionError(user)

    async def run() -> None:
        cache = AsyncCache("memory://", namespace="test")
        world.stand_in_for(cache)
        shown: list[list[str]] = []

        async def load() -> Any:
            await asyncio.sleep(0)
            return broken()

        async def call(user: str) -> None:
            try:
                deny(user)
            except PermissionError:
                with pytest.raises(Sick) as caught:
                    await cache.get_or_load("k", load)
                shown.append(chain_of(caught.value))

        await asyncio.gather(*map(call, ["ann", "bob", "eve"]))
        assert len(shown) == 3
        assert not [text for one in shown for text in one if "PermissionError" in text]
        assert len({len(one) for one in shown}) == 1

    with world.faults.dead():
        asyncio.run(run())


def handled_by_caller(error: PermissionError) -> tuple[BaseException, Handled]:
    """Return what a caller that handles `error` hands to its load."""
    try:
        failing(error)()
    except PermissionError:
        handled = Handled()
    return error, handled


def test_what_a_caller_handles_is_cut_out_of_groups() -> None:
    ann, handled = handled_by_caller(PermissionError("ann"))
    inner, cause = Sick("inner"), Sick("cause")
    group = ExceptionGroup("both", [inner, Sick("other")])
    group.__context__ = inner.__context__ = cause.__context__ = ann
    inner.__cause__ = cause
    handled.cut_from(group)
    assert [error.__context__ for error in (group, inner, cause)] == [None] * 3


def test_a_load_that_raises_what_its_caller_handles() -> None:
    """It is the outcome then, with its own chain."""
    ann, handled = handled_by_caller(PermissionError("ann"))
    ann.__context__ = Sick("before")
    handled.cut_from(ann)
    assert isinstance(ann.__context__, Sick)


def test_a_stale_value_does_not_stand_in_for_what_passes_through() -> None:
    world, (cache,) = processes(1)
    cache.set("page:1", "old", ttl=1, stale_if_error=60)
    world.clock.advance(2)

    @cache.cached("page:{id}", ttl=1, stale_if_error=60, pass_through=[Forbidden])
    def page(id: int) -> str:
        raise Forbidden(id)

    assert isinstance(raised(lambda: page(1)), Forbidden)


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
        assert isinstance(world._state.transports[0].fetch(b"test:k", 0), Exception)  # noqa: SLF001

        waiting = asyncio.create_task(cache.get_or_load("other", lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.gather(*cache._state.async_refresher._tasks)  # noqa: SLF001
        reply: Any = world._state.transports[0].fetch(b"test:other", 0)  # noqa: SLF001
        assert reply[0] == b"miss"

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


def frames(error: BaseException) -> int:
    count, trace = 0, error.__traceback__
    while trace is not None:
        count, trace = count + 1, trace.tb_next
    return count


def test_tracebacks_do_not_grow() -> None:
    _, (cache,) = processes(1)
    error = Sick()
    lengths = []
    for _ in range(10):
        raised(lambda: cache.get_or_load("k", failing(error)))
        lengths.append(frames(error))
    assert max(lengths) == lengths[-1] == lengths[1]
    assert error.__context__ is None


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


# Rows that do not exist


def test_each_class_of_absent_is_raised_in_every_process() -> None:
    world, (a, b) = processes(2)
    ran: list[int] = []

    def row(id: int) -> int:
        ran.append(id)
        raise (NoUser if id < 10 else NoOrder)(f"row {id}")

    here = a.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)
    there = b.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)
    for number, kind in ((1, NoUser), (20, NoOrder)):
        first, again, other = (raised(partial(call, number)) for call in (here, here, there))
        assert (type(first), str(first)) == (kind, f"row {number}")
        assert (type(again), str(again)) == (type(other), str(other)) == (kind, f"row:{number}")
    assert len(ran) == 2
    world.clock.advance(11)
    assert isinstance(raised(lambda: there(1)), NoUser)
    assert len(ran) == 3


def test_a_subclass_is_stored_as_the_class_that_was_named() -> None:
    _, (cache,) = processes(1)

    class NoUserToday(NoUser):
        """One that readers do not know of."""

    @cache.cached("user:{id}", ttl="1m", absent=[NoOrder, NoUser])
    def user(id: int) -> int:
        raise NoUserToday(id)

    assert isinstance(raised(lambda: user(1)), NoUserToday)
    assert type(raised(lambda: user(1))) is NoUser


def test_a_class_with_its_own_constructor() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent={NoRow: lambda key: NoRow("product", key)})
    def row(id: int) -> int:
        raise NoRow("product", f"id {id}")

    assert [str(raised(lambda: row(1))) for _ in range(2)] == ["no product at id 1", "no product at row:1"]


def test_absent_takes_constructors_that_take_anything() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent=[NoResultFound])
    def row(id: int) -> int:
        raise NoResultFound(id)

    for _ in range(2):
        assert isinstance(raised(lambda: row(1)), NoResultFound)


@pytest.mark.parametrize("kind", [NoRow, HTTPException, UnicodeDecodeError, ExceptionGroup])
def test_classes_that_cannot_be_made_are_refused(kind: Any) -> None:
    cache = Cache("memory://")

    def row(id: int) -> int:
        return id

    with pytest.raises(ConfigError, match=f"absent: {kind.__name__} has a constructor of its own; .*lambda key: "):
        cache.cached("row:{id}", absent=[kind])(row)
    with pytest.raises(ConfigError, match="pass_through: 7 is no class of exceptions"):
        cache.cached("row:{id}", pass_through=[7])(row)  # type: ignore[list-item]


def test_a_class_that_the_reader_does_not_name() -> None:
    _, (a, b) = processes(2)

    def row(id: int) -> int:
        raise NoUser(id)

    raised(lambda: a.cached("row:{id}", ttl="1m", absent=[NoUser])(row)(1))
    error = raised(lambda: b.cached("row:{id}", ttl="1m", absent=[NoOrder])(row)(1))
    assert isinstance(error, LoadError)
    assert (error.key, error.cause_class) == ("row:1", f"{__name__}.NoUser")
    assert b.get_or_load("row:1", lambda: 1) is None
    assert b.get_or_load_many(["row:1"], lambda _: {}) == {"row:1": None}


def test_an_absence_without_a_name_raises_the_first_class() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])
    def row(id: int) -> int:  # noqa: ARG001
        return None  # type: ignore[return-value]  # as an absence that another client wrote

    @cache.cached("maybe:{id}", ttl="1m", absent=[NoUser, NoOrder])
    def maybe(id: int) -> int | None:  # noqa: ARG001
        return None

    assert type(raised(lambda: row(1))) is type(raised(lambda: row(1))) is NoUser
    assert (maybe(1), maybe(1)) == (None, None)


def test_a_real_server_keeps_the_name_of_an_absence(server: globalcache.Server) -> None:
    with Cache(server.url) as a, Cache(server.url) as b:

        def row(id: int) -> int:
            raise NoOrder(id)

        raised(lambda: a.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)(1))
        error = raised(lambda: b.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)(1))
        assert (type(error), str(error)) == (NoOrder, "row:1")
        assert b.get("row:1") is None
        entry = b.get_entry("row:1")
        assert entry is not None
        assert (entry.value, entry.absent) == (None, True)


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


@pytest.mark.parametrize(
    "form", [list, lambda keys: [(key, 1) for key in keys], lambda keys: {key[:1]: 1 for key in keys}]
)
def test_a_batch_of_the_wrong_shape_is_no_lack_of_rows(form: Any) -> None:
    _, (cache, other) = processes(2)
    with pytest.raises(TypeError, match=r"\.<lambda> returned (a list; it should return a dict|keys that it was not)"):
        cache.get_or_load_many(["ka", "kb"], lambda keys: form(keys))  # noqa: PLW0108 - it is named in the message
    assert other.get_or_load_many(["ka", "kb"], lambda keys: dict.fromkeys(keys, 1)) == {"ka": 1, "kb": 1}


def test_without_a_server_an_exception_has_no_other_context() -> None:
    """That the server is away is no cause of what a function raises."""
    world, (cache,) = processes(1)
    with world.faults.dead():
        assert raised(lambda: cache.get_or_load("k", failing(Sick()))).__context__ is None


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
            assert (got.key, got.cause_class) in {(f"k{key}", f"{__name__}.{n}") for n in ("Sick", "Forbidden")}
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
