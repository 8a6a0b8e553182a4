"""A worker and a real server: what clients see of loads, failures, restarts and the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import os
import signal
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.client.address import Address
from globalcache.client.decorators import Decorators
from globalcache.errors import CacheError, ConfigError, LoadError
from globalcache.loaders import app
from globalcache.loaders.worker import Worker
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


def address(server: globalcache.Server) -> Address:
    return Address.parse(server.url)


def encode(value: Any, kind: Any) -> tuple[bytes, int]:
    if kind is int and type(value) is not int:
        raise TypeError(f"{value!r} is no int")
    return json.dumps(value, separators=(",", ":")).encode(), 0


@contextmanager
def fresh_server(**options: Any) -> Iterator[globalcache.Server]:
    """Patterns stay served, so every test has a server of its own."""
    with globalcache.Server(**({"memory": "64MiB", "threads": 2} | options)) as server:
        yield server


@asynccontextmanager
async def working(cache: Decorators, server: globalcache.Server, **options: Any) -> AsyncIterator[Worker]:
    worker = Worker(cache.loaders.values(), address(server), encode, **options)
    ready = asyncio.Event()
    running = asyncio.create_task(worker.run(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(running, 10)


async def ask(server: globalcache.Server, *words: str) -> Any:
    """Ask for one command in a thread, so that the worker goes on."""

    def call() -> Any:
        with globalcache.Cache(server.url, timeout=10) as client:
            return client.command(*words)

    return await asyncio.to_thread(call)


def run(
    cache: Decorators,
    use: Callable[[globalcache.Server], Any],
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> None:
    with fresh_server(**options) as server:

        async def work() -> None:
            async with working(cache, server, clock=clock):
                await use(server)

        asyncio.run(work())


def test_plain_gets_are_loaded_once_and_then_kept() -> None:
    cache, ran = Decorators(), []

    @cache.loader("user:{id:int}", ttl="5m", refresh_after="1m", stale_if_error="1h", tags=["users", "user-{id}"])
    async def user(id: int) -> dict[str, int] | None:
        ran.append(id)
        return {"id": id} if id < 100 else None

    async def use(server: globalcache.Server) -> None:
        assert await ask(server, "GET", "user:1") == b'{"id":1}'
        assert await ask(server, "GET", "user:1") == b'{"id":1}'
        assert await ask(server, "MGET", "user:1", "user:2", "other:1") == [b'{"id":1}', b'{"id":2}', None]
        assert await ask(server, "GET", "user:100") is None
        assert await ask(server, "GET", "user:100") is None
        assert ran == [1, 2, 100]
        assert 270_000 <= await ask(server, "PTTL", "user:1") <= 300_000
        assert await ask(server, "CACHE.INVALIDATE", "TAGS", "1", "users") == 1
        assert await ask(server, "GET", "user:1") == b'{"id":1}'
        await ask(server, "CACHE.INVALIDATE", "TAGS", "1", "user-1")
        assert await ask(server, "GET", "user:1") == b'{"id":1}'
        assert await ask(server, "GET", "user:2") == b'{"id":2}'
        assert ran == [1, 2, 100, 1, 1, 2]
        with pytest.raises(LoadError, match=r"user:007: .*'007' is no whole number"):
            await ask(server, "GET", "user:007")

    run(cache, use)


def test_sync_loaders_run_in_threads() -> None:
    cache, threads = Decorators(), set()

    @cache.loader("slow:{id}", ttl="5m", absent=[KeyError], concurrency=8)
    def slow(id: str) -> str:
        threads.add(threading.current_thread().name)
        time.sleep(0.05)
        return {"a": "A", "1": "one"}[id]

    async def use(server: globalcache.Server) -> None:
        got = await asyncio.gather(*(ask(server, "GET", f"slow:{sku}") for sku in ("a", "1", "none")))
        assert got == [b'"A"', b'"one"', None]
        assert all(name.startswith("loader-") for name in threads)

    run(cache, use)


def test_batches_are_collected() -> None:
    cache, asked = Decorators(), []

    @cache.batch_loader("product:{sku}", ttl="5m", max_batch_size=3, max_wait="20ms")
    async def products(skus: list[str]) -> dict[str, int]:
        asked.append(skus)
        return {sku: len(sku) for sku in skus if sku != "none"}

    async def use(server: globalcache.Server) -> None:
        keys = [f"product:{sku}" for sku in ("a", "22", "333", "none", "4444")]
        assert await ask(server, "MGET", *keys) == [b"1", b"2", b"3", None, b"4"]
        assert asked == [["a", "22", "333"], ["none", "4444"]]

    run(cache, use)


def test_equal_arguments_of_a_batch_have_values_of_their_own() -> None:
    """1 and True have keys of their own and one place in a dict: they must not be asked for by one call."""
    cache, asked = Decorators(), []

    @cache.batch_loader("kind:{value}", ttl="5m", max_batch_size=10, max_wait="20ms")
    def kind(values: list[Any]) -> dict[Any, str]:
        asked.append(values)
        return {value: type(value).__name__ for value in values}

    async def use(server: globalcache.Server) -> None:
        keys = [kind.key(value) for value in (1, True, 1.0, "1", 2)]
        assert len(set(keys)) == 5
        got = await ask(server, "MGET", *keys)
        assert got == [b'"int"', b'"bool"', b'"float"', b'"str"', b'"int"']
        assert all(len(set(values)) == len(values) for values in asked)

    run(cache, use)


def test_keys_of_a_namespace() -> None:
    cache = Decorators()

    @cache.loader("user:{id}", ttl="5m", tags=["users"])
    async def user(id: int) -> int:
        return id

    async def use() -> None:
        with fresh_server() as server:
            async with working(cache, server, prefix="shop*:"):
                assert await ask(server, "GET", "shop*:user:1") == b"1"
                assert await ask(server, "GET", "shopping:user:1") is None
                await ask(server, "CACHE.INVALIDATE", "TAGS", "1", "shop*:users")
                assert await ask(server, "EXISTS", "shop*:user:1") == 1

    asyncio.run(use())


def test_a_failing_loader_is_tried_seldom() -> None:
    cache, attempts, is_up = Decorators(), [], threading.Event()

    @cache.loader("row:{id}", ttl="20ms", stale_if_error="1h")
    async def row(id: int) -> int:
        attempts.append(id)
        if not is_up.is_set():
            raise OSError("no database")
        return id

    async def use(server: globalcache.Server) -> None:
        is_up.set()
        keys = [f"row:{number}" for number in range(200)]
        known = [str(number).encode() for number in range(200)]
        assert await ask(server, "MGET", *keys) == known
        is_up.clear()
        await asyncio.sleep(0.03)
        attempts.clear()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < 1:
            assert await ask(server, "MGET", *keys) == known
            await asyncio.sleep(0.02)
        assert 0 < len(attempts) <= 10 * passed + 1

    run(cache, use)


def test_failures_name_their_key_and_open_the_breaker() -> None:
    cache, attempts, is_up, clock = Decorators(), list[int](), threading.Event(), Clock()

    @cache.loader("row:{id}", ttl="20ms", stale_if_error="1h")
    async def row(id: int) -> int:
        attempts.append(id)
        if not is_up.is_set():
            raise OSError("no database")
        return id

    async def use(server: globalcache.Server) -> None:
        is_up.set()
        assert await ask(server, "GET", "row:1") == b"1"
        is_up.clear()
        await asyncio.sleep(0.03)
        attempts.clear()
        for number in range(3, 63):
            clock.now += 0.1
            with pytest.raises(LoadError, match=f"row:{number}: OSError$"):
                await ask(server, "GET", f"row:{number}")
            assert await ask(server, "GET", "row:1") == b"1"
        # Five in a row open the breaker, then one a second in six seconds.
        assert 5 < len(attempts) <= 12
        is_up.set()
        for _ in range(100):
            clock.now += 0.1
            with suppress(LoadError):
                assert await ask(server, "GET", "row:3") == b"3"
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("what is back is not loaded")

    run(cache, use, clock=clock)


def test_a_slow_load_keeps_its_lease_until_its_time_out() -> None:
    cache, ran = Decorators(), []

    @cache.loader("hangs:{id}", ttl="5m", timeout="300ms")
    async def hangs(id: int) -> int:
        await asyncio.sleep(60)
        return id

    @cache.loader("slow:{id}", ttl="5m")
    def slow(id: int) -> int:
        ran.append(id)
        time.sleep(3.5)
        return id

    async def use(server: globalcache.Server) -> None:
        waiting = [asyncio.create_task(ask(server, "GET", "slow:1")) for _ in range(3)]
        with pytest.raises(LoadError, match=r"hangs:1: no answer within 0.3 s"):
            await ask(server, "GET", "hangs:1")
        assert await asyncio.gather(*waiting) == [b"1"] * 3
        assert ran == [1]

    run(cache, use)


def test_what_cannot_be_encoded_is_a_failure() -> None:
    cache = Decorators()

    @cache.loader("x:{id}", ttl="5m")
    async def x(id: int) -> int:
        return f"text {id}"  # type: ignore[return-value]

    async def use(server: globalcache.Server) -> None:
        with pytest.raises(LoadError, match=r"x:1: TypeError$"):
            await ask(server, "GET", "x:1")

    run(cache, use)


class Mute(Exception):  # noqa: N818 - as applications name it
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(dict[Any, Any]):
    """A value whose serializer fails."""

    def items(self) -> Any:
        raise AttributeError("not that")


ODD = [
    (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
    (concurrent.futures.CancelledError(), "concurrent.futures._base.CancelledError"),
    (SystemExit("no such option"), "SystemExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (StopIteration(1), "StopIteration|RuntimeError"),
    (Mute(), "tests.loaders.test_worker.Mute"),
    (ValueError("caf\udce9\nand a line"), "ValueError"),
    (ExceptionGroup("two", [Mute(), Mute()]), "ExceptionGroup"),
]


@pytest.mark.parametrize("kind", ["sync", "async", "batch", "async batch"])
def test_every_load_is_answered(kind: str) -> None:
    """Whatever a loader raises is a failed load that is answered at once; the worker goes on, and keeps its credit."""
    cache = Decorators()

    calls: list[int] = []

    def raise_it(number: int) -> Any:
        calls.append(number)
        if number < 100:
            raise ODD[number][0]
        return number

    if kind == "sync":
        cache.loader("x:{number:int}", concurrency=1)(raise_it)
    elif kind == "async":

        @cache.loader("x:{id:int}", concurrency=1)
        async def load(id: int) -> Any:
            return raise_it(id)

    elif kind == "batch":
        cache.batch_loader("x:{id:int}", concurrency=1)(lambda ids: {each: raise_it(each) for each in ids})
    else:

        @cache.batch_loader("x:{id:int}", concurrency=1)
        async def load_many(ids: list[int]) -> dict[int, Any]:
            return {each: raise_it(each) for each in ids}

    async def use(server: globalcache.Server) -> None:
        for number, (_, name) in enumerate(ODD):
            with pytest.raises(LoadError, match=rf"^x:{number}: ({name})$"):
                await ask(server, "GET", f"x:{number}")
            assert await ask(server, "GET", f"x:{100 + number}") == b"%d" % (100 + number)
        # A lease that nobody answers would be granted again after three seconds.
        assert len(calls) == 2 * len(ODD)

    run(cache, use)


def test_a_value_that_cannot_be_encoded_is_answered() -> None:
    """More of them than the worker has credit: each is answered, so that none of it is lost."""
    cache = Decorators()
    ring: list[Any] = []
    ring.append(ring)

    @cache.loader("ring:{id:int}", concurrency=1)
    async def rings(id: int) -> Any:
        return ring if id else Odd(a=1)

    @cache.loader("tag:{id}", concurrency=1, tags=["t{id}"])
    async def tagged(id: str) -> Any:
        return 1 if id == "good" else id

    async def use(server: globalcache.Server) -> None:
        for number in (0, 1, 1, 1, 0):
            with pytest.raises(LoadError, match=f"ring:{number}: (AttributeError|ValueError|RecursionError)"):
                await ask(server, "GET", f"ring:{number}")
            await ask(server, "DEL", f"ring:{number}")  # ends the hold-off
        assert await ask(server, "GET", "tag:good") == b"1"

    run(cache, use)


def test_a_long_value_fails_alone() -> None:
    """The server would end the connection with its leases: the worker does not send what is longer than it takes."""
    cache = Decorators()
    may_end = asyncio.Event()

    @cache.loader("big:{size:int}")
    async def big(size: int) -> str:
        return "x" * size

    @cache.loader("other:{id:int}")
    async def other(id: int) -> int:
        await may_end.wait()
        return id

    async def use(server: globalcache.Server) -> None:
        reading = [asyncio.create_task(ask(server, "GET", f"other:{number}")) for number in range(3)]
        for number in (2_000_000, 3_000_000):
            with pytest.raises(LoadError, match=f"big:{number}: too large"):
                await ask(server, "GET", f"big:{number}")
        may_end.set()
        assert await asyncio.gather(*reading) == [b"%d" % number for number in range(3)]
        assert len(await ask(server, "GET", "big:1000")) == 1002

    run(cache, use, max_value="1MiB")


def test_what_the_server_refuses_fails_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its FILL is refused and its lease would last for three seconds: its readers get an error before that."""
    cache, calls = Decorators(), list[str]()

    @cache.loader("x:{id}")
    async def load(id: str) -> str:
        calls.append(id)
        return id

    async def use() -> None:
        too_many = [b"tag-%d" % number for number in range(40)]
        async with working(cache, server, tags=too_many):
            for number in range(3):
                with pytest.raises(LoadError, match=f"x:{number}: an item has at most 17 tags"):
                    await ask(server, "GET", f"x:{number}")
        assert calls == ["0", "1", "2"]

    with fresh_server() as server:
        asyncio.run(use())
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


