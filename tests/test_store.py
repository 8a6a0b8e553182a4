"""The store inside this process."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

import globalcache


def test_it_keeps_what_it_is_given() -> None:
    store = globalcache.Store(memory="8MiB")
    assert store.get("k") is None
    store.set("k", b"v")
    store.set(b"\x00\xff", b"", ttl="5m")
    assert (store.get("k"), store.get(b"k"), store.get(b"\x00\xff")) == (b"v", b"v", b"")
    assert "k" in store
    assert "other" not in store
    assert len(store) == 2
    assert repr(store) == "Store(2 items, memory=8MiB)"
    assert store.delete("k")
    assert not store.delete("k")
    stats = store.stats()
    assert (stats["items"], stats["hits"], stats["misses"], stats["memory"]) == (1, 3, 1, 8 << 20)
    store.clear()
    assert len(store) == 0


@pytest.mark.parametrize("ttl", [0.001, "1ms", timedelta(milliseconds=1)])
def test_values_expire(ttl: Any) -> None:
    store = globalcache.Store(memory="1MiB")
    store.set("k", b"v", ttl=ttl)
    deadline = time.monotonic() + 10
    while "k" in store:
        assert time.monotonic() < deadline
    assert store.get("k") is None
    assert store.stats()["expired"] == 1


@pytest.mark.parametrize(
    "options", [{"memory": "1k"}, {"memory": "much"}, {"eviction": "lru"}, {"memory": "2MiB", "max_value": "2MiB"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(globalcache.ConfigError):
        globalcache.Store(**options)


def test_wrong_keys_and_values_are_refused() -> None:
    store = globalcache.Store(memory="1MiB")
    anything: Any = store
    for call in (lambda: anything.get(1), lambda: anything.set("k", "text"), lambda: 1 in anything):
        with pytest.raises(TypeError):
            call()
    for key in ("", b"", "k" * 65_536):
        with pytest.raises(ValueError, match="a key has 1 to 65535 bytes"):
            store.set(key, b"")
    with pytest.raises(ValueError, match="the value has 131073 bytes, more than 131072"):
        store.set("k", bytes(131_073))
    with pytest.raises(ValueError, match="positive"):
        store.set("k", b"", ttl=0)


def test_it_stays_within_its_memory_and_mixes_nothing_up() -> None:
    store, chance = globalcache.Store(memory="1MiB"), random.Random(1)
    for step in range(20_000):
        number = chance.randrange(4_000)
        value = str(number).encode() * (1 + (step * number) % 200)
        store.set(f"k{number}", value)
        assert store.get(f"k{number}") == value
        other = chance.randrange(4_000)
        assert (store.get(f"k{other}") or b"").replace(str(other).encode(), b"") == b""
    stats = store.stats()
    assert stats["used"] <= stats["memory"] == 1 << 20
    assert stats["evicted"] > 0


def test_without_eviction_writes_are_refused_and_nothing_is_lost() -> None:
    store = globalcache.Store(memory="1MiB", eviction="none")
    held = 0
    with suppress(MemoryError):
        for held in range(10_000):
            store.set(str(held), bytes(1000))
    with pytest.raises(MemoryError, match="nothing may be evicted"):
        store.set("more", bytes(1000))
    assert len(store) == held
    assert 500 < held < 1100
    assert all(store.get(str(number)) == bytes(1000) for number in range(held))
    assert store.delete("0")


def test_threads_share_it() -> None:
    store, started = globalcache.Store(memory="64MiB"), threading.Barrier(4)

    def work(number: int) -> int:
        started.wait(10)
        seen = 0
        for step in range(2_000):
            store.set("shared", bytes([number]) * (40_000 if step % 100 == 0 else 100))
            value = store.get("shared") or b""
            assert value == value[:1] * len(value)
            seen += len(value) in (100, 40_000)
        return seen

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [2_000] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_can_use_it_whatever_threads_did() -> None:
    """Threads copy long values into a store and clear it without the interpreter's lock, while the process forks."""
    store, ended = globalcache.Store(memory="64MiB"), threading.Event()

    def write(number: int) -> None:
        long = bytes(4 << 20)
        while not ended.is_set():
            for each in range(8):
                store.set(f"{number}:{each}", long)
            store.clear()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                for each in range(100):
                    store.set(str(each), bytes(100_000))
                store.clear()
                os._exit(0 if store.get("1") is None else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()
