"""What a type checker knows of the cache. `make lint` checks this file; the calls run here as well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_type

import pytest

from globalcache import AsyncCache, Cache, Entry, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping


def rows(keys: list[str]) -> Mapping[str, int]:
    return {key: len(key) for key in keys}


async def rows_later(keys: list[str]) -> Mapping[str, int]:
    return rows(keys)


async def seven() -> int:
    return 7


def test_unknown_options_are_type_errors_for_mypy_and_python() -> None:
    for face in (Cache, AsyncCache):
        with pytest.raises(TypeError, match=r"no option 'timout'; it has .*timeout"):
            face("memory://", timout=5)  # type: ignore[call-arg]
    Cache("memory://", timeout="5s", on_error="raise", codec="msgpack", wait=1, local_loads=2)
    with pytest.raises(Exception, match="should be miss or raise"):
        Cache("memory://", on_error="ignore")  # type: ignore[arg-type]


def test_results_of_the_plain_face_have_the_types_of_their_loads() -> None:
    with Cache("memory://") as cache:
        assert_type(cache.get_or_load("a", lambda: 7), int)
        assert_type(cache.get_or_load("b", lambda: "x", ttl=1, policy=None), str)
        assert_type(cache.get_or_load_many(["aa", "b"], rows, ttl="1s"), dict[str, int | None])
        assert_type(cache.get_many(["a"], type=int), dict[str, int])
        assert_type(cache.get_entry("a", type=int), Entry[int] | None)
        assert_type(cache.get("a", type=int), int | None)
        with pytest.raises(TypeError):
            cache.get_or_load("c", lambda: 7, tll=1)  # type: ignore[call-arg]


def test_results_of_the_other_face_have_the_types_of_their_loads() -> None:
    async def run() -> None:
        async with AsyncCache("memory://") as cache:
            assert_type(await cache.get_or_load("a", seven), int)
            assert_type(await cache.get_or_load("b", lambda: 7, policy=Policy(ttl=1)), int)
            assert_type(await cache.get_or_load_many(["aa"], rows_later), dict[str, int | None])
            assert_type(await cache.get_or_load_many(["bb"], rows), dict[str, int | None])
            assert_type(await cache.get_many(["a"], type=int), dict[str, int])
            assert_type(await cache.get_entry("a", type=int), Entry[int] | None)

    asyncio.run(run())
