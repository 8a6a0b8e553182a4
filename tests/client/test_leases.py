"""Leases: each way in which one could be forgotten, step by step. tests/faults/test_leases.py draws them at random.

These leases do not lapse while a test runs, so one that was forgotten is still there at its end.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

import globalcache
from globalcache import AsyncCache, Cache
from globalcache.client import refresher
from globalcache.client.leases import LEASE_MS, RENEW_EVERY, START_WITHIN, Leases
from globalcache.client.leases_tasks import LoopLeases
from globalcache.client.wire import Fetched, fetched
from tests.client.conftest import KINDS
from tests.client.faces import Face
from tests.conftest import transport
from tests.faults.test_leases import held, last_long, until_none_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import Self


class DatabaseError(Exception):
    """What loads raise."""


@pytest.fixture(params=KINDS)
def face(request: pytest.FixtureRequest, server: globalcache.Server) -> Iterator[Face]:
    with Face(request.param, server.url, timeout=5) as face:
        last_long(face.cache)
        yield face


def make_stale(face: Face, *keys: str) -> None:
    for key in keys:
        face("set", key, "old", ttl=60, refresh_after=0.001)
    while any(not face("get_entry", key).stale for key in keys):
        time.sleep(0.001)


def call_fetches(face: Face, change: Callable[[Any], Any]) -> None:
    """Have every reply to a fetch changed before the cache sees it."""
    fetch = face.server.fetch

    async def changed(reply: Any) -> Any:
        return change(await reply)

    def changing(*args: Any) -> Any:
        reply = fetch(*args)
        return changed(reply) if inspect.isawaitable(reply) else change(reply)

    face.server.fetch = changing


def noting(loaded: threading.Event, value: Any) -> Callable[[], Any]:
    """Return a load that says that it ran."""

    def load() -> Any:
        loaded.set()
        return value

    return load


def finish(face: Face) -> None:
    """Let refreshes of the loop end; those of threads end by themselves."""
    if face.runner is not None:
        tasks = face.cache._state.async_refresher._tasks  # noqa: SLF001 - below what users see

        async def wait() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)

        face.runner.run(wait())


def test_a_hit_that_brings_a_lease_is_refreshed(face: Face, server: globalcache.Server) -> None:
    """A value near its end is a hit, and the server picks this caller to load it anew."""
    make_stale(face, "x")
    loaded = threading.Event()

    def as_hit(reply: Fetched) -> Fetched:
        return replace(reply, state=b"hit")

    call_fetches(face, as_hit)
    assert face("get_or_load", "x", noting(loaded, "new"), refresh_after=1) == "old"
    finish(face)
    assert loaded.wait(10)
    until_none_held([server], ["x"])
    assert face("get", "x") == "new"


def test_a_load_runs_after_its_call_only_if_it_was_said(face: Face, server: globalcache.Server) -> None:
    """Another caller has said `refresh_after`. This one has not, and its function knows only the key of this call."""
    make_stale(face, "x", "y", "z")
    ran: list[tuple[str, int]] = []
    for key in ["x", "y", "z"]:

        def load() -> str:
            ran.append((key, threading.get_ident()))  # noqa: B023 - this is what is tried
            return key  # noqa: B023

        assert face("get_or_load", key, load) == key
    assert ran == [(key, threading.get_ident()) for key in ["x", "y", "z"]]
    assert [face("get", key) for key in "xyz"] == ["x", "y", "z"]
    assert held([server], ["x", "y", "z"]) == []


def test_a_refresh_has_the_variables_of_its_call(face: Face, server: globalcache.Server) -> None:
    """A loop asks for three keys with one lambda. The refreshes run when it has ended, and each stores its own row."""
    make_stale(face, "x", "y", "z")
    for key in ["x", "y", "z"]:
        assert face("get_or_load", key, lambda: f"{key} {key}", refresh_after=1) == "old"  # noqa: B023
    for name in ["x", "y", "z"]:
        key = [name]  # type: ignore[assignment]
        load_many = lambda keys: dict.fromkeys(keys, key)  # noqa: E731, B023
        assert face("get_or_load_many", [name], load_many, refresh_after=1)
    key = "another"
    finish(face)
    until_none_held([server], ["x", "y", "z"])
    assert [face("get", name) for name in "xyz"] == ["x x", "y y", "z z"]


def test_a_value_stands_in_if_it_cannot_be_refreshed(face: Face, server: globalcache.Server) -> None:
    make_stale(face, "x", "y")

    def fail(*_: Any) -> Any:
        raise DatabaseError

    assert face("get_or_load", "x", fail) == "old"
    assert face("get_or_load_many", ["x", "y"], fail) == {"x": "old", "y": "old"}
    assert held([server], ["x", "y"]) == []


def test_a_batch_loads_what_is_stale_with_what_is_missing(face: Face, server: globalcache.Server) -> None:
    make_stale(face, "stale")
    face("set", "fresh", "old")
    asked: list[list[str]] = []

    def load_many(keys: list[str]) -> dict[str, str]:
        asked.append(sorted(keys))
        return dict.fromkeys(keys, "new")

    got = face("get_or_load_many", ["stale", "fresh", "missing"], load_many)
    assert got == {"stale": "new", "fresh": "old", "missing": "new"}
    assert asked == [["missing", "stale"]]
    assert held([server], ["stale", "missing"]) == []


def test_a_second_fetch_that_brings_a_lease_is_refreshed(face: Face, server: globalcache.Server) -> None:
    """There is a value of another type; it is invalidated, and by the next fetch somebody else has written one."""
    face("set", "x", "text")
    loaded, replies = threading.Event(), list[Fetched]()

    def change(reply: Any) -> Fetched:
        replies.append(fetched(reply))
        if len(replies) == 1:
            return replies[0]
        with Cache(server.url) as other:
            other.invalidate("other")
        # The lease that the invalidation left, with a value beside it.
        return replace(replies[1], state=b"hit", value=b"7", flags=0)

    call_fetches(face, change)
    assert face("get_or_load", "x", noting(loaded, 8), type=int, refresh_after=1) == 7
    assert len(replies) == 2
    assert replies[1].lease
    finish(face)
    assert loaded.wait(10)
    until_none_held([server], ["x"])
    assert face("get", "x") == 8


@pytest.mark.parametrize("is_batch", [False, True], ids=["one", "batch"])
def test_a_load_that_raises_leaves_nothing_held(face: Face, server: globalcache.Server, *, is_batch: bool) -> None:
    """Of a batch some keys are this caller's to load and others to refresh: both loads raise."""
    make_stale(face, "stale")

    def fail(*_: Any) -> Any:
        raise DatabaseError

    call, keys = ("get_or_load_many", ["stale", "missing"]) if is_batch else ("get_or_load", "missing")
    with pytest.raises(DatabaseError):
        face(call, keys, fail)
    finish(face)
    until_none_held([server], ["stale", "missing"])


