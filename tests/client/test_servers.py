"""Writes to several servers: what ends at one of them still reaches the others, now or before they are read again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from globalcache.client.wire import MOST_BYTES
from globalcache.errors import AuthError, UnavailableError
from tests.client.conftest import KINDS
from tests.client.faces import Face
from tests.conftest import transport

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    with (
        globalcache.Server(memory="64MiB", threads=1) as one,
        globalcache.Server(memory="64MiB", threads=1) as two,
    ):
        yield [one.url, two.url]


def filled(urls: list[str]) -> tuple[Cache, list[str]]:
    """Return a cache of another process, and keys of both servers that it has set: the first server's, then others."""
    other = Cache(urls, timeout=20, namespace="shop")
    names = [f"k{number}" for number in range(12)]
    place_of = other._state.servers.place_of  # noqa: SLF001
    first, second = ([key for key in names if place_of(f"shop:{key}".encode()) == place] for place in (0, 1))
    other.set_many(dict.fromkeys(names, "old"), tags=["t"])
    return other, [*first[:2], *second[:2]]


def of(*keys: str) -> dict[str, tuple[Any, ...]]:
    """Return every call that writes to several servers."""
    return {
        "invalidate keys": ("invalidate", keys, {}),
        "invalidate tags": ("invalidate", (), {"tags": "t"}),
        "clear": ("clear", (), {}),
        "delete_many": ("delete_many", (keys,), {}),
        "set_many": ("set_many", (dict.fromkeys(keys, "new"),), {}),
    }


def refusing(face: Face, error: BaseException) -> None:
    """Have the first server raise this at every write."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    for name in ("call", "call_many"):
        setattr(face.server, name, refuse)


@pytest.mark.parametrize("call", list(of()))
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_server_refuses_is_told_to_the_others(urls: list[str], kind: str, call: str) -> None:
    """The first server does not know the password: the second is told before AuthError is raised."""
    other, keys = filled(urls)
    with other, Face(kind, urls, timeout=20, namespace="shop") as face:
        refusing(face, AuthError("NOAUTH"))
        name, args, options = of(*keys)[call]
        with pytest.raises(AuthError):
            face(name, *args, **options)
        assert not [key for key in keys[2:] if other.get(key) == "old"]


@pytest.mark.parametrize("on_error", ["miss", "raise"])
@pytest.mark.parametrize("call", list(of()))
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_away_keeps_no_write_from_others(urls: list[str], kind: str, call: str, on_error: str) -> None:
    """As with one server: an error only if the cache was told to raise, but then when all servers had their turn."""
    other, keys = filled(urls)
    with other, Face(kind, urls, timeout=20, namespace="shop", on_error=on_error) as face:
        refusing(face, UnavailableError("away"))
        name, args, options = of(*keys)[call]
        with pytest.raises(UnavailableError) if on_error == "raise" else contextlib.nullcontext():
            face(name, *args, **options)
        assert not [key for key in keys[2:] if other.get(key) == "old"]
        assert face.cache.stats()["errors"] == 1


@pytest.mark.parametrize("call", list(of()))
def test_an_interrupt_leaves_what_was_not_sent_pending(urls: list[str], call: str) -> None:
    """Ctrl-C while the first server is told: the second is told before this process reads there again."""
    other, keys = filled(urls)
    with other, Face("threads", urls, timeout=20, namespace="shop") as face:
        told = {name: getattr(face.server, name) for name in ("call", "call_many")}
        refusing(face, KeyboardInterrupt())
        name, args, options = of(*keys)[call]
        with pytest.raises(KeyboardInterrupt):
            face(name, *args, **options)
        for method, original in told.items():
            setattr(face.server, method, original)
        assert not [key for key in keys[2:] if face("get", key) == "old"]
        assert not [key for key in keys[2:] if other.get(key) == "old"]


@pytest.mark.parametrize("call", list(of()))
@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_task_leaves_no_server_untold(urls: list[str], call: str, *, begun: bool) -> None:
    """The first server does not answer and the caller's time is over, or it is over before anything was sent."""
    other, keys = filled(urls)

    async def run() -> None:
        async with AsyncCache(urls, timeout=20, namespace="shop") as cache:
            await cache.get_many(keys)  # both are connected
            if begun:
                silence(transport(cache))
            name, args, options = of(*keys)[call]
            task = asyncio.create_task(getattr(cache, name)(*args, **options))
            for _ in range(3 if begun else 1):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if not begun:
                assert len(cache._state.servers.endpoints[1].pending) > 0  # noqa: SLF001
            assert not [key for key in keys[2:] if await cache.get(key) == "old"]

    with other:
        asyncio.run(run())
        assert not [key for key in keys[2:] if other.get(key) == "old"]


def silence(server: Any) -> None:
    """Have a server answer no write."""

    async def wait(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    server.call = server.call_many = wait


def test_a_cancelled_set_many_leaves_none_of_its_batches_old(server: globalcache.Server) -> None:
    """The caller is cancelled while the first batch is on its way: the others are sent nowhere, and never will be."""
    keys = [f"k{number}" for number in range(5)]
    value = "x" * (MOST_BYTES - 1000)

    async def run() -> None:
        async with AsyncCache(server.url, timeout=20) as cache:
            await cache.set_many(dict.fromkeys(keys, "old"))
            task = asyncio.create_task(cache.set_many(dict.fromkeys(keys, value)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert "old" not in (await cache.get_many(keys)).values()

    asyncio.run(run())


def test_a_batch_that_cannot_be_queued_is_pending(server: globalcache.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many requests stand open: set_many is told so, and what was there before is not returned any more."""

    async def run() -> None:
        async with AsyncCache(server.url, timeout=20) as cache:
            await cache.set_many({"a": "old", "b": "old"})
            with monkeypatch.context() as patch:
                patch.setattr("globalcache.client.multiplexed_connection._MOST_OPEN", -1)
                assert await cache.set_many({"a": "new", "b": "new"}) == 0
            assert await cache.get_many(["a", "b"]) == {}

    asyncio.run(run())
