"""The backend for Django: Django's own tests of a cache, and what Django's tests do not ask for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import AsyncCache
from globalcache.errors import DeadlineError, LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import globalcache
    from tests.conftest import Process

BACKEND = "globalcache.contrib.django.GlobalCache"
SDISTS = Path(sys.executable).parent.parent / "sdists"

SETTINGS = """
SECRET_KEY = "-"
USE_TZ = False
DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3"} for name in ("default", "other")}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["cache"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
CACHES = {"default": {"BACKEND": "globalcache.contrib.django.GlobalCache", "LOCATION": "%s"}}
"""
# Django's class of tests for any cache. Like its Redis cache ours leaves what to evict to the server.
TESTS = """
from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.conf import settings
from django.test import TestCase, override_settings

@override_settings(CACHES=caches_setting_for_tests(base=settings.CACHES["default"], exclude={"cull", "zero_cull"}))
class GlobalCacheTests(BaseCacheTests, TestCase):
    pass
"""


@pytest.mark.parametrize("place", ["server", "memory"])
def test_djangos_own_tests_of_a_cache_pass(server: globalcache.Server, tmp_path: Path, place: str) -> None:
    django = pytest.importorskip("django")
    tests = SDISTS / f"django-{django.__version__}" / "tests"
    if not tests.is_dir():
        pytest.skip("Django's tests are not there; `make test` fetches them where there is a network")
    (tmp_path / "globalcache_settings.py").write_text(SETTINGS % (server.url if place == "server" else "memory://"))
    (tmp_path / "globalcache_tests.py").write_text(TESTS)
    path = os.pathsep.join([str(tmp_path), str(tests)])
    run = subprocess.run(
        [sys.executable, "-m", "django", "test", "globalcache_tests", "--settings=globalcache_settings"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    ran = re.search(r"Ran (\d+) tests", run.stderr)
    assert ran, run.stderr
    assert int(ran[1]) > 50


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a backend by its URL and options, in a project with a database."""
    pytest.importorskip("django")
    from django.conf import settings  # noqa: PLC0415 - skipped without Django

    if not settings.configured:
        settings.configure(SECRET_KEY="-", USE_TZ=True)
    database = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    monkeypatch.setattr(settings, "DATABASES", database, raising=False)
    monkeypatch.setattr(settings, "CACHES", {"default": {"BACKEND": BACKEND, "LOCATION": "memory://"}}, raising=False)
    import django  # noqa: PLC0415
    from django.db import connections  # noqa: PLC0415

    from globalcache.contrib import django as contrib  # noqa: PLC0415

    django.setup()

    def make(url: str, **options: Any) -> Any:
        return contrib.GlobalCache(url, {"OPTIONS": options})

    yield make
    connections.close_all()
    for cache in contrib._caches.values():  # noqa: SLF001 - a process has them as long as it lives
        cache.close()
    contrib._caches.clear()  # noqa: SLF001


async def test_calls_of_tasks_are_native_and_mean_the_same(
    backend: Callable[..., Any], server: globalcache.Server
) -> None:
    cache = backend(server.url)
    await cache.aset("a", {1: ("x", None)}, tags=["t"])
    assert await cache.aget("a") == cache.get("a") == {1: ("x", None)}
    assert not await cache.aset_many({"b": 2, "c": None}, timeout=60)
    assert await cache.aget_many(["a", "b", "c", "d"]) == {"a": {1: ("x", None)}, "b": 2, "c": None}
    assert await cache.aincr("b", 3) == 5
    with pytest.raises(ValueError, match="'d' not found"):
        await cache.aincr("d")
    with pytest.raises(TypeError, match="no whole number"):
        await cache.aincr("a")
    assert (await cache.aadd("b", 1), await cache.aadd("e", 1), await cache.aadd("e", 1, timeout=0)) == (
        False,
        True,
        False,
    )
    assert await cache.atouch("b", 100)
    assert not await cache.atouch("nothing")
    assert await cache.ahas_key("c")
    assert await cache.adelete("e")
    await cache.adelete_many(["b", "c"])
    assert await cache.ainvalidate(tags="t") == 1
    assert not await cache.aget_many("abc")
    await cache.aset("z", 1)
    await cache.aset("z", 1, timeout=0)
    assert await cache.aget("z", "gone") == "gone"
    assert await cache.aget_or_set("n", lambda: None) is None
    assert await cache.aget("n", "something") is None
    assert await cache.aclear()
    assert not await cache.ahas_key("n")
    await cache._aio.aclose()  # noqa: SLF001 - its loop ends with this test


def test_clear_leaves_other_namespaces_alone(backend: Callable[..., Any], server: globalcache.Server) -> None:
    one, other = backend(server.url, namespace="one"), backend(server.url, namespace="other")
    one.set("k", 1)
    other.set("k", 2)
    one.clear()
    assert (one.get("k"), other.get("k")) == (None, 2)