def test_batches_of_the_wrong_shape_are_failures(caplog: pytest.LogCaptureFixture) -> None:
    """Keys in another form, as "1" for 1, would look like rows that do not exist."""
    cache = Decorators()

    def given(kind: str) -> Callable[[list[int]], Any]:
        def load(ids: list[int]) -> Any:
            if kind == "list":
                return list(ids)
            return dict.fromkeys(map(str, ids) if kind == "text" else [*ids, 1000], 1)

        return load

    for kind in ("list", "text", "more"):
        cache.batch_loader(f"{kind}:{{id:int}}")(given(kind))

    async def use(server: globalcache.Server) -> None:
        for name in ("list", "text"):
            with pytest.raises(LoadError, match=f"{name}:1: TypeError"):
                await ask(server, "GET", f"{name}:1")
        assert await ask(server, "GET", "more:1") == b"1"

    run(cache, use)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "returned a list; it should return a dict of the items it was given" in told
    assert "returned keys that it was not asked for: '1'; it was asked for 1" in told


@pytest.mark.parametrize("right", ["cache.loader", "select"])
def test_a_refused_worker_leaves_no_connection(tmp_path: Path, right: str) -> None:
    """A user who may not load is refused time and again: each attempt closes its connection before the next one."""
    cache = Decorators()
    users, secret = tmp_path / "users", hashlib.sha256(b"pw").hexdigest()
    users.write_text(f"user default on nopass ~* &* +@all\nuser app on #{secret} ~* &* +@all -{right}\n")
    attempts = 0

    @cache.loader("x:{id}")
    async def load(id: str) -> str:
        return id

    class Counted(Worker):
        async def _connect(self) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 5:
                self.stop()
            await super()._connect()

    with fresh_server(users_file=users) as server, globalcache.Cache(server.url) as client:
        before = len(client.command("CLIENT", "LIST").splitlines())
        at = Address.parse(server.url.replace("//", "//app:pw@") + "?db=1")
        asyncio.run(Counted(cache.loaders.values(), at, encode).run())
        assert attempts == 5
        assert len(client.command("CLIENT", "LIST").splitlines()) == before


