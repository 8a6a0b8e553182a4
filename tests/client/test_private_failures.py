"""Failures that concern their caller alone, by `pass_through`: nobody else is given them, and all others load."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from globalcache.client.failures import _PRIVATE, Failures, is_private
from globalcache.client.guard import Guard
from globalcache.client.raised import Handled
from globalcache.errors import ReplyError
from tests.client.loads import (
    Forbidden,
    Sick,
    count_waits,
    processes,
    raised,
    readers,
)
from tests.conftest import transport, until

if TYPE_CHECKING:
    from collections.abc import Callable


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
        lease = below.fetch(b"x", 0).lease
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


def test_a_stale_value_does_not_stand_in_for_what_passes_through() -> None:
    world, (cache,) = processes(1)
    cache.set("page:1", "old", ttl=1, stale_if_error=60)
    world.clock.advance(2)

    @cache.cached("page:{id}", ttl=1, stale_if_error=60, pass_through=[Forbidden])
    def page(id: int) -> str:
        raise Forbidden(id)

    assert isinstance(raised(lambda: page(1)), Forbidden)