def test_get_or_set_asks_once_for_all_threads(backend: Callable[..., Any], server: globalcache.Server) -> None:
    cache, asked, go = backend(server.url), [], threading.Event()

    def slowly() -> int:
        asked.append(1)
        go.wait(10)
        return 7

    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get_or_set("k", slowly))) for _ in range(5)]
    for thread in threads:
        thread.start()
    while not asked:
        pass
    go.set()
    for thread in threads:
        thread.join(10)
    assert (got, len(asked)) == ([7] * 5, 1)
    assert cache.get_or_set("none", lambda: None) is None
    assert cache.get("none", "default") is None


class Refused(Exception):  # noqa: N818 - as applications name it
    """The caller may not see this."""


async def test_each_caller_is_given_what_its_own_callable_raises(
    backend: Callable[..., Any], server: globalcache.Server
) -> None:
    """Ann's callable raises, and Bob's, from the same place in the code, is asked as well."""
    cache = backend(server.url)

    def page_of(user: str) -> Callable[[], Any]:
        def page() -> Any:
            raise Refused(user)

        return page

    for user in ("ann", "bob"):
        with pytest.raises(Refused, match=user):
            cache.get_or_set("page", page_of(user))
        with pytest.raises(Refused, match=user):
            await cache.aget_or_set("page", page_of(user))
    await cache._aio.aclose()  # noqa: SLF001 - its loop ends with this test


@pytest.mark.parametrize("error", [LoadError, DeadlineError])
async def test_a_callable_that_raises_a_cache_error_is_called_once(
    backend: Callable[..., Any], server: globalcache.Server, error: type[Exception]
) -> None:
    """It is its own error, and not that of a load elsewhere, after which the callable would be asked."""
    cache, asked = backend(server.url), list[int]()

    def load() -> Any:
        asked.append(1)
        raise error("its own")

    with pytest.raises(error, match="its own"):
        cache.get_or_set("k", load)
    with pytest.raises(error, match="its own"):
        await cache.aget_or_set("k", load)
    assert len(asked) == 2
    await cache._aio.aclose()  # noqa: SLF001


async def test_what_a_load_raises_is_raised_by_every_call(
    backend: Callable[..., Any], server: globalcache.Server
) -> None:
    cache = backend(server.url)
    for _ in range(2):
        with pytest.raises(LookupError):
            cache.get_or_set("k", broken)
        with pytest.raises(LookupError):
            await cache.aget_or_set("k", broken)
    assert await cache.aget_or_set("another", lambda: 1) == cache.get("another") == 1
    await cache._aio.aclose()  # noqa: SLF001 - its loop ends with this test


def broken() -> Any:
    raise LookupError("no such row")


def test_a_value_signed_with_another_key_is_absent(backend: Callable[..., Any], server: globalcache.Server) -> None:
    backend(server.url).set("k", [1])
    assert backend(server.url, secret="another").get("k") is None
    assert backend(server.url).get("k") == [1]
    backend(server.url, codec="json").set("k", [1])
    assert backend(server.url).get("k") == [1]


def test_backends_of_the_same_settings_share_connections(
    backend: Callable[..., Any], server: globalcache.Server
) -> None:
    first, second = backend(server.url, namespace="shared"), backend(server.url, namespace="shared")
    first.set("k", 1)
    assert second.get("k") == 1
    assert second._cache.stats()["connects"] == 1  # noqa: SLF001


def test_without_a_server_reads_miss_and_writes_are_dropped(
    backend: Callable[..., Any], serve: Callable[..., Process]
) -> None:
    """A session begins with has_key or add, so neither may raise, else a new visitor gets an error."""
    server = serve()
    cache = backend(server.address, timeout=0.3)
    cache.set("k", "old")
    server.end()
    cache.set("k", "new")
    assert cache.get("k", "nothing") == "nothing"
    assert cache.set_many({"a": 1}) == ["a"]
    assert "k" not in cache
    assert cache.add("k", 1)
    assert not cache.touch("k")
    assert not cache.delete("k")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("k")
    assert (cache.get_or_set("k", lambda: 5), cache.get_or_set("k", 6)) == (5, 6)


@pytest.mark.parametrize("codec", ["pickle", "json"])
async def test_without_a_server_async_calls_do_not_raise(backend: Callable[..., Any], codec: str) -> None:
    async def load() -> int:
        return 5

    cache = backend("globalcache://127.0.0.1:1", timeout=0.3, codec=codec)
    assert not await cache.ahas_key("k")
    assert await cache.aadd("k", 1)
    assert (await cache.aget_or_set("k", load), await cache.aget_or_set("k", 6)) == (5, 6)
    assert cache.get_or_set("k", lambda: 7) == 7
    with pytest.raises(ValueError, match="not found"):
        await cache.aincr("k")


def test_without_a_server_all_raise_if_they_are_told_to(backend: Callable[..., Any]) -> None:
    from globalcache import UnavailableError  # noqa: PLC0415

    cache = backend("globalcache://127.0.0.1:1", timeout=0.3, on_error="raise")
    for call in (cache.has_key, cache.incr, cache.get, lambda key: cache.add(key, 1)):
        with pytest.raises(UnavailableError):
            call("k")


