"""Cached functions, over a cache that is a dict: what they ask of it, their keys and their types."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import sqlite3
import sys
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import globalcache
from globalcache.client._async.cached_function import AsyncCachedFunction
from globalcache.client._sync.cached_function import CachedFunction
from tests.client.dict_cache import Cache
from tests.client.test_annotations import Later

if TYPE_CHECKING:
    from collections.abc import Callable


class UserNotFound(Exception):  # noqa: N818 - as applications name it
    """There is no such user."""


def test_a_function_runs_once_for_a_key() -> None:
    cache, ran = Cache(), []

    @cache.cached("price:{id}:{lang}", ttl="5m", tags=["prices", "product:{id}"])
    def price(id: int, lang: str = "en") -> float | None:  # noqa: ARG001
        """Say the price."""
        ran.append(id)
        return id * 1.5

    assert isinstance(price, CachedFunction)
    assert_type(price(1), float | None)
    assert (price(1), price(id=1), price(1, "en"), ran) == (1.5, 1.5, 1.5, [1])
    assert price.key(1) == "price:1:en"
    assert list(cache.plain.policies["price:1:en"].tags) == ["prices", "product:1"]
    assert cache.plain.policies["price:1:en"].ttl == 300
    price.invalidate(1)
    assert (price(1), ran) == (1.5, [1, 1])
    price.set(9.0, 1)
    assert (price(1), price.uncached(1), ran) == (9.0, 1.5, [1, 1, 1])
    assert (price.refresh(1), price(1), len(ran)) == (1.5, 1.5, 4)
    assert (price.__wrapped__.__name__, price.__doc__) == ("price", "Say the price.")
    assert repr(price).endswith("price 'price:{id}:{lang}'>")
    with pytest.raises(TypeError, match="id: '1' is no int"):
        price("1")  # type: ignore[arg-type]


def test_a_hit_calls_few_functions() -> None:
    """Each costs a hundredth of a hit of a real server."""
    cache, called = Cache(), list[str]()

    @cache.cached("user:{id}")
    def user(id: int) -> int:
        return id

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    user(1)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        user(1)
    finally:
        sys.setprofile(before)
    assert called == ["CachedFunction.__call__", "KeyTemplate.key", "Plain.get_or_load"]


def test_an_async_function_is_awaited() -> None:
    cache, ran = Cache(), []

    @cache.cached("user:{id}")
    async def user(id: int) -> str:
        ran.append(id)
        return f"user {id}"

    async def use() -> None:
        assert isinstance(user, AsyncCachedFunction)
        assert_type(await user(1), str)
        assert (await user(1), await user(1), ran) == ("user 1", "user 1", [1])
        await user.invalidate(1)
        assert (await user.refresh(1), await user.uncached(2), ran) == ("user 1", "user 2", [1, 1, 2])
        await user.set("x", 1)
        assert await user(1) == "x"

    asyncio.run(use())


def test_methods() -> None:
    cache, ran = Cache(), []

    class Users:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @cache.cached("{self.tenant}:user:{id}")
        def user(self, id: int) -> str:
            ran.append(id)
            return f"{self.tenant} {id}"

    one, other = Users("a"), Users("b")
    assert_type(one.user(1), str)
    assert (one.user(1), one.user(1), other.user(1), ran) == ("a 1", "a 1", "b 1", [1, 1])
    one.user.invalidate(1)
    assert (one.user(1), other.user(1), len(ran)) == ("a 1", "b 1", 3)
    assert one.user.key(2) == "a:user:2"
    assert Users.user.uncached(one, 3) == one.user.uncached(3) == "a 3"


def test_no_such_row_is_the_same_exception_everywhere() -> None:
    cache, ran = Cache(), []

    @cache.cached("user:{id}", absent=[UserNotFound])
    def user(id: int) -> str:
        ran.append(id)
        raise UserNotFound(f"user {id} is gone")

    with pytest.raises(UserNotFound, match="user 1 is gone"):
        user(1)
    with pytest.raises(UserNotFound, match="user:1"):
        user(1)
    assert ran == [1]


def session_of(kind: str) -> Any:
    if kind == "connection":
        return sqlite3.connect(":memory:")
    orm = pytest.importorskip("sqlalchemy.orm")
    aio = pytest.importorskip("sqlalchemy.ext.asyncio")
    return {"Session": orm.Session, "AsyncSession": aio.AsyncSession, "scoped": orm.scoped_session(orm.Session)}[kind]()


@pytest.mark.parametrize("kind", ["Session", "AsyncSession", "scoped", "connection"])
def test_a_session_of_the_caller_is_warned_of_once(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """A load through the request's session stores what that session still holds, older than what others committed."""
    cache = Cache()

    @cache.cached("row:{id}", ignore=("db", "other"))
    def row(id: int, db: Any, other: Any = None) -> int:  # noqa: ARG001
        return id

    session = session_of(kind)
    row(0, "no session", other=object())
    assert not caplog.records
    row(1, 1, other=session)
    row(2, session)
    (record,) = caplog.records
    assert f"row: its argument 'other' is a {type(session).__name__} of the caller" in record.getMessage()
    assert "Open a session inside the function instead" in record.getMessage()


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as applications do, by functools.wraps."""
    if inspect.iscoroutinefunction(function) or isinstance(function, AsyncCachedFunction):

        @functools.wraps(function)
        async def inner_async(id: int) -> Any:
            return await function(id) * 2

        return inner_async

    @functools.wraps(function)
    def inner(id: int) -> Any:
        return function(id) * 2

    return inner


def test_a_decorator_between_two_cached_ones_runs() -> None:
    """functools.wraps copies the attributes of the inner cached function; the outer one must keep its own."""
    cache = Cache()

    @cache.cached("usd:{id}")
    @doubled
    @cache.cached("eur:{id}")
    def price(id: int) -> int:
        return id + 10

    assert (price(1), price(1), price.key(1), price.uncached(1)) == (22, 22, "usd:1", 22)
    assert cache.plain.values == {"usd:1": 22, "eur:1": 11}


def test_a_decorator_between_two_async_cached_ones_runs() -> None:
    cache = Cache()

    @cache.cached("usd:{id}")
    @doubled
    @cache.cached("eur:{id}")
    async def price(id: int) -> int:
        return id + 10

    assert isinstance(price, AsyncCachedFunction)
    assert asyncio.run(price(1)) == 22
    assert cache.awaited.values == {"usd:1": 22, "eur:1": 11}


def test_cached_directly_over_cached_stores_under_both_keys() -> None:
    cache = Cache()

    @cache.cached("outer:{id}")
    @cache.cached("inner:{id}")
    def sync(id: int) -> int:
        return id

    @cache.cached("aouter:{id}")
    @cache.cached("ainner:{id}")
    async def awaited(id: int) -> Later:
        return Later(id)

    assert (sync(1), asyncio.run(awaited(2))) == (1, Later(2))
    assert awaited._type is Later  # noqa: SLF001
    assert cache.plain.values == {"inner:1": 1, "outer:1": 1, "ainner:2": Later(2), "aouter:2": Later(2)}


def test_none_is_a_result_where_the_annotation_says_so() -> None:
    """Whatever `absent` says, which is for exceptions; and it can be set, as a row that does not exist."""
    cache = Cache()

    @cache.cached("maybe:{id}", absent=[UserNotFound], tags=["all"], negative_ttl="5s")
    def maybe(id: int) -> str | None:
        return str(id) if id else None

    assert (maybe(0), maybe(0)) == (None, None)
    assert maybe(1) == "1"
    maybe.set(None, 1)
    assert (maybe(1), cache.plain.values["maybe:1"], cache.plain.policies["maybe:1"].negative_ttl) == (None, None, 5)

    @cache.cached("never:{id}", absent=[UserNotFound])
    def never(id: int) -> str:
        return None if id else ""  # type: ignore[return-value]

    with pytest.raises(UserNotFound, match="never:1"):
        never(1)


def test_none_is_set_as_a_row_that_does_not_exist() -> None:
    """With real values: None is none of type `str`, so it is no value that could be read back."""
    with globalcache.Cache("memory://") as cache:

        @cache.cached("one:{id}", negative_ttl="5s", ttl="1h")
        def one(id: int) -> str | None:
            return str(id)

        @cache.batch_loader("many:{id}", negative_ttl="5s")
        def many(ids: list[int]) -> dict[int, str]:
            return {each: str(each) for each in ids}

        assert (one(1), many([1])) == ("1", {1: "1"})
        one.set(None, 1)
        many.set(None, 1)
        assert (one(1), many([1])) == (None, {})
        assert [cache.inspect(key)["state"] for key in ("one:1", "many:1")] == ["absent", "absent"]
        assert cache.inspect("one:1")["ttl_ms"] <= 5000


def test_none_is_awaited_as_a_row_that_does_not_exist() -> None:
    async def use() -> None:
        async with globalcache.AsyncCache("memory://") as cache:

            @cache.cached("one:{id}")
            async def one(id: int) -> str | None:
                return str(id)

            @cache.batch_loader("many:{id}")
            async def many(ids: list[int]) -> dict[int, str]:
                return {each: str(each) for each in ids}

            await one.set(None, 1)
            await many.set(None, 1)
            assert (await one(1), await many([1])) == (None, {})

    asyncio.run(use())


def test_a_load_is_given_the_float_that_stands_in_the_key() -> None:
    """1 and 1.0 are one call where `float` is annotated, so the function must not see which came first."""
    cache = Cache()

    @cache.cached("sync:{x}")
    def sync(x: float) -> str:
        return repr(x)

    @cache.cached("awaited:{x}")
    async def awaited(x: float) -> str:
        return repr(x)

    assert (sync(1), sync(1.0), asyncio.run(awaited(x=1))) == ("1.0", "1.0", "1.0")


def test_a_bound_method_is_read_as_its_function_says() -> None:
    """Before and after the annotation is resolved; its signature has no receiver."""
    cache = Cache()

    class Users:
        tenant = "a"

        @cache.cached("{self.tenant}:{id}")
        def user(self, id: int) -> Late:  # type: ignore[name-defined]  # noqa: F821
            return globals()["Late"](id)

    @dataclasses.dataclass
    class Local:
        id: int

    globals()["Late"] = Local
    try:
        users = Users()
        for _ in range(2):
            bound: Any = users.user
            assert bound(1) == Local(1)
            assert bound._type is Local  # noqa: SLF001
        assert list(inspect.signature(users.user).parameters) == ["id"]
        assert list(inspect.signature(Users.user).parameters) == ["self", "id"]
    finally:
        del globals()["Late"]