def test_a_value_must_fit_the_annotation() -> None:
    """Stored, it would be an error at each reader; the worker refuses it, as an application that fills it would."""
    with fresh_server() as server, globalcache.AsyncCache(server.url).sync as cache:

        @cache.loader("count:{id:int}", ttl="1m")
        def count(id: int) -> int:
            return "text" if id else 1  # type: ignore[return-value]

        async def use() -> None:
            ready = asyncio.Event()
            working = asyncio.create_task(app.work(cache, server.url, ready.set))
            await asyncio.wait_for(ready.wait(), 10)
            assert await ask(server, "GET", "count:0") == b"1"
            with pytest.raises(LoadError, match="count:1: TypeError"):
                await ask(server, "GET", "count:1")
            os.kill(os.getpid(), signal.SIGTERM)
            await working

        asyncio.run(use())


def test_a_worker_comes_back_with_its_server() -> None:
    cache = Decorators()

    @cache.loader("x:{id}", ttl="5m")
    async def x(id: int) -> int:
        return id

    async def use() -> None:
        with globalcache.Server(memory="64MiB") as first:
            async with working(cache, first):
                assert await ask(first, "GET", "x:1") == b"1"
                await asyncio.to_thread(first.stop)
                with globalcache.Server(memory="64MiB", listen=[first.address], loader=["x:*"]) as second:
                    assert await ask(second, "GET", "x:2") == b"2"

    asyncio.run(use())


def test_the_end_lets_loads_end_and_takes_no_more() -> None:
    cache, begun, may_end = Decorators(), threading.Event(), threading.Event()

    @cache.loader("x:{id}", ttl="5m", concurrency=1)
    def x(id: int) -> int:
        begun.set()
        may_end.wait(10)
        return id

    async def use() -> None:
        with fresh_server(load_timeout="1s") as server:
            async with working(cache, server) as worker:
                first = asyncio.create_task(ask(server, "GET", "x:1"))
                await asyncio.to_thread(begun.wait, 10)
                second = asyncio.create_task(ask(server, "GET", "x:2"))
                await asyncio.sleep(0.05)
                worker.stop()
                await asyncio.sleep(0.05)
                may_end.set()
                assert await first == b"1"
            with pytest.raises(CacheError, match="NOLOADER x:2"):
                await second

    asyncio.run(use())


def test_a_cache_without_loaders_has_no_worker() -> None:
    with pytest.raises(ConfigError, match="no loaders"):
        Worker((), Address.parse("127.0.0.1:1"), encode)
