"""The client on a bad link: cancelled calls, lost and late writes, servers that go away and come back."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache, DeadlineError, UnavailableError
from tests.conftest import in_turns, transport, until
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seven of ten are cancelled: more than 100,000 in `make faults`.
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
CALLS = 3000 * ROUNDS
# Of threads that take turns at every step.
SECONDS = min(60, 2 * ROUNDS)


@pytest.fixture
def proxy(server: globalcache.Server) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


def url(proxy: Proxy) -> str:
    return f"globalcache://{proxy.address}"


async def ask_and_check(cache: AsyncCache, number: int) -> None:
    key = f"k{number % 50}"
    match number % 4:
        case 0:
            assert await cache.get(key) in {key, None}
        case 1:
            assert await cache.get_many([key, "k1"]) in ({key: key, "k1": "k1"}, {"k1": "k1"}, {key: key}, {})
        case 2:
            assert await cache.get_or_load(key, lambda: key, ttl=0.002) == key
        case _:

            async def slow() -> str:
                await asyncio.sleep(0.0005)
                return f"slow{number % 7}"

            assert await cache.get_or_load(f"slow{number % 7}", slow, ttl=0.002) == f"slow{number % 7}"


def test_cancelled_calls_leave_no_reply_to_another_call(server: globalcache.Server) -> None:
    draw = random.Random(1)

    async def run() -> None:
        async with AsyncCache(server.url) as cache:
            await cache.set_many({f"k{number}": f"k{number}" for number in range(50)})
            tasks = []
            for number in range(CALLS):
                task = asyncio.create_task(ask_and_check(cache, number))
                tasks.append(task)
                # At every await point: before it ran at all, after so many turns of the loop, or after a while.
                turns = draw.randrange(6)
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns == 5:
                    await asyncio.sleep(draw.random() * 0.001)
                if draw.random() < 0.7:
                    task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                    raise outcome
            stats = cache.stats()
            assert (stats["connects"], stats["errors"], stats["owed"]) == (1, 0, 0)
            # Nobody holds a lease any more.
            for number in range(7):
                assert await cache.get_or_load(f"slow{number}", lambda: 1, wait=2) in {1, f"slow{number}"}

    asyncio.run(run())


def test_a_cancelled_wait_hands_its_lease_on(server: globalcache.Server) -> None:
    async def run() -> None:
        async with AsyncCache(server.url) as cache:
            begun = asyncio.Event()

            async def hang() -> int:
                begun.set()
                await asyncio.sleep(60)
                return 1

            holder = asyncio.create_task(cache.get_or_load("x", hang))
            await begun.wait()
            waiters = [asyncio.create_task(cache.get_or_load("x", lambda: 2)) for _ in range(3)]
            await asyncio.sleep(0.05)
            waiters[0].cancel()
            holder.cancel()
            async with asyncio.timeout(2):
                assert await asyncio.gather(*waiters[1:]) == [2, 2]

    asyncio.run(run())


def in_threads(proxy: Proxy, **options: Any) -> tuple[Callable[..., Any], Callable[[], None]]:
    cache = Cache(url(proxy), **options)

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(cache, name)(*args, **kwargs)

    return call, cache.close


def in_tasks(proxy: Proxy, **options: Any) -> tuple[Callable[..., Any], Callable[[], None]]:
    cache, runner = AsyncCache(url(proxy), **options), asyncio.Runner()

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(cache, name)(*args, **kwargs)
        return runner.run(_awaited(result)) if asyncio.iscoroutine(result) else result

    def close() -> None:
        runner.run(cache.aclose())
        runner.close()

    return call, close


async def _awaited(call: Any) -> Any:
    return await call


@pytest.fixture(params=[in_threads, in_tasks])
def open_cache(request: pytest.FixtureRequest, proxy: Proxy) -> Iterator[Callable[..., Callable[..., Any]]]:
    closing = []

    def open_cache(**options: Any) -> Callable[..., Any]:
        call, close = request.param(proxy, timeout=0.2, **options)
        closing.append(close)
        return call  # type: ignore[no-any-return]

    yield open_cache
    proxy.release()
    for close in closing:
        close()


def test_a_late_write_never_leaves_an_old_value(
    proxy: Proxy, server: globalcache.Server, open_cache: Callable[..., Callable[..., Any]]
) -> None:
    call = open_cache()
    with Cache(server.url) as direct:
        direct.set("x", "before")
        assert call("get", "x") == "before"
        proxy.to_server.delay = 0.8
        late = time.monotonic() + 0.8
        assert call("set", "x", "old") is False  # sent, and nobody knows whether it arrives
        assert call("stats")["owed"] == 1
        proxy.to_server.delay = 0.0
        until(lambda: not _fails(call, "ping"))  # a new connection, and what was owed is made good
        assert time.monotonic() < late
        assert call("get", "x") is None
        assert call("stats")["owed"] == 0
        direct.set("x", "new")
        while time.monotonic() < late + 0.2:  # now the late write reaches the server's machine
            assert call("get", "x") == "new"
            time.sleep(0.02)


def _fails(call: Callable[..., Any], name: str) -> bool:
    try:
        call(name)
    except (UnavailableError, DeadlineError):
        return True
    return False


def test_lost_writes_are_repeated_before_anything_is_read(
    proxy: Proxy, server: globalcache.Server, open_cache: Callable[..., Callable[..., Any]]
) -> None:
    call = open_cache()
    with Cache(server.url) as direct:
        direct.set_many({"a": 1, "b": 1, "c": 1, "d": 1})
        direct.set("t", 1, tags=["tag"])
        assert call("get", "a") == 1
        proxy.refusing = True
        proxy.cut()
        assert call("set", "a", 2) is False
        assert call("invalidate", "b", tags=["tag"]) == 0
        assert call("delete", "c") is False
        assert call("get", "d") is None
        assert call("get_or_load", "d", lambda: "loaded") == "loaded"
        for name in ("incr", "has"):
            with pytest.raises(UnavailableError):
                call(name, "n")
        with pytest.raises(UnavailableError):
            call("add", "n", 1)
        proxy.refusing = False
        until(lambda: not _fails(call, "ping"))
        assert call("get_many", ["a", "b", "c", "d", "t"]) == {"d": 1}
        stats = call("stats")
        assert (stats["owed"], stats["local_loads"]) == (0, 1)
        assert stats["away_seconds"] > 0


def test_too_much_to_remember_flushes_the_server(
    proxy: Proxy, server: globalcache.Server, open_cache: Callable[..., Callable[..., Any]]
) -> None:
    call = open_cache()
    with Cache(server.url) as direct:
        direct.set("kept", 1)
        assert call("get", "kept") == 1
        proxy.refusing = True
        proxy.cut()
        call("invalidate", *(f"key{number}" for number in range(10_001)))
        proxy.refusing = False
        until(lambda: not _fails(call, "ping"))
        assert call("get", "kept") is None


def test_a_hanging_server_costs_one_deadline(
    proxy: Proxy, open_cache: Callable[..., Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = open_cache()
    call("set", "x", 1)
    proxy.hold()
    assert call("get", "x") is None
    now = time.monotonic()
    monkeypatch.setattr("globalcache.client.endpoint.time", SimpleNamespace(monotonic=lambda: now))
    assert call("get", "x") is None  # a connection is tried, in vain
    tried = proxy.accepted
    for _ in range(3):
        assert call("get", "x") is None
    assert proxy.accepted == tried


def test_errors_are_raised_for_those_who_want_them(proxy: Proxy, open_cache: Callable[..., Callable[..., Any]]) -> None:
    call = open_cache(on_error="raise")
    proxy.refusing = True
    for name in ("get", "delete", "get_entry"):
        with pytest.raises(UnavailableError):
            call(name, "x")
    with pytest.raises(UnavailableError):
        call("get_or_load", "x", lambda: 1)


def test_without_a_server_a_key_is_loaded_once_in_few_loads(proxy: Proxy) -> None:
    proxy.refusing = True
    running, most, loads = 0, 0, 0

    async def load() -> int:
        nonlocal running, most, loads
        loads += 1
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 1

    async def run() -> None:
        async with AsyncCache(url(proxy), local_loads=3, timeout=0.2) as cache:
            calls = [cache.get_or_load(f"k{number % 10}", load) for number in range(100)]
            assert await asyncio.gather(*calls) == [1] * 100

    asyncio.run(run())
    assert (loads, most) == (10, 3)


def test_threads_without_a_server_load_a_key_once(proxy: Proxy) -> None:
    proxy.refusing = True
    cache, loads, go = Cache(url(proxy), timeout=0.2), [], threading.Event()

    def load() -> int:
        loads.append(1)
        go.wait(10)
        return 1

    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get_or_load("x", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(cache._state.flights) == 1 and cache.stats()["errors"] == 8)  # noqa: SLF001
    # Each knows that there is no server; the last of them has a few lines to go until it waits for the load.
    time.sleep(0.2)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (got, len(loads)) == ([1] * 8, 1)
    cache.close()


@pytest.mark.parametrize("tell", ["invalidate", "tags", "set", "delete"])
@pytest.mark.parametrize("tasks", [True, False], ids=["tasks", "threads"])
def test_without_a_server_no_load_from_before_a_write_is_joined(proxy: Proxy, tell: str, *, tasks: bool) -> None:
    """The flights of a process stand in for leases: a write of the process detaches them before it is sent."""
    proxy.refusing = True
    row, began, go = "old", threading.Event(), threading.Event()

    def load() -> str:
        seen = row
        if not began.is_set():
            began.set()
            go.wait(10)
        return seen

    words: dict[str, Any] = {
        "invalidate": lambda cache: cache.invalidate("x"),
        "tags": lambda cache: cache.invalidate(tags="t"),
        "set": lambda cache: cache.set("x", "new"),
        "delete": lambda cache: cache.delete("x"),
    }

    async def run() -> list[Any]:
        nonlocal row
        async with AsyncCache(url(proxy), timeout=0.2) as cache:
            first = asyncio.create_task(cache.get_or_load("x", lambda: asyncio.to_thread(load), tags=["t"]))
            await asyncio.to_thread(began.wait, 10)
            row = "new"
            await words[tell](cache)
            second = await cache.get_or_load("x", lambda: asyncio.to_thread(load), tags=["t"])
            go.set()
            return [await first, second]

    def run_threads() -> list[Any]:
        nonlocal row
        got: list[Any] = []
        with Cache(url(proxy), timeout=0.2) as cache:
            first = threading.Thread(target=lambda: got.append(cache.get_or_load("x", load, tags=["t"])))
            first.start()
            began.wait(10)
            row = "new"
            words[tell](cache)
            second = cache.get_or_load("x", load, tags=["t"])
            go.set()
            first.join(10)
        return [*got, second]

    assert (asyncio.run(run()) if tasks else run_threads()) == ["old", "new"]


def test_a_truncated_reply_is_no_reply(proxy: Proxy, open_cache: Callable[..., Callable[..., Any]]) -> None:
    call = open_cache()
    call("set", "x", "a value of some length")
    proxy.to_client.cut_after = 10
    assert call("get", "x") == "a value of some length"  # asked for again on a new connection
    assert call("stats")["connects"] == 2


def test_a_forked_child_is_another_client(server: globalcache.Server) -> None:
    code = f"""