def test_times_and_numbers_as_in_django(backend: Callable[..., Any], server: globalcache.Server) -> None:
    """LocMemCache does the same: 0.4 ms end at once, no time is too long, touch(None) finds a value without ttl."""
    cache = backend(server.url, namespace="times")
    cache.set("gone", 1, timeout=0.0004)
    assert cache.get("gone") is None
    cache.set("stays", 1, timeout=None)
    cache.set("long", 2, timeout=sys.maxsize)
    assert cache.touch("stays", None)
    assert not cache.touch("nobody", None)
    assert cache.get_many(["stays", "long"]) == {"stays": 1, "long": 2}
    for step in (cache.incr, cache.decr):
        with pytest.raises(TypeError, match=r"1.5: should be a whole number"):
            step("stays", 1.5)
    cache.set("most", 2**63 - 1)
    with pytest.raises(OverflowError, match="64 bits"):
        cache.incr("most")
    assert cache.get("most") == 2**63 - 1
    cache.clear()


@pytest.mark.parametrize("codec", ["pickle", "json"])
async def test_what_is_no_whole_number_is_not_counted_on(
    backend: Callable[..., Any], server: globalcache.Server, codec: str
) -> None:
    """Django's own backends add to no text either, be it "5"; some add to fractions, which the server does not."""
    cache = backend(server.url, namespace="counted", codec=codec)
    others: list[Any] = [b"5", b"-3", b"", "5", "", 1.5, 2.0, True, False, None, [], {}, 2**63, -(2**70)]
    for value in others:
        expected = OverflowError if type(value) is int else TypeError
        cache.set("k", value)
        for step in (cache.incr, cache.decr):
            with pytest.raises(expected, match="'k'"):
                step("k")
        for step in (cache.aincr, cache.adecr):
            with pytest.raises(expected, match="'k'"):
                await step("k", 2)
        assert repr(cache.get("k")) == repr(value)
    for value in (-1, 0, 5, -(2**63), 2**63 - 2):
        cache.set("k", value)
        assert (cache.incr("k"), await cache.adecr("k")) == (value + 1, value)
    cache.clear()


async def test_an_async_load_is_awaited(backend: Callable[..., Any]) -> None:
    cache, calls = backend("memory://", namespace="awaited"), []

    async def load() -> str:
        calls.append(1)
        return "value"

    assert await cache.aget_or_set("k", load) == "value"
    assert await cache.aget_or_set("k", load) == "value"
    assert await cache.aget_or_set("k", load, version=2) == "value"
    assert len(calls) == 2
    cache.clear()


def test_invalidation_waits_for_the_commit(backend: Callable[..., Any]) -> None:
    cache = backend("memory://", namespace="commit")
    from django.db import transaction  # noqa: PLC0415

    from globalcache.contrib.django import invalidate_on_commit  # noqa: PLC0415

    def fill() -> None:
        cache.set_many({"a": 1, "b": 2})
        cache.set("c", 3, tags=["t"])

    def left() -> str:
        return "".join(cache.get_many("abc"))

    fill()
    with transaction.atomic():
        invalidate_on_commit("a", tags="t", cache=cache)
        with transaction.atomic():
            invalidate_on_commit("b", cache=cache)
            transaction.set_rollback(True)  # the savepoint only
        assert left() == "abc"
    assert left() == "b"
    fill()
    with transaction.atomic():
        invalidate_on_commit("a", cache=cache)
        transaction.set_rollback(True)
    assert left() == "abc"
    invalidate_on_commit("a", cache=cache)  # no transaction: at once
    assert left() == "bc"


def test_what_cannot_be_invalidated_is_named_at_the_call(backend: Callable[..., Any]) -> None:
    """A list of keys would be the key "['menu']", and what is raised within a commit looks as if that had failed."""
    cache = backend("memory://", namespace="mistakes")
    from globalcache.contrib.django import invalidate_on_commit  # noqa: PLC0415

    mistakes: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((["menu"],), {"cache": cache}, r"keys are texts, one by one, not \['menu'\]"),
        (("",), {"cache": cache}, "keys are texts, one by one, not ''"),
        ((), {"cache": cache, "tags": [1]}, "tags are texts, one by one, not 1"),
        (("a",), {"cache": {}}, "dict is no cache of this backend or of globalcache"),
    ]
    for keys, options, line in mistakes:
        with pytest.raises(TypeError, match=f"invalidate_on_commit: {line}"):
            invalidate_on_commit(*keys, **options)


def test_an_async_cache_is_told_as_well(backend: Callable[..., Any]) -> None:
    """Django calls plain functions after a commit: a coroutine would be made and never awaited."""
    backend("memory://")
    from django.db import transaction  # noqa: PLC0415

    from globalcache.contrib.django import invalidate_on_commit  # noqa: PLC0415

    cache = AsyncCache("memory://")
    cache.sync.set_many({"a": 1, "b": 2})
    with transaction.atomic():
        invalidate_on_commit("a", cache=cache)
        assert cache.sync.has("a")
    assert cache.sync.get_many("ab") == {"b": 2}