def test_a_fill_that_is_refused_ends_its_load(face: Face, server: globalcache.Server) -> None:
    """The server does not take the value: FILL is an error, and FAIL follows it."""
    call, call_many = face.server.call, face.server.call_many

    def wrong(words: Any) -> Any:
        return (*words[:3], b"not json", b"TTL", b"soon") if words[0] == b"CACHE.FILL" else words

    face.server.call = lambda *words, **options: call(*wrong(words), **options)
    face.server.call_many = lambda commands, **options: call_many([wrong(words) for words in commands], **options)
    assert face("get_or_load", "x", lambda: 1) == 1
    assert face("get_or_load_many", ["y", "z"], lambda keys: dict.fromkeys(keys, 2)) == {"y": 2, "z": 2}
    assert held([server], ["x", "y", "z"]) == []
    assert face("stats")["errors"]


def test_a_second_server_that_fails_leaves_nothing_held(server: globalcache.Server) -> None:
    """A batch has leases of the first server when asking the second one raises."""
    keys = [f"key{number}" for number in range(20)]
    for kind in KINDS:
        with globalcache.Server(memory="32MiB", threads=1) as second:
            face = Face(kind, [server.url, second.url], on_error="raise", timeout=5)
            last_long(face.cache)
            face("ping")

            def fail(*_: Any) -> Any:
                raise globalcache.ReplyError("no")

            face.cache._servers[1].fetch_many = fail  # noqa: SLF001
            with pytest.raises(globalcache.ReplyError):
                face("get_or_load_many", keys, lambda keys: dict.fromkeys(keys, 1))
            until_none_held([server, second], keys)
            face.close()