import os, globalcache
cache = globalcache.Cache({server.url!r})
cache.set("x", "parent")
child = os.fork()
if child == 0:
    ok = cache.get("x") == "parent" and cache.set("y", "child") and cache.stats()["connects"] == 2
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (cache.get("x"), cache.get("y"), cache.stats()["connects"]) == ("parent", "child", 1)
cache.close()
"""
    subprocess.run([sys.executable, "-X", "dev", "-c", code], check=True, timeout=30)


def test_several_loops_have_a_connection_each(server: globalcache.Server) -> None:
    cache = AsyncCache(server.url)

    async def use(number: int) -> None:
        assert await cache.set(f"k{number}", number)
        assert await cache.get(f"k{number}") == number
        await cache.aclose()

    for number in range(3):
        asyncio.run(use(number))
    assert cache.stats()["connects"] == 3


def test_loops_that_begin_and_end_while_others_do(server: globalcache.Server) -> None:
    """One thread looks for loops that were closed while others begin some, close their connections and end."""
    cache = AsyncCache(server.url, on_error="raise", timeout=20)
    connections = transport(cache)._connections  # noqa: SLF001 - below what users see

    class Ended:
        """The loop of another thread, which begins one more and forgets this one at the same moment."""

        def is_closed(self) -> bool:
            connections.pop(self, None)
            connections[Ended()] = None
            return True

    connections[Ended()] = None

    async def use() -> None:
        assert await cache.set("x", 1)

    asyncio.run(use())


def test_threads_that_change_what_others_look_at() -> None:
    """Threads take turns at every step, and call, decorate, begin loops and drop caches; nothing is raised."""
    draw = random.Random(1)

    def double(number: int) -> int:
        return 2 * number

    with (
        globalcache.Server(memory="16MiB", threads=1, max_value="1KiB") as server,
        Cache(server.url, timeout=20, on_error="raise") as shared,
    ):

        def plain() -> None:
            key = f"k{draw.randrange(5)}"
            assert shared.get_or_load(key, lambda: key, ttl=0.05, refresh_after=0.01) == key
            Cache(server.url, timeout=20).cached("double:{number}", shared=True)(double)

        def too_long() -> None:
            key = f"long{draw.randrange(30)}"
            assert len(shared.get_or_load(key, lambda: "x" * 2000)) == 2000
            shared.invalidate(f"long{draw.randrange(30)}")

        async def several() -> None:
            keys = [f"k{number}" for number in range(draw.randrange(1, 5))]
            loads = [
                shared.aio.get_or_load(key, functools.partial(str, key), ttl=0.05, refresh_after=0.01) for key in keys
            ]
            assert await asyncio.gather(*loads) == keys
            if draw.random() < 0.5:
                await shared.aio.aclose()

        def step() -> None:
            match draw.randrange(3):
                case 0:
                    plain()
                case 1:
                    too_long()
                case _:
                    asyncio.run(several())

        in_turns(step, SECONDS)


def test_a_server_that_is_away_costs_only_its_own_keys(server: globalcache.Server) -> None:
    with globalcache.Server(memory="16MiB", threads=1) as second, Proxy(second.address) as proxy:
        cache = Cache([server.url, url(proxy)], timeout=0.2)
        values = {f"k{number}": number for number in range(200)}
        assert cache.set_many(values, tags=["t"]) == 200
        assert cache.get_many(values) == values
        share = second.stats()["items"]
        assert 60 < share < 140
        proxy.refusing = True
        proxy.cut()
        assert len(cache.get_many(values)) == 200 - share
        cache.invalidate(tags=["t"])
        assert cache.get_many(values) == {}
        proxy.refusing = False
        until(lambda: not _fails(lambda name: getattr(cache, name)(), "ping"))
        assert cache.get_many(values) == {}
        cache.close()


@pytest.mark.parametrize("sent", [False, True])
def test_a_connection_that_lives_pays_before_it_reads(server: globalcache.Server, *, sent: bool) -> None:
    cache = Cache(server.url)
    endpoint = cache._state.servers.endpoints[0]  # noqa: SLF001 - as a write of another thread or loop would do

    async def run() -> None:
        async with cache.aio as tasks:
            await tasks.set("x", 1)
            assert await tasks.get("x") == 1
            endpoint.undelivered((b"x",), (), sent=sent)
            assert await tasks.get("x") is None

    asyncio.run(run())
    cache.set("x", 1)
    endpoint.undelivered((b"x",), (), sent=sent)
    assert cache.get("x") is None
    # Bytes that may still be on their way end the connection, and nothing else does.
    assert (cache.stats()["connects"], cache.stats()["owed"]) == (4 if sent else 2, 0)
    cache.close()
