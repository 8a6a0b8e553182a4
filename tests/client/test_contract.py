"""What a cache promises, by every way to reach it: TCP, Unix sockets and memory, from tasks and from threads."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import CacheError, ConfigError, DeadlineError, Entry, KeyFormatError, LoadError
from tests.client.conftest import InThreads
from tests.client.typed import draw, picture
from tests.conftest import transport

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class User:
    """Somebody."""

    id: int
    name: str = "Ada"


def never() -> Any:
    raise AssertionError("was loaded")


async def test_set_and_get(cache: Any) -> None:
    assert await cache.get("x") is None
    assert await cache.get("x", default=5) == 5
    assert await cache.set("x", {"a": [1, 2.5, None, True, "ü"]}, ttl="1m")
    assert await cache.get("x") == {"a": [1, 2.5, None, True, "ü"]}
    assert await cache.has("x")
    assert not await cache.has("y")
    assert await cache.delete("x")
    assert not await cache.delete("x")
    assert await cache.get("x", 7) == 7


async def test_bytes_stay_bytes_and_plain_json_stays_plain(cache: Any) -> None:
    await cache.set("raw", b"\x00\xff")
    await cache.set("json", 100)
    assert await cache.get("raw") == b"\x00\xff"
    assert await cache.get("json", type=bytes) == b"100"


async def test_none_is_a_value_of_its_own(cache: Any) -> None:
    await cache.set("x", None)
    assert await cache.get("x", default=1) is None


async def test_types(cache: Any) -> None:
    await cache.set("user", User(42))
    assert await cache.get("user", type=User) == User(42)
    assert await cache.get("user") == {"id": 42, "name": "Ada"}
    assert await cache.get("user", "none", type=int) == "none"  # unreadable is a miss
    assert cache.stats()["unreadable"] == 1


async def test_many(cache: Any) -> None:
    assert await cache.set_many({"a": 1, "b": "x"}, ttl=60, tags=["t"]) == 2
    assert await cache.get_many(["b", "nobody", "a", "a"]) == {"b": "x", "a": 1}
    assert await cache.get_many([]) == {}
    assert await cache.delete_many(["a", "b", "c"]) == 2


async def test_many_keys_of_all_kinds(cache: Any) -> None:
    keys = ["a b", "tab\there", "quo'te", 'dou"ble', "ü", "HTTP/1.1", "Host:", "back\\slash", "line\nend", "k" * 200]
    await cache.set_many({key: number for number, key in enumerate(keys)})
    assert await cache.get_many(keys) == {key: number for number, key in enumerate(keys)}
    for number, key in enumerate(keys):
        assert await cache.get_many(["nobody", key]) == {key: number}
    many = [f"{number:0200}" for number in range(500)]
    await cache.set_many(dict.fromkeys(many, 1))
    assert await cache.get_many(many) == dict.fromkeys(many, 1)


async def test_no_value_is_taken_for_an_answer_that_follows(server: globalcache.Server) -> None:
    with globalcache.Cache(server.url) as cache:
        cache.command("SET", "a", "waiting")
        cache.command("MSET", "b", "1", "c", "2", "d", "3", "e", "4", "f", "5")
        assert cache.get_many(list("abcdef"), type=bytes)["a"] == b"waiting"
        assert cache.command("MGET", *"abcdef")[0] == b"waiting"
        async with globalcache.AsyncCache(server.url) as other:
            assert (await other.get_many(list("abcdef"), type=bytes))["a"] == b"waiting"


async def test_conditions(cache: Any) -> None:
    assert await cache.add("x", 1)
    assert not await cache.add("x", 2)
    entry = await cache.get_entry("x")
    assert await cache.set("x", 3, if_version=entry.version)
    assert not await cache.set("x", 4, if_version=entry.version)
    assert await cache.get("x") == 3


async def test_an_entry_tells_what_is_known(cache: Any) -> None:
    assert await cache.get_entry("x") is None
    await cache.set("x", [1], ttl="1m", refresh_after="30s")
    entry: Any = await cache.get_entry("x")
    assert entry.__class__ is Entry
    assert (entry.value, entry.stale, entry.absent) == ([1], False, False)
    assert 50 < (entry.ttl or 0) <= 60
    assert entry.age is not None
    assert 0 <= entry.age < 10
    assert entry.version > 0
    assert (await cache.inspect("x"))["state"] == "hit"


async def test_counters(cache: Any) -> None:
    assert await cache.incr("hits", ttl="1d", tags="c") == 1
    assert await cache.incr("hits", 10) == 11
    assert await cache.decr("hits") == 10
    assert await cache.get("hits") == 10
    assert (await cache.get_entry("hits")).ttl > 80_000
    await cache.invalidate(tags="c")
    assert await cache.incr("hits") == 1


async def test_touch(cache: Any) -> None:
    assert not await cache.touch("x", "1h")
    await cache.set("x", 1)
    assert await cache.touch("x", "1h")
    assert 3500 < (await cache.get_entry("x")).ttl <= 3600
    assert await cache.touch("x")
    assert (await cache.get_entry("x")).ttl is None


async def test_numbers_and_times_at_their_bounds(cache: Any) -> None:
    assert await cache.set("x", 1, ttl=timedelta.max)
    assert await cache.touch("x", sys.maxsize)
    assert await cache.get_or_load("y", lambda: 1, ttl=timedelta.max, stale_if_error=sys.maxsize) == 1
    assert await cache.get_many(["x", "y"]) == {"x": 1, "y": 1}
    assert await cache.touch("x")
    assert await cache.touch("x"), "a value that never expires is there all the same"
    assert not await cache.touch("nobody")
    for call in (cache.set, cache.add, lambda key, _, ttl: cache.touch(key, ttl)):
        with pytest.raises(ConfigError, match=r"ttl: 0.0004: should be at least 0.001 s \(1 ms\)"):
            await call("x", 1, ttl=0.0004)
    for number in (1.5, "1", None):
        with pytest.raises(TypeError, match=r"delta: .*: should be a whole number"):
            await cache.incr("x", number)
    with pytest.raises(TypeError, match=r"if_version: 1.5: should be a whole number"):
        await cache.set("x", 1, if_version=1.5)
    assert await cache.get("x") == 1


async def test_names_keep_apart_whatever_they_hold(make: Callable[..., Any]) -> None:
    """A namespace "a:b", one "b" within "a", and one called as "a:b" is escaped, have keys and tags of their own."""
    root = make()
    parts = [root.namespace("a:b"), root.namespace("a").namespace("b"), root.namespace("a%3Ab"), root.namespace("a")]
    for number, part in enumerate(parts):
        await part.set("x", number, tags=["t"])
    assert [await part.get("x") for part in parts] == [0, 1, 2, 3]
    await parts[0].invalidate(tags=["t"])
    await root.invalidate(tags=["t", "ns:a:", "a:"])
    assert [await part.get("x") for part in parts] == [None, 1, 2, 3]
    await parts[2].clear()
    assert [await part.get("x") for part in parts] == [None, 1, None, 3]
    await parts[3].clear()
    assert [await part.get("x") for part in parts] == [None, None, None, None]
    await root.aclose()


async def test_at_most_16_tags_are_given(cache: Any) -> None:
    tags = [f"t{number}" for number in range(17)]
    assert await cache.set("x", 1, tags=tags[:16])
    assert await cache.namespace("n").set("x", 1, tags=tags[:16])
    with pytest.raises(ConfigError, match="tags: 17: should be at most 16"):
        await cache.set("x", 1, tags=tags)
    with pytest.raises(ConfigError, match="tags: 17: at most 16 here"):
        await cache.incr("n", tags=tags)
    with pytest.raises(ConfigError, match="tags: 16: at most 15 here, for each level of namespaces is one as well"):
        await cache.namespace("n").namespace("m").set("x", 1, tags=tags[:16])


async def test_a_list_of_keys_is_a_mistake_that_is_named(cache: Any) -> None:
    with pytest.raises(TypeError, match=r"invalidate takes keys one by one, invalidate\(\*keys\), not a list"):
        await cache.invalidate(["a", "b"])


async def test_tags(cache: Any) -> None:
    await cache.set("a", 1, tags=["t", "u"])
    await cache.set("b", 2, tags="u")
    await cache.set("c", 3)
    assert await cache.invalidate("c", tags="t") == 2
    assert await cache.get_many(["a", "b", "c"]) == {"b": 2}
    await cache.set("a", 4, tags=["t"])
    assert await cache.get("a") == 4


async def test_a_namespace_stands_apart_and_is_cleared_at_once(cache: Any) -> None:
    shop, inner = cache.namespace("shop"), cache.namespace("shop").namespace("de")
    await shop.set("x", 1, tags=["t"])
    await inner.set("x", 2)
    await cache.set("x", 3, tags=["t"])
    assert await cache.get("shop:x") == 1
    await cache.invalidate(tags=["t"])
    assert (await cache.get("x"), await shop.get("x")) == (None, 1)
    await inner.clear()
    assert (await shop.get("x"), await inner.get("x")) == (1, None)
    await inner.set("x", 2)
    await shop.clear()
    assert (await shop.get("x"), await inner.get("x")) == (None, None)
    with pytest.raises(ConfigError, match="namespace"):
        await cache.clear()


async def test_one_load_for_all(cache: Any) -> None:
    loads, begun, go = [], threading.Event(), threading.Event()

    def load() -> int:
        loads.append(1)
        begun.set()
        go.wait(10)
        return 7

    async def others() -> list[Any]:
        calls = [asyncio.create_task(cache.get_or_load("x", never)) for _ in range(4)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*calls)

    async def slow() -> int:
        return await asyncio.to_thread(load)

    first = asyncio.create_task(cache.get_or_load("x", load if "AsyncCache" not in repr(cache) else slow, ttl="1m"))
    assert await asyncio.to_thread(begun.wait, 10)
    assert await others() == [7] * 4
    assert (await first, len(loads)) == (7, 1)
    assert await cache.get("x") == 7


async def test_a_hit_is_not_loaded(cache: Any) -> None:
    await cache.set("x", 1)
    assert await cache.get_or_load("x", never) == 1


async def test_no_such_row_is_remembered(cache: Any) -> None:
    assert await cache.get_or_load("x", lambda: None, negative_ttl="1m") is None
    assert await cache.get_or_load("x", never) is None
    assert (await cache.get_entry("x")).absent
    assert await cache.get("x", default=1) == 1
    assert not await cache.has("x")
    assert await cache.add("x", 5)
    assert await cache.get("x") == 5


async def test_absence_that_is_not_remembered(cache: Any) -> None:
    """The next caller loads again at once; what is kept for a millisecond stays while a test's clock is at rest."""
    ran: list[int] = []
    for number in range(20):
        assert await cache.get_or_load("x", lambda: ran.append(1), negative_ttl=0) is None
        assert len(ran) == number + 1
        assert await cache.get_entry("x") is None
    loaded = await cache.get_or_load_many(["x", "y"], dict.fromkeys, negative_ttl=0)
    assert loaded == {"x": None, "y": None}
    assert await cache.get_entry("y") is None