@pytest.mark.parametrize(("memory", "most"), [("256MiB", 2), ("16MiB", 20)])
def test_a_batch_beyond_the_leases_that_there_are(memory: str, most: int) -> None:
    """A server grants a connection 16,384 leases at a time, and fewer if its memory is small.

    What is missing beyond them is loaded by more calls of many keys, not by one for each key; all is stored.
    """
    for kind in KINDS:
        with globalcache.Server(memory=memory, threads=1) as server, Face(kind, server.url, timeout=20) as face:
            calls: list[list[str]] = []

            def load_many(keys: list[str], calls: list[list[str]] = calls) -> dict[str, int]:
                calls.append(keys)
                return dict.fromkeys(keys, 1)

            keys = [f"key{number}" for number in range(20_000)]
            assert face("get_or_load_many", keys, load_many) == dict.fromkeys(keys, 1)
            assert sorted(itertools.chain(*calls)) == sorted(keys)
            assert len(calls) <= most
            assert face("server_info")[0]["leases"] == "0"
            assert face("stats")["local_loads"] == 0
            assert len(face("get_many", keys)) == len(keys)


def test_batches_that_share_the_leases_of_a_connection() -> None:
    """Tasks of one loop ask for more than it may have: each loads what it has leases for, and then the rest."""
    calls: list[int] = []

    async def load_many(keys: list[str]) -> dict[str, int]:
        calls.append(len(keys))
        await asyncio.sleep(0.05)
        return dict.fromkeys(keys, 1)

    async def run(url: str) -> None:
        async with AsyncCache(url, timeout=20) as cache:
            batches = [[f"{letter}{number}" for number in range(8_000)] for letter in "abcd"]
            found = await asyncio.gather(*(cache.get_or_load_many(keys, load_many) for keys in batches))
            assert found == [dict.fromkeys(keys, 1) for keys in batches]
            assert (await cache.server_info())[0]["leases"] == "0"

    with globalcache.Server(memory="64MiB", threads=1) as server:
        asyncio.run(run(server.url))
    assert sum(calls) == 32_000
    assert len(calls) <= 50


def test_a_batch_of_a_user_who_may_not_fill(tmp_path: Path) -> None:
    """Such a user is granted no lease: one call loads all, and nothing is stored."""
    users = tmp_path / "users"
    users.write_text("user reader on nopass ~* +@all -cache.fill\n")
    with globalcache.Server(memory="16MiB", threads=1, users_file=str(users)) as server:
        for kind in KINDS:
            with Face(kind, server.url.replace("://", "://reader:x@"), timeout=5) as face:
                calls: list[list[str]] = []

                def load_many(keys: list[str], calls: list[list[str]] = calls) -> dict[str, int]:
                    calls.append(keys)
                    return dict.fromkeys(keys, 1)

                assert face("get_or_load_many", ["a", "b"], load_many) == {"a": 1, "b": 1}
                assert calls == [["a", "b"]]
                assert face("get", "a") is None


