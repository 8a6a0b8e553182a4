"""Forked children: whatever another thread of the parent holds at that moment stays held in the child for ever.

A program looks for every lock that the client has, in its modules and classes and behind caches that were used. A child
must have another one in the place of each; and one that is forked while a thread holds all of them uses caches of every
kind.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import types
import warnings
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import AsyncCache, Cache
from globalcache.client.fork import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Seconds that a child has.
_PATIENCE = 5
_LOCKS = type(threading.Lock()), type(threading.RLock())
# What is looked into besides the client's own objects.
_KINDS = (
    dict, list, tuple, set, frozenset, deque, weakref.ref, weakref.WeakSet, weakref.WeakKeyDictionary,
    types.MappingProxyType, types.CellType, types.MethodType, property, staticmethod, classmethod,
    functools.partial, functools.cached_property,
    threading.Condition, threading.Event, threading.Semaphore,
)  # fmt: skip
# Where caches reach: a server, one that is away, and the engine of this process.
_AWAY = "globalcache://127.0.0.1:1"


def _is_ours(thing: Any) -> bool:
    """Tell whether to look into an object."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__.startswith("globalcache")
    owner = thing if isinstance(thing, type | types.FunctionType) else type(thing)
    return isinstance(thing, _KINDS) or str(owner.__module__).startswith("globalcache")


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Return what an object refers to, with what it is called there."""
    names = {id(value): f".{name}" for name, value in getattr(thing, "__dict__", {}).items()}
    names |= {id(value): f"[{key!r}]" for key, value in thing.items()} if isinstance(thing, dict) else {}
    if isinstance(thing, weakref.ref):
        yield "()", thing()
    for part in gc.get_referents(thing):
        yield names.get(id(part), ""), part
    for name in names.values():
        if name.startswith("."):
            yield name, vars(thing)[name[1:]]


def _locks(roots: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Return all locks that can be reached, with the way to each."""
    seen = {id(sys.modules), id(vars(sys.modules["builtins"]))}
    left = deque(roots.items())
    while left:
        path, thing = left.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _LOCKS):
            yield thing, path
        elif _is_ours(thing):
            left += [(path + name, part) for name, part in _parts(thing)]


def _modules() -> dict[str, Any]:
    """Return all modules of the product, imported."""
    from django.conf import settings  # noqa: PLC0415 - only the program of this test is one of Django's

    backend = {"BACKEND": "globalcache.contrib.django.GlobalCache", "LOCATION": "memory://django"}
    settings.configure(CACHES={"default": backend}, SECRET_KEY="secret")
    names = [one.name for one in pkgutil.walk_packages(globalcache.__path__, "globalcache.")]
    return {name: importlib.import_module(name) for name in names if not name.endswith("__main__")}


def _plain(cache: Cache, number: int) -> None:
    """Use a cache in every way."""
    double = cache.cached(f"double{number}:{{n}}", ttl=60, tags="t:{n}")(_double)
    assert double(2) == 4
    cache.set("stale", 1, ttl=60, refresh_after=0.001)
    cache.set_many({"a": 1})
    assert cache.get("a") in {None, 1}
    cache.invalidate("x", tags=["t"])
    assert cache.get_or_load("x", lambda: number) == number
    assert cache.get_or_load("stale", lambda: 1) == 1
    assert cache.get_or_load_many([f"y{number}"], lambda keys: dict.fromkeys(keys, 2)) == {f"y{number}": 2}
    with pytest.raises(OSError, match="down"):
        cache.get_or_load("fails", _fail)
    _plain_rest(cache.namespace("n"))
    cache.close()


def _plain_rest(cache: Cache) -> None:
    cache.clear()
    assert cache.get_or_load("z", lambda: 3) == 3


def _double(n: int) -> int:
    return 2 * n


async def _triple(n: int) -> int:
    return 3 * n


def _fail() -> None:
    raise OSError("down")


async def _as_task(cache: AsyncCache, number: int) -> None:
    triple = cache.cached(f"triple{number}:{{n}}", ttl=60, tags="t:{n}")(_triple)
    assert await triple(2) == 6
    await cache.set("stale", 1, ttl=60, refresh_after=0.001)
    await cache.invalidate("x", tags=["t"])
    assert await cache.get_or_load("x", lambda: number) == number
    assert await cache.get_or_load("stale", lambda: 1) == 1
    assert await cache.get_or_load_many([f"y{number}"], lambda keys: dict.fromkeys(keys, 2)) == {f"y{number}": 2}
    with pytest.raises(OSError, match="down"):
        await cache.get_or_load("fails", _fail)
    await cache.aclose()


def _use(caches: list[Cache], number: int) -> None:
    """Use caches that there were before, by both faces, and new ones; and Django's."""
    from django.core.cache import caches as backends  # noqa: PLC0415

    for cache in (*caches, Cache("memory://new"), Cache(_AWAY)):
        _plain(cache, number)
        asyncio.run(_as_task(cache.aio, number + 1))
    backend = backends.create_connection("default")
    backend.set("x", number)
    assert backend.get("x") == number


def _child(call: Callable[[], object]) -> int:
    """Fork, and return how the child ended that calls this: by SIGALRM if it waits for ever."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(_PATIENCE)
    status = 1
    try:
        call()
        status = 0
    finally:
        os._exit(status)


def _held_while(locks: Iterable[Any], call: Callable[[], int]) -> int:
    """Call something while another thread holds locks."""
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        # A bell is locked until it rings.
        held = [lock for lock in locks if lock.acquire(timeout=0.01)]
        holds.set()
        ends.wait()
        for lock in held:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    try:
        return call()
    finally:
        ends.set()
        thread.join()


def main(url: str) -> None:
    """Print the way to each lock of the parent that a child has, how one ends that uses caches, and their number."""
    warnings.simplefilter("ignore")
    logging.disable()
    roots = _modules()
    caches = [Cache(url), Cache("memory://here"), Cache(_AWAY)]
    roots |= {repr(cache): cache for cache in caches}
    _use(caches, 0)
    for cache in caches:
        cache.set("open", 1)  # so that a connection is open
    locks = dict(_locks(roots))
    _child(lambda: [print(path, flush=True) for lock, path in _locks(roots) if lock in locks])
    print(_held_while(locks, lambda: _child(lambda: _use(caches, 10))), len(locks))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_wait_for_locks_of_its_parent(server: globalcache.Server) -> None:
    code = f"from tests.client.test_fork import main; main({server.url!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    *kept, last = done.stdout.splitlines()
    status, count = last.split()
    assert (kept, status) == ([], "0")
    # Else it looks where there are none.
    assert int(count) > 20


def test_two_threads_get_one_result() -> None:
    """Another one comes while it is made, and is done first."""

    class Thing:
        made = 0

        @lazy
        def part(self) -> object:
            self.made += 1
            if self.made == 1:
                others.append(self.part)
            return object()

    others: list[object] = []
    thing = Thing()
    assert [thing.part, thing.part] == others * 2
    assert thing.made == 2