async def test_callers_of_a_failed_load_get_its_exception(cache: Any) -> None:
    """Five callers wait for one load; its process raises the very exception in each, and while the key is held off."""
    key = f"failing:{uuid.uuid4()}"  # a flush does not end the time for which a failed load is not tried again
    error, ran = OSError("no database"), 0

    def fail() -> Any:
        nonlocal ran
        ran += 1
        raise error

    calls = (cache.get_or_load(key, fail) for _ in range(5))
    got = await asyncio.gather(*calls, return_exceptions=True)
    assert all(one is error for one in got)
    assert ran == 1
    with pytest.raises(OSError, match="no database") as caught:
        await cache.get_or_load(key, never)
    assert caught.value is error


async def test_a_hit_equals_a_miss(cache: Any) -> None:
    for value in ((1, 2), {1: 2}, {1}, float("nan"), User(1), {"a": [b"x"]}):
        with pytest.raises(TypeError, match="value"):
            await cache.get_or_load(f"{value}:{uuid.uuid4()}", lambda value=value: value)
    assert await cache.get_or_load("t", lambda: (1, 2), type=tuple[int, int]) == (1, 2)
    assert await cache.get_or_load("t", never, type=tuple[int, int]) == (1, 2)
    assert await cache.get_or_load("u", lambda: User(1), type=User) == User(1)
    assert await cache.get_or_load("u", never, type=User) == User(1)
    with pytest.raises(TypeError, match=r"value is dict .* would come back as User"):
        await cache.get_or_load(f"v:{uuid.uuid4()}", lambda: {"id": 1}, type=User)