def test_a_reply_in_the_turn_of_its_cancellation_is_released(server: globalcache.Server) -> None:
    """The reply with the lease is there, and before the task runs again it is cancelled."""

    async def run() -> None:
        cache = last_long(AsyncCache(server.url))
        await cache.ping()
        for call in (
            lambda: cache.get_or_load("x", lambda: 1),
            lambda: cache.get_or_load_many(["x", "y"], lambda keys: dict.fromkeys(keys, 1)),
        ):
            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            (link,) = transport(cache)._connections.values()  # noqa: SLF001
            received = link.data_received

            def cancel(data: bytes, received: Any = received, task: Any = task) -> None:
                received(data)
                task.cancel()

            link._transport.set_protocol(link)  # noqa: SLF001
            link.data_received = cancel
            link._transport.set_protocol(link)  # noqa: SLF001
            with pytest.raises(asyncio.CancelledError):
                await task
            link.data_received = received
            link._transport.set_protocol(link)  # noqa: SLF001
            await asyncio.to_thread(until_none_held, [server], ["x", "y"])
        await cache.aclose()

    asyncio.run(run())


def test_a_reply_after_its_cancellation_is_released(server: globalcache.Server) -> None:
    """The request is on its way when the task is cancelled; the lease comes when nobody awaits it any more."""

    async def run() -> None:
        cache = last_long(AsyncCache(server.url))
        await cache.ping()
        for keys in (["x"], ["x", "y"]):
            load = cache.get_or_load_many(keys, lambda keys: dict.fromkeys(keys, 1))
            one = cache.get_or_load("z", lambda: 1)
            tasks = [asyncio.create_task(load), asyncio.create_task(one)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ended] == [asyncio.CancelledError] * 2
            await cache.ping()
            await asyncio.to_thread(until_none_held, [server], ["x", "y", "z"])
        await cache.aclose()

    asyncio.run(run())


def test_a_batch_cancelled_between_its_replies_is_released(server: globalcache.Server) -> None:
    """Some replies of a batch have come, others are awaited: another has the last key, and the batch waits for it."""

    async def run() -> None:
        cache = last_long(AsyncCache(server.url))
        below = transport(cache)
        lease = (await below.fetch(b"c", 0)).lease
        lease.taken = True
        task = asyncio.create_task(below.fetch_many([b"a", b"b", b"c"], 30))
        while len(await asyncio.to_thread(held, [server], ["a", "b"])) < 2:
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until_none_held, [server], ["a", "b"])
        lease.release()
        await asyncio.to_thread(until_none_held, [server], ["c"])
        await cache.aclose()

    asyncio.run(run())


def test_a_write_of_one_face_detaches_loads_of_the_other() -> None:
    """Without a server a process joins its own loads. One began before a write: whoever asks after it must not join."""

    async def run() -> None:
        cache = AsyncCache("globalcache://127.0.0.1:1")
        database, begun, ending = [1], asyncio.Event(), asyncio.Event()

        async def load() -> int:
            value = database[0]
            begun.set()
            await ending.wait()
            return value

        old = asyncio.create_task(cache.get_or_load("x", load))
        await begun.wait()
        database[0] = 2
        await asyncio.to_thread(cache.sync.invalidate, "x")
        new = asyncio.create_task(cache.get_or_load("x", load))
        await asyncio.sleep(0.01)
        ending.set()
        assert (await old, await new) == (1, 2)

    asyncio.run(run())


def test_a_task_detaches_loads_of_threads() -> None:
    """As the other way round: a thread loads, a task writes, another thread asks."""
    cache = Cache("globalcache://127.0.0.1:1")
    database, begun, ending, got = [1], threading.Event(), threading.Event(), []

    def load() -> int:
        value = database[0]
        begun.set()
        ending.wait(10)
        return value

    def ask() -> None:
        got.append(cache.get_or_load("x", load))

    old = threading.Thread(target=ask)
    old.start()
    assert begun.wait(10)
    database[0] = 2
    asyncio.run(cache.aio.invalidate("x"))
    begun.clear()
    new = threading.Thread(target=ask)
    new.start()
    assert begun.wait(10)
    ending.set()
    old.join(10)
    new.join(10)
    assert sorted(got) == [1, 2]


