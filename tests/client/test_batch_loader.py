"""Batch loaders: what they ask of a cache, and which items they take."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping  # noqa: TC003 - read as the type of values
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

import pytest

from globalcache.errors import KeyFormatError
from tests.client.dict_cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable


def test_batch_loaders_load_what_is_missing_together() -> None:
    cache, asked = Cache(), []

    @cache.batch_loader("product:{sku}", max_batch_size=5, max_wait="2ms")
    def products(skus: list[str]) -> dict[str, int]:
        asked.append(skus)
        return {sku: len(sku) for sku in skus if sku != "none"}

    assert_type(products(["a"]), dict[str, int])
    assert products(["a", "1", "none"]) == {"a": 1, "1": 1}
    assert products(["1", "none", "xyz"]) == {"1": 1, "xyz": 3}
    assert asked == [["a"], ["1", "none"], ["xyz"]]
    assert products.key("1") == "product:1"
    products.invalidate("a", "1")
    assert products.refresh("a") == {"a": 1}
    products.set(9, "b")
    assert (products(["b"]), asked[3:]) == ({"b": 9}, [["a"]])
    assert (products.loader.batch, products.loader.max_wait, products.loader.type) == (5, 0.002, int)


def test_async_batches_of_several_fields() -> None:
    cache = Cache()

    @cache.batch_loader("stock:{shop}:{sku}")
    async def stock(places: list[tuple[int, str]]) -> Mapping[tuple[int, str], int]:
        return {(shop, sku): shop for shop, sku in places}

    async def use() -> None:
        assert await stock([(1, "a"), (2, "7")]) == {(1, "a"): 1, (2, "7"): 2}
        await stock.invalidate((1, "a"))
        assert await stock.refresh((1, "a")) == {(1, "a"): 1}
        await stock.set(5, (1, "a"))
        assert await stock([(1, "a")]) == {(1, "a"): 5}

    asyncio.run(use())
    assert stock.loader.template.parse("stock:2:7") == [2, "7"]
    with pytest.raises(KeyFormatError, match="takes one list"):
        cache.batch_loader("x:{id}")(lambda a, b: {})  # type: ignore[misc,arg-type]  # noqa: ARG005


def test_batches_say_what_is_wrong_with_them() -> None:
    """Text in place of a list would be taken apart into letters, and keys of another form would look like no rows."""
    cache = Cache()

    @cache.batch_loader("product:{id:int}")
    def products(ids: list[int]) -> Any:
        return list(ids) if 1 in ids else {str(number): number for number in ids}

    @cache.batch_loader("stock:{shop}:{sku}")
    def stock(places: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return dict.fromkeys(places, 1)

    name = r"tests\.\S+\.products"
    for call, line in (
        (lambda: products("s1"), name + r" takes a list of items: \['s1'\] instead of 's1'"),
        (lambda: products(7), name + r" takes a list of items: \[7\] instead of 7"),
        (lambda: products.invalidate([1, 2]), name + r": an item is one value, not a list: pass \*items"),
        (lambda: products([1]), name + " returned a list; it should return a dict of the items it was given"),
        (lambda: products([2]), name + " returned keys that it was not asked for: '2'; it was asked for 2"),
        (lambda: stock(["ab"]), r"\.stock: an item is a tuple of shop, sku, not 'ab'"),  # type: ignore[list-item]
        (lambda: stock([("a", "b", "c")]), r"\.stock: an item is a tuple of shop, sku, not \('a', 'b', 'c'\)"),  # type: ignore[list-item]
    ):
        with pytest.raises(TypeError, match=line):
            call()


@pytest.mark.parametrize("pair", [(1, True), (0.0, -0.0), (1, 1.0), (Decimal("1.0"), Decimal("1.00"))])
def test_a_warm_batch_refuses_equal_items_as_a_cold_one(pair: tuple[Any, Any]) -> None:
    """Keys tell them apart and the dict that is returned does not: the value of one would stand for both."""
    cache = Cache()

    @cache.batch_loader("flag:{id}")
    def flags(ids: list[Any]) -> dict[Any, str]:
        return {each: repr(each) for each in ids}

    @cache.batch_loader("aflag:{id}")
    async def awaited(ids: list[Any]) -> dict[Any, str]:
        return {each: repr(each) for each in ids}

    async def run(call: Callable[..., Any], *args: Any) -> Any:
        return await call(*args)

    for _ in ("cold", "warm"):
        for call in (partial(flags, pair), partial(flags.refresh, *pair)):
            with pytest.raises(TypeError, match="are equal in Python"):
                call()
        for task in (partial(run, awaited, pair), partial(run, awaited.refresh, *pair)):
            with pytest.raises(TypeError, match="are equal in Python"):
                asyncio.run(task())
        assert [flags([each])[each] for each in pair] == list(map(repr, pair))
        assert [asyncio.run(run(awaited, [each]))[each] for each in pair] == list(map(repr, pair))
    flags.invalidate(*pair)
    assert not [key for key in cache.plain.values if key.startswith("flag:")]


def test_a_batch_loader_over_a_decorated_one_runs_the_decorator() -> None:
    cache = Cache()

    @cache.batch_loader("inner:{id}")
    def many(ids: list[int]) -> dict[int, int]:
        return {each: each for each in ids}

    @functools.wraps(many)
    def doubled_rows(ids: list[int]) -> dict[int, int]:
        return {each: row * 2 for each, row in many(ids).items()}

    assert cache.batch_loader("outer:{id}")(doubled_rows)([1]) == {1: 2}
    assert cache.batch_loader("directly:{id}")(many)([1]) == {1: 1}
    assert cache.plain.values == {"inner:1": 1, "outer:1": 2, "directly:1": 1}
