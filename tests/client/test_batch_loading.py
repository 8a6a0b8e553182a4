"""Loads of many keys together."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from globalcache import AsyncCache, Cache
from globalcache.contrib.testing import CacheForTests
from tests.client.faces import Face
from tests.client.loads import (
    count_waits,
)
from tests.conftest import Clock, until


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_stale_values_stand_in_for_a_batch_that_fails(clock: Clock, kind: str) -> None:
    """As for single keys. The server is asked once for all keys, and where one has no value the batch fails."""
    face = Face(kind, "memory://", clock=clock)
    asked: list[list[bytes]] = []
    fetch_many = face.server.fetch_many

    def note(keys: list[bytes], *how: Any) -> Any:
        asked.append(list(keys))
        return fetch_many(keys, *how)

    def fail(_: object) -> Any:
        raise OSError("no database")

    def ask(*keys: str) -> Any:
        return face("get_or_load_many", keys, fail, ttl="5m", stale_if_error="1h")

    old = {key: key.upper() for key in "abc"}
    assert face("get_or_load_many", "abc", lambda _: old, ttl="5m", stale_if_error="1h") == old
    clock.now += 301
    face.server.fetch_many = note
    assert ask("a", "b") == {"a": "A", "b": "B"}
    assert asked == [[b"a", b"b"]] * 2
    assert face.cache.stats()["stale"] == 2
    assert ask("a", "b") == {"a": "A", "b": "B"}  # held off
    with pytest.raises(OSError, match="no database"):
        ask("c", "new")
    clock.now += 3700
    with pytest.raises(OSError, match="no database"):
        ask("a", "b")
    face.close()


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("waits", [False, True])
def test_what_others_failed_to_load_is_loaded_in_one_call(kind: str, waits: bool) -> None:
    """Another process fails to load twenty keys, before a batch is asked for here or while it waits for them.

    The function is called once for all of these keys, not once for each.
    """
    world = CacheForTests()
    here: Any = Cache("memory://", namespace="test") if kind == "threads" else AsyncCache("memory://", namespace="test")
    other = Cache("memory://", namespace="test")
    world.stand_in_for(here, other)
    keys, calls = [f"k{number}" for number in range(20)], list[list[str]]()
    begun, go = threading.Event(), threading.Event()

    def fail(_: object) -> Any:
        begun.set()
        assert go.wait(20)
        raise ZeroDivisionError

    def load_many(keys: list[str]) -> dict[str, str]:
        calls.append(keys)
        return {key: key.upper() for key in keys}

    def ask() -> Any:
        result = here.get_or_load_many(["own", *keys], load_many)
        return result if kind == "threads" else asyncio.run(awaited(result))

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(other.get_or_load_many, keys, fail)
        assert begun.wait(20)
        if not waits:
            go.set()
            assert isinstance(failing.exception(20), ZeroDivisionError)
        asking = pool.submit(ask)
        until(lambda: calls[:1] == [["own"]] and (not waits or other.inspect("k0")["waiters"] == 1))
        go.set()
        assert asking.result(20) == {key: key.upper() for key in ["own", *keys]}
    assert calls == [["own"], keys]


async def awaited(value: Any) -> Any:
    return await value


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_batch_without_a_server_is_loaded_in_one_call(kind: str) -> None:
    """A server is away and a batch is asked for: its function is called once for all keys, not once for each."""
    calls: list[list[str]] = []

    def load_many(keys: list[str]) -> dict[str, int]:
        calls.append(keys)
        return {key: len(key) for key in keys if key != "none"}

    face = Face(kind, "globalcache://127.0.0.1:1", timeout=0.2)
    keys = [f"k{number}" for number in range(100)] + ["none"]
    assert face("get_or_load_many", keys, load_many) == {key: len(key) for key in keys[:-1]} | {"none": None}
    assert calls == [keys]
    assert face.cache.stats()["local_loads"] == 1
    face.close()


def test_equal_batches_without_a_server_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten threads ask for the same batch: one loads, the others join its load and get copies of their own."""
    cache = Cache("globalcache://127.0.0.1:1", timeout=0.2)
    calls: list[list[str]] = []
    waiting = count_waits(monkeypatch)

    def load_many(keys: list[str]) -> dict[str, list[int]]:
        calls.append(keys)
        until(lambda: len(waiting) == 9)
        return {key: [1] for key in keys}

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: cache.get_or_load_many(["a", "b"], load_many)["a"], range(10)))
    assert found == [[1]] * 10
    assert len({id(value) for value in found}) == 10
    assert calls == [["a", "b"]]