def test_refreshes_beyond_the_bound_are_released(face: Face, server: globalcache.Server, monkeypatch: Any) -> None:
    """So many refreshes wait that one more is not queued: its lease goes to the next who asks."""
    monkeypatch.setattr(refresher, "MOST_QUEUED", 0)
    monkeypatch.setattr("globalcache.client.refresher_tasks.MOST_QUEUED", 0)
    make_stale(face, "x")
    assert face("get_or_load", "x", lambda: "new", refresh_after=1) == "old"
    until_none_held([server], ["x"])


class Recording(Leases):
    """Leases without a server: what would be sent is asked for by `due`."""

    def _watch(self) -> None:
        pass

    _wake = _watch


class Counting:
    """Counts the lines of the modules of leases that run within it."""

    def __init__(self) -> None:
        self.lines = 0

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if "leases" not in frame.f_code.co_filename:
            return None
        self.lines += event == "line"
        return self._trace

    def __enter__(self) -> Self:
        self._tracing = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._tracing)


def lines_of_table(number: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many lines run for so many leases, a millisecond apart, that are renewed for three seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table, held, renewed = Recording(None), [], Counter[bytes]()
    with Counting() as counting:
        for key in range(number):
            now[0] = 100 + key / 1000
            held.append(table.grant(b"%d" % key, key + 1))
            held[-1].queue()
        while (pause := table.pause(now[0])) is not None and now[0] + pause < 103:
            now[0] += pause
            renewed.update(words[1] for words in table.due(now[0])[0])
        for lease in held:
            lease.release()
        _, releases = table.due(now[0])
        table.released(releases)
        assert table.pause(now[0]) is None
    assert set(renewed.values()) == {2}
    assert len(renewed) == len(releases) == number
    return counting.lines


def test_the_cost_of_a_lease_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many leases, each renewed at a time of its own and released, take twice as many steps."""
    assert lines_of_table(400, monkeypatch) < 2.2 * lines_of_table(200, monkeypatch)


async def lines_of_loop(number: int) -> int:
    """Return how many lines run for so many leases that tasks are granted, of which one half is released or dropped."""
    sent: list[tuple[Any, ...]] = []

    def send_now(commands: list[tuple[Any, ...]]) -> bool:
        sent.extend(commands)
        return True

    table = LoopLeases(None, send_now)
    loop = asyncio.get_running_loop()
    with Counting() as counting:
        futures = [loop.create_future() for _ in range(number)]
        for token, future in enumerate(futures, 1):
            table.grant_to(future, b"%d" % token, [b"miss", None, token, 0, 0, 0])
        held = [(await future).lease for future in futures]
        for lease in held:
            lease.taken = True
        del lease, future
        futures.clear()
        for lease in held[::4]:
            lease.release()
        for lease in held[1::4]:
            lease.close()
        del lease, held[1::2]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sorted(int(words[2]) for words in sent) == sorted([*range(1, number, 4), *range(4, number + 1, 4)])
    assert {words[0] for words in sent} == {b"CACHE.RELEASE"}
    assert len(table.grants) == number // 4
    for lease in held:
        lease.close()
    return counting.lines


def test_the_cost_of_a_lease_of_a_loop_is_constant() -> None:
    """A batch is granted all its keys in one turn of the loop; some are answered, some released, some dropped."""
    assert asyncio.run(lines_of_loop(400)) < 2.2 * asyncio.run(lines_of_loop(200))


def test_a_queued_refresh_is_renewed_and_then_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for its turn: renewed every second, released after ten, and then it does not begin any more."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = Recording(None)
    lease = table.grant(b"x", 7)
    lease.queue()
    sent = []
    for _ in range(int(START_WITHIN) - 1):
        now[0] += RENEW_EVERY
        sent += table.due(now[0])[0]
    assert sent == [(b"CACHE.RENEW", b"x", b"7", b"%d" % LEASE_MS)] * (int(START_WITHIN) - 1)
    now[0] += RENEW_EVERY
    commands, releases = table.due(now[0])
    assert commands == [(b"CACHE.RELEASE", b"x", b"7")]
    assert not lease.start()
    table.released(releases)
    assert table.due(now[0] + 10) == ([], [])


def test_a_queued_refresh_lapses_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is released and nobody hears of it: RELEASE is sent again until the lease has lapsed, and then no more."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = Recording(None)
    lease = table.grant(b"x", 7)
    lease.queue()
    now[0] += START_WITHIN
    sent = 0
    while (pause := table.pause(now[0])) is not None:
        sent += len(table.due(now[0])[0])
        assert sent < 100
        now[0] += pause + 0.001
    assert not lease.is_open
    assert sent > 1


def test_a_load_that_began_in_time_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued refresh begins after nine seconds and takes long: it is renewed all the time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = Recording(None)
    lease = table.grant(b"x", 7)
    lease.queue()
    now[0] += START_WITHIN - 1
    assert lease.start()
    now[0] += 100
    assert table.due(now[0])[0] == [(b"CACHE.RENEW", b"x", b"7", b"%d" % LEASE_MS)]


def test_a_lease_that_is_dropped_is_released() -> None:
    """Whoever had it ended by an exception: the finalizer has it released, and again until the server has heard it."""
    table = Recording(None)
    table.grant(b"x", 7)  # nobody keeps it
    commands, releases = table.due(time.monotonic())
    assert commands == [(b"CACHE.RELEASE", b"x", b"7")]
    # It was not answered: again a moment later, until the lease would have lapsed by itself.
    assert table.due(time.monotonic() + 1)[0] == [(b"CACHE.RELEASE", b"x", b"7")]
    assert table.due(time.monotonic() + LEASE_MS / 1000 + 1)[0] == []
    assert releases


def until_closed(cache: Cache, number: int) -> None:
    """Wait until the server has noticed the end of a connection."""
    while f"id={number} ".encode() in transport(cache).call(b"CLIENT", b"LIST"):
        pass


def test_a_lost_connection_is_closed_after_leases_are_renewed(server: globalcache.Server) -> None:
    """A call is interrupted on the only connection, on which another thread was granted a lease that it still has."""
    with Cache(server.url, timeout=5) as cache, Cache(server.url, timeout=5) as other:
        below = transport(cache)
        lease = below.fetch(b"x", 0).lease
        got: list[str] = []
        waiter = threading.Thread(target=lambda: got.append(other.get_or_load("x", lambda: "again", wait=30)))
        waiter.start()
        while other.inspect("x")["waiters"] < 1:
            pass
        connection = below._take()  # noqa: SLF001
        number = connection.ask(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n")
        # An exception from outside loses it.
        del connection
        until_closed(other, number)
        assert below.call(b"CACHE.FILL", *lease.words, b'"loaded"')
        lease.close()
        waiter.join(10)
        assert got == ["loaded"]


def test_the_leases_of_a_lost_connection_are_renewed_at_once(server: globalcache.Server) -> None:
    """The connection of a loop ends, and a task of it still loads: the renewal of each second would come too late."""

    async def run() -> None:
        async with AsyncCache(server.url) as cache:
            below = transport(cache)
            lease = (await below.fetch(b"x", 0)).lease
            lease.taken = True
            lease._grant.due += 1000  # noqa: SLF001
            (link,) = below._connections.values()  # noqa: SLF001
            call_many, renewed = below.call_many, asyncio.get_running_loop().create_future()

            async def note(commands: Any) -> Any:
                replies = await call_many(commands)
                renewed.set_result((commands, replies))
                return replies

            below.call_many = note
            link._transport.abort()  # noqa: SLF001
            commands, _ = await asyncio.wait_for(renewed, 10)
            assert commands == [(b"CACHE.RENEW", b"x", b"%d" % lease.token, b"%d" % LEASE_MS)]
            lease.release()

    asyncio.run(run())
