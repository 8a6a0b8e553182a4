"""Decorators: which functions and templates they take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.errors import CacheError, ConfigError, KeyFormatError
from tests.client.dict_cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable


def test_loaders_are_known_to_workers() -> None:
    cache = Cache()

    @cache.loader("user:{tenant}:{id:int}", ttl="5m", tags=["users", "tenant:{tenant}"], timeout="2s", concurrency=3)
    async def user(id: int, tenant: str) -> dict[str, str] | None:
        return {"tenant": tenant, "id": str(id)}

    (loader,) = cache.loaders.values()
    assert loader is user.loader
    assert loader.template.parse("user:a:7") == ["a", 7]
    assert asyncio.run(loader.function("a", 7)) == {"tenant": "a", "id": "7"}
    assert loader.tags_of(["a", 7]) == ["users", "tenant:a"]
    assert (loader.timeout, loader.concurrency, loader.batch, loader.type) == (2, 3, 0, dict[str, str])
    with pytest.raises(ConfigError, match=r"keys user:\*:\* are loaded by .*user already"):
        cache.loader("user:{a}:{b}", shared=True)(lambda a, b: None)  # noqa: ARG005


def test_a_loader_has_nothing_but_its_key() -> None:
    cache = Cache()

    class Users:
        def user(self, id: int) -> None: ...

    with pytest.raises(KeyFormatError, match="a worker has nothing but the key"):
        cache.loader("{self.tenant}:{id}")(Users.user)
    with pytest.raises(KeyFormatError, match="a worker has nothing but the key"):
        cache.loader("user:{id}")(Users.user)


def test_a_second_function_with_the_keys_of_another_is_refused() -> None:
    """Each would return what the other stored: the first that ran would decide for both."""
    cache = Cache()

    def power(n: int, *, shared: bool = False) -> Any:
        @cache.cached("power:{x}", shared=shared)
        def raised(x: int) -> Any:
            return x**n

        return raised

    assert power(2)(3) == 9
    assert power(2)(3) == 9  # the same function again, as when a module is imported twice
    with pytest.raises(KeyFormatError, match=r"'power:{x}' can be those of other code of that name.*shared=True"):
        power(3)
    assert power(3, shared=True)(3) == 9
    with pytest.raises(KeyFormatError, match=r"'power:{y}' can be those of .*power.<locals>.raised, 'power:{x}'"):
        cache.cached("power:{y}")(lambda y: y)
    with pytest.raises(KeyFormatError, match=r"'{what}:{x}' can be those of"):
        cache.cached("{what}:{x}")(lambda what, x: (what, x))
    assert cache.cached("power:me")(lambda: 1)() == 1  # x is a whole number, so no key of the other
    for _ in range(3):
        power(2)
        power(5, shared=True)
    assert len(cache.claims) == 2


def test_one_function_under_two_orders_of_its_arguments() -> None:
    cache = Cache()

    def ratio(a: int, b: int) -> float:
        return a / b

    cache.cached("ratio:{a}:{b}")(ratio)
    with pytest.raises(KeyFormatError, match=r"'ratio:{b}:{a}' can be those of"):
        cache.cached("ratio:{b}:{a}")(ratio)


def test_namespaces_have_keys_of_their_own() -> None:
    with globalcache.Cache("memory://") as cache:
        cache.cached("x:{a}")(lambda a: a)
        cache.namespace("n").cached("x:{a}")(lambda a: a + 1)
        with pytest.raises(KeyFormatError, match="can be those of"):
            cache.aio.cached("x:{a}")(lambda a: a + 2)
        with pytest.raises(KeyFormatError, match="can be those of"):
            cache.cached("n:x:{a}")(lambda a: a + 3)


def test_a_loader_takes_no_key_of_a_refused_function() -> None:
    cache = Cache()

    @cache.loader("row:{id:int}")
    def row(id: int) -> int:
        return id

    with pytest.raises(KeyFormatError, match="can be those of"):

        @cache.loader("row:{id:int}")
        def other(id: int) -> int:
            return -id

    assert [loader.name for loader in cache.loaders.values()] == [row.loader.name if row.loader else ""]


@pytest.mark.parametrize(
    ("decorate", "line"),
    [
        (lambda cache: cache.cached(lambda: 1), r"cached: write @cache.cached\(...\) with brackets"),
        (lambda cache: cache.loader(lambda: 1), r"loader: write @cache.loader\(...\) with brackets"),
        (lambda cache: cache.batch_loader(lambda: 1), r"batch_loader: write @cache.batch_loader\(...\) with brackets"),
        (lambda cache: cache.cached(5), "cached: a template is a text such as 'user:{id}', not 5"),
        (lambda cache: cache.cached(tags=5), "tags: 5: should be a text or several"),
        (lambda cache: cache.cached(tags=["a", 5]), r"tags: \['a', 5\]: should be a text or several"),
        (lambda cache: cache.cached(ttl=[1]), r"ttl: \[1\]: should be seconds, a timedelta, or text such as 5m"),
        (lambda cache: cache.cached("a", ignore="b")(lambda: 1), "ignore names 'b', which is no parameter"),
    ],
)
def test_a_mistake_is_named_at_decoration(decorate: Callable[[Any], Any], line: str) -> None:
    with pytest.raises((TypeError, ConfigError, KeyFormatError), match=line):
        decorate(Cache())


def test_two_loaders_of_one_pattern_are_refused() -> None:
    """Even if their keys are shared: a worker runs one of them."""
    cache = Cache()

    @cache.loader("user:{id}", shared=True)
    def user(id: str) -> str:
        return id

    with pytest.raises(CacheError, match=r"keys user:\* are"):

        @cache.loader("user:{name}", shared=True)
        def other(name: str) -> str:
            return name


def test_two_caches_on_one_store_share_their_claims() -> None:
    """Each would return what the other stored. A cache that is gone claims nothing."""
    one, other = globalcache.Cache("memory://claims"), globalcache.AsyncCache("memory://claims")
    one.cached("u:{x}")(lambda x: x)
    with pytest.raises(KeyFormatError, match="can be those of"):
        other.cached("u:{y}")(lambda y: -y)
    other.namespace("n").cached("u:{y}")(lambda y: -y)
    kept: list[Any] = []
    for elsewhere in ("memory://", "memory://claims2", "null://", "globalcache://a:1", "globalcache://a:1/2"):
        kept.append(globalcache.Cache(elsewhere))
        kept[-1].cached("u:{y}")(lambda y: -y)
    with pytest.raises(KeyFormatError, match="can be those of"):
        globalcache.Cache(["globalcache://b:1", "globalcache://a:1/2"]).cached("u:{x}")(lambda x: x)
    del one
    other.cached("u:{y}")(lambda y: -y)


def test_words_of_a_function_may_be_those_of_its_methods() -> None:
    cache = Cache()

    @cache.cached("v:{value}:{self}")
    def f(value: int, self: int = 0) -> int:
        return value + self

    assert f(value=3, self=1) == 4
    f.set(9, value=3, self=1)
    assert (f(3, 1), f.key(value=3, self=1), f.refresh(value=3, self=1)) == (9, "v:3:1", 4)