@pytest.mark.parametrize("codec", ["json", "msgpack", "pickle"])
async def test_typed_values_come_back_equal_or_are_refused(make: Callable[..., Any], codec: str) -> None:
    cache, random, kept = make(codec=codec, secret="s", namespace=str(uuid.uuid4())), Random(codec), 0
    for number in range(60):
        kind, value = draw(random)
        before = picture(value)
        try:
            missed = await cache.get_or_load(str(number), lambda value=value: value, type=kind)
        except TypeError:
            continue
        hit = await cache.get_or_load(str(number), never, type=kind)
        assert picture(missed) == picture(hit) == before
        kept += 1
    assert kept > 10
    await cache.aclose()


class Unstorable:
    """An object that can be neither written nor pickled."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("holds a lock")


@pytest.mark.parametrize("codec", ["json", "pickle"])
async def test_an_error_names_function_and_key(make: Callable[..., Any], codec: str) -> None:
    cache, name = make(codec=codec, secret="s"), f"unstorable:{uuid.uuid4()}"
    with pytest.raises(TypeError, match=f"{__name__}.unstorable: {name}: value (is of type|cannot be stored)"):
        await cache.get_or_load(name, unstorable)
    with pytest.raises(TypeError, match=f"unstorable_many: {name}2: value (is of type|cannot be stored)"):
        await cache.get_or_load_many([name + "2", name + "-"], unstorable_many)
    await cache.aclose()


def unstorable() -> Any:
    return Unstorable()


def unstorable_many(keys: list[str]) -> dict[str, Any]:
    return {key: 1 if key.endswith("-") else Unstorable() for key in keys}


async def test_a_value_loaded_before_an_invalidation_is_not_stored(make: Callable[..., Any]) -> None:
    cache, writer = make(), make(namespace=None)

    async def load() -> str:
        await writer.invalidate("x")
        return "old"

    async def load_tagged() -> str:
        await writer.invalidate(tags=["t"])
        return "old"

    for key, slow in (("x", load), ("y", load_tagged)):
        if "AsyncCache" in repr(cache):
            assert await cache.get_or_load(key, slow, tags=["t"]) == "old"
        else:
            quick = (
                (lambda: writer.cache.invalidate("x")) if key == "x" else (lambda: writer.cache.invalidate(tags="t"))
            )
            assert await cache.get_or_load(key, lambda quick=quick: (quick(), "old")[1], tags=["t"]) == "old"
        assert await cache.get(key) is None
    assert cache.stats()["refused_fills"] == 2
    await cache.aclose()
    await writer.aclose()


@pytest.mark.parametrize("tagged", [False, True], ids=["by key", "by tag"])
async def test_who_invalidated_a_key_joins_no_load_that_began_before(cache: Any, *, tagged: bool) -> None:
    row, began, go = "old", threading.Event(), threading.Event()

    def load() -> str:
        seen = row
        began.set()
        go.wait(10)
        return seen

    async def slow() -> str:
        return await asyncio.to_thread(load)

    first = asyncio.create_task(cache.get_or_load("x", load if isinstance(cache, InThreads) else slow, tags=["t"]))
    await asyncio.to_thread(began.wait, 10)
    row = "new"
    await (cache.invalidate(tags=["t"]) if tagged else cache.invalidate("x"))
    # It waits for the lease, or for the end of the load whose value is void; it never gets the old row.
    second = asyncio.create_task(cache.get_or_load("x", lambda: row, tags=["t"]))
    await asyncio.sleep(0.02)
    go.set()
    assert (await first, await second) == ("old", "new")
    assert await cache.get("x") == "new"


async def test_many_at_once(cache: Any) -> None:
    await cache.set("a", 1)
    asked: list[list[str]] = []

    def load_many(keys: list[str]) -> dict[str, Any]:
        asked.append(keys)
        return {key: key.upper() for key in keys if key != "nobody"}

    expected = {"b": "B", "a": 1, "nobody": None}
    assert await cache.get_or_load_many(["b", "a", "nobody", "b"], load_many, ttl=60) == expected
    assert await cache.get_or_load_many(["b", "a", "nobody"], load_many) == expected
    assert asked == [["b", "nobody"]]


async def test_loads_of_others_are_waited_for_together(make: Any, url: str) -> None:
    """Two of the loads that a batch waits for fail while it waits: tasks wait for all at once, threads in turn."""
    # Threads for the loads, the batch and the watcher, whatever the number of processors.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8))
    in_memory = url == "memory://"
    # However long this test stands still, the failures are recent, and in memory their keys are held off.
    one = make(wait=20, clock=lambda: 1000.0) if in_memory else make(wait=20)
    watcher = make()
    getattr(one, "cache", one)._failures._clock = lambda: 1000.0  # noqa: SLF001
    is_async = not hasattr(one, "cache")
    keys = ["a", "bad1", "b", "bad2"]
    go = {key: threading.Event() for key in keys}

    def load(key: str) -> Callable[[], str]:
        def run() -> str:
            assert go[key].wait(20)
            if key.startswith("bad"):
                raise ValueError(key)
            return key.upper()

        return run

    def later(key: str) -> Any:
        return one.get_or_load(key, functools.partial(asyncio.to_thread, load(key)) if is_async else load(key), ttl=60)

    loads = [asyncio.ensure_future(later(key)) for key in keys]
    while one.stats()["loads"] < len(keys):  # noqa: ASYNC110 - a count tells no event
        await asyncio.sleep(0.001)
    batch = asyncio.ensure_future(one.get_or_load_many(["own", *keys], lambda asked: dict.fromkeys(asked, 1), ttl=60))
    for key in keys:
        while not in_memory and not (await watcher.inspect(key))["waiters"]:
            pass
        go[key].set()
    with pytest.raises(LoadError, match=r"2 keys could not be loaded: bad1: .*bad1.*; bad2: .*bad2"):
        await batch
    assert [str(one) for one in await asyncio.gather(*loads, return_exceptions=True)] == ["A", "bad1", "B", "bad2"]
    assert await one.get_many(["own", *keys]) == {"own": 1, "a": "A", "b": "B"}
    await one.aclose()
    await watcher.aclose()


async def test_a_load_that_asks_for_itself_is_told(cache: Any) -> None:
    plain = getattr(cache, "cache", None)
    if plain is None:

        async def again() -> Any:
            return await cache.get_or_load("ring2", lambda: cache.get_or_load("ring1", never))
    else:

        def again() -> Any:  # type: ignore[misc]
            return plain.get_or_load("ring2", lambda: plain.get_or_load("ring1", never))

    with pytest.raises(LoadError, match="ring1 -> ring2 -> ring1"):
        await cache.get_or_load("ring1", again)


async def test_keys_are_checked_before_they_are_sent(cache: Any) -> None:
    for key in ("", b"x", None, 5, "x" * 70_000, "\ud800"):
        with pytest.raises(KeyFormatError):
            await cache.get(key)
    with pytest.raises(ConfigError, match="tags"):
        await cache.set("x", 1, tags=[str(number) for number in range(18)])
    for wrong in (0, -1, "soon"):
        with pytest.raises(ConfigError, match="ttl"):
            await cache.set("x", 1, ttl=wrong)


async def test_waiting_ends(make: Callable[..., Any]) -> None:
    cache = make()
    held = transport(getattr(cache, "cache", cache))
    reply = held.fetch(b"x", 0)
    lease = (await reply if inspect.isawaitable(reply) else reply).lease
    lease.taken = True
    with pytest.raises(DeadlineError):
        await cache.get_or_load("x", never, wait=0.05)
    lease.release()
    assert issubclass(DeadlineError, CacheError)
    await cache.aclose()


async def test_a_server_knows_its_clients_by_name(server: globalcache.Server) -> None:
    """CLIENT LIST shows program, process and library of each face, so that an operator finds who asks."""
    async with globalcache.AsyncCache(server.url) as tasks:
        with globalcache.Cache(server.url) as threads:
            for listed in (threads.command("CLIENT", "LIST"), await tasks.command("CLIENT", "LIST")):
                mine = [line for line in listed.decode().splitlines() if f":{os.getpid()} " in line]
                assert mine
                assert all("lib-name=globalcache" in line for line in mine)
