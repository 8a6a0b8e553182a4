"""Loads of one key, and stale values and leases, over memory:// with a clock that the test moves."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from tests.conftest import Clock, transport, until

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_stale_value_stands_in_for_a_failed_load(clock: Clock) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    cache = Cache("memory://", clock=clock, on_event=lambda *event: told.append(event))

    def fail() -> Any:
        raise OSError("no database")

    assert cache.get_or_load("x", lambda: 1, ttl="5m", stale_if_error="1h") == 1
    clock.now += 301
    assert cache.get("x") is None
    assert cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h") == 1
    assert cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h") == 1  # not asked again so soon
    clock.now += 3700
    with pytest.raises(OSError, match="no database"):
        cache.get_or_load("x", fail, ttl="5m", stale_if_error="1h")
    assert [event for event, _ in told] == ["load", "load_error", "load_error"]
    assert told[1][1] == {"key": "x", "error": "OSError: no database"}


def test_what_was_invalidated_never_stands_in(clock: Clock) -> None:
    cache = Cache("memory://", clock=clock)
    ways: list[Callable[[], object]] = [
        lambda: cache.invalidate("x"),
        lambda: cache.invalidate(tags="t"),
        lambda: cache.delete("x"),
    ]
    for forget in ways:
        cache.set("x", 1, ttl="5m", stale_if_error="1h", tags="t")
        forget()
        clock.now += 301
        with pytest.raises(ZeroDivisionError):
            cache.get_or_load("x", lambda: 1 // 0, stale_if_error="1h", ttl="5m")
        clock.now += 10


def test_a_lease_whose_time_has_passed_goes_to_who_waits(clock: Clock) -> None:
    cache, got = Cache("memory://", clock=clock), []
    server = transport(cache)
    lease = server.fetch(b"x", 0, 50).lease  # of somebody who never fills
    thread = threading.Thread(target=lambda: got.append(cache.get_or_load("x", lambda: 7)))
    thread.start()
    until(lambda: cache.inspect("x")["waiters"] == 1)
    clock.now += 1
    thread.join(10)
    assert got == [7]
    lease.close()


def test_jitter_only_shortens(clock: Clock) -> None:
    cache = Cache("memory://", clock=clock)
    for number in range(50):
        cache.get_or_load(f"k{number}", lambda: 1, ttl=100)
        cache.set(f"s{number}", 1, ttl=100)
    loaded = [cache.get_entry(f"k{number}") for number in range(50)]
    ends = {entry.ttl for entry in loaded if entry is not None and entry.ttl is not None}
    assert 90 <= min(ends) < max(ends) <= 100
    assert all((entry := cache.get_entry(f"s{number}")) is not None and entry.ttl == 100 for number in range(50))


def test_a_value_of_another_type_is_loaded_anew() -> None:
    cache = Cache("memory://")
    cache.set("x", "text")
    assert cache.get_or_load("x", lambda: 5, type=int) == 5
    assert cache.get("x", type=int) == 5


def test_caches_of_one_name_share_and_others_do_not() -> None:
    one, two, own = Cache("memory://shared"), AsyncCache("memory://shared"), Cache("memory://")
    one.set("x", 1)
    assert asyncio.run(two.get("x")) == 1
    assert own.get("x") is None
    assert one.aio.sync is one
    assert asyncio.run(one.aio.get("x")) == 1


def test_null_keeps_nothing_and_loads_every_time() -> None:
    cache, loads = Cache("null://"), []
    cache.set("x", 1)
    assert (cache.get("x"), cache.get_many(["x"]), cache.has("x"), cache.get_entry("x")) == (None, {}, False, None)
    for _ in range(2):
        assert cache.get_or_load("x", lambda: loads.append(1) or 5) == 5  # type: ignore[func-returns-value]
    assert cache.get_or_load_many(["a"], lambda keys: dict.fromkeys(keys, 1)) == {"a": 1}
    assert (len(loads), cache.incr("n"), cache.delete("x"), cache.ping()) == (2, 1, False, True)


def test_a_long_load_keeps_its_lease(server: globalcache.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told again and again, so nobody else loads meanwhile."""
    monkeypatch.setattr("globalcache.client.leases.RENEW_EVERY", 0.05)
    monkeypatch.setattr("globalcache.client.leases.LEASE_MS", 300)
    with Cache(server.url) as cache:
        core_fetch = transport(cache).fetch
        # A short lease, so that the test is short as well.
        monkeypatch.setattr(transport(cache), "fetch", lambda key, wait, lease=300: core_fetch(key, wait, lease))
        loads = []

        def slow() -> int:
            loads.append(1)
            time.sleep(0.8)
            return 1

        threads = [threading.Thread(target=cache.get_or_load, args=("long", slow)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(loads) == 1
        assert cache.get("long") == 1


def test_a_failure_is_told_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Cache("memory://") as cache:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_load("k", lambda: 1 // 0)
        monkeypatch.undo()
