"""The fixtures for users' tests: a clock that moves, faults, and standing in for the cache of an application."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from globalcache import AsyncCache, Cache, UnavailableError
from tests.conftest import transport

if TYPE_CHECKING:
    from pathlib import Path

    from globalcache import Server
    from globalcache.contrib.testing import CacheForTests


def test_the_clock_moves_when_told(globalcache: CacheForTests) -> None:
    globalcache.set("k", 1, ttl="5m")
    globalcache.clock.advance("4m")
    assert globalcache.get("k") == 1
    globalcache.clock.advance(61)
    assert globalcache.get("k") is None


def test_a_dead_server_and_what_is_made_good_after_it(globalcache: CacheForTests) -> None:
    globalcache.set_many({"k": "old", "t": "old", "other": 1})
    globalcache.set("t", "old", tags=["tag"])
    with globalcache.faults.dead():
        assert not globalcache.set("k", "new")
        globalcache.invalidate(tags=["tag"])
        assert globalcache.get("other", "nothing") == "nothing"
        assert globalcache.get_or_load("other", lambda: "from here") == "from here"
        with pytest.raises(UnavailableError):
            globalcache.incr("n")
    assert globalcache.get_many(["k", "t", "other"]) == {"other": 1}


def test_a_lost_reply_leaves_nothing_that_is_not_known(globalcache: CacheForTests) -> None:
    with globalcache.faults.lost_reply():
        assert not globalcache.set("k", 1)
    assert globalcache._engine.fresh(b"test:k") is not None  # noqa: SLF001 - it arrived
    assert globalcache.get("k") is None  # but nobody may rely on it


def test_slow_is_by_the_clock_of_the_test(globalcache: CacheForTests) -> None:
    globalcache.set("k", 1, ttl="10s")
    with globalcache.faults.slow("400ms"):
        assert globalcache.get("k") == 1
    with globalcache.faults.slow("3s"):
        assert globalcache.get("k") is None
    assert globalcache.clock() == pytest.approx(1_000_001.4)
    assert globalcache.get("k") == 1


async def test_keys_that_travel_together_are_slow_once(globalcache: CacheForTests) -> None:
    with globalcache.faults.slow("400ms"):
        globalcache.get_or_load_many(["a", "b"], dict.fromkeys)
        await globalcache.aio.get_or_load_many(["c", "d"], dict.fromkeys)
    # Each fetches once and fills once.
    assert globalcache.clock() == pytest.approx(1_000_001.6)


async def test_tasks_see_the_same(globalcache: CacheForTests) -> None:
    cache = globalcache.aio
    await cache.set("k", 1)
    with globalcache.faults.dead():
        assert await cache.get("k") is None
        await cache.delete("k")
    assert await cache.get_many(["k"]) == {}


def test_it_stands_in_for_the_cache_of_an_application(globalcache: CacheForTests) -> None:
    app = Cache("globalcache://127.0.0.1:1", namespace="shop", default_ttl="1m")
    queries = []

    @app.cached("price:{id}")
    def price(id: int) -> int:
        queries.append(id)
        return id * 2

    globalcache.stand_in_for(app)
    assert (price(1), price(1), queries) == (2, 2, [1])
    assert app.namespace("x").get("y") is None
    globalcache.clock.advance("61s")
    assert (price(1), queries) == (2, [1, 1])
    with globalcache.faults.dead():
        assert (price(1), queries) == (2, [1, 1, 1])
    globalcache.give_back()
    assert "127.0.0.1:1" in repr(app)
    assert transport(app).__class__.__name__ == "ConnectionPool"


async def test_it_stands_in_for_both_faces(globalcache: CacheForTests) -> None:
    app = AsyncCache("globalcache://127.0.0.1:1")
    threads = app.sync
    globalcache.stand_in_for(app)
    await app.set("k", 1)
    assert threads.get("k") == 1
    assert app.sync is threads


def test_the_server_is_empty(globalcache_server: Server) -> None:
    with Cache(globalcache_server.url, on_error="raise") as cache:
        assert cache.add("k", 1)


def test_the_server_is_empty_again(globalcache_server: Server) -> None:
    with Cache(globalcache_server.url, on_error="raise") as cache:
        assert cache.add("k", 1)


def test_pytest_finds_the_fixtures_and_imports_nothing_for_them(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef globalcache_options():\n    return {'default_ttl': 5}\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\ndef test_lazy():\n"
        "    assert not [name for name in sys.modules if name.startswith('globalcache.c') and 'contrib' not in name]\n"
        "    assert 'hiredis' not in sys.modules\n\n\n"
        "def test_options(globalcache):\n"
        "    globalcache.set('k', 1)\n    globalcache.clock.advance(6)\n    assert globalcache.get('k') is None\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert "2 passed" in run.stdout, run.stdout + run.stderr
