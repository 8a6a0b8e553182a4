"""Which functions are the same."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from globalcache.errors import KeyFormatError
from tests.client.dict_cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable


def item_of(cache: Cache, store: Any) -> Any:
    @cache.cached("item:{id}")
    def item(id: int) -> Any:
        return store(id) if callable(store) else store[id]

    return item


class Shop:
    """An object with cached and decorated methods."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def plain(self, id: int) -> int:
        return self.factor * id

    @functools.wraps(plain)
    def wrapped(self, *args: Any) -> int:
        return self.plain(*args)

    cached = Cache().cached("price:{self.factor}:{id}")(plain)


class Scaled:
    """A callable object that looks like the function that it calls."""

    def __init__(self, function: Callable[[int], int], by: int) -> None:
        self.function, self.by = function, by
        functools.update_wrapper(self, function)

    def __call__(self, id: int) -> int:
        return self.function(id) * self.by


def rows(id: int) -> int:
    return id


SHOP, BATCHES = Shop(3), Cache()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: 1}, {1: 1}),
        ([0, 1], [0, 1]),
        (([1],), ([1],)),
        (Shop(1).cached, Shop(2).cached),
        (Shop(1).cached, Shop(1).cached),
        (Shop(1).wrapped, Shop(1).wrapped),
        (Shop(1).plain, Shop(2).plain),
        (Scaled(rows, 1), Scaled(rows, 2)),
        ((0.0, 0.0), (0.0, -0.0)),
        ((0, 1), (0, True)),
        (Cache().cached("a:{id}")(rows), Cache().cached("b:{id}")(rows)),
    ],
)
def test_functions_around_different_objects_differ(one: Any, other: Any) -> None:
    """Objects that are equal at decoration may differ at the call, and methods belong to their objects."""
    cache = Cache()
    item_of(cache, one)
    item_of(cache, one)
    with pytest.raises(KeyFormatError, match="other code of that name or the same with other variables"):
        item_of(cache, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (1, "a", 0.5, frozenset({2}), None),
        lambda: SHOP.cached,
        lambda: SHOP.wrapped,
        lambda: BATCHES.cached("a:{id}")(rows),
        lambda: lambda: lambda row: row,
    ],
)
def test_functions_around_the_same_values_are_the_same(make: Callable[[], Any]) -> None:
    """As when a module is imported twice, or a function is decorated within another one."""
    cache = Cache()
    item_of(cache, make())
    item_of(cache, make())
    assert len(cache.claims) == 1


def test_defaults_that_can_differ_are_not_the_same() -> None:
    def make(start: Any) -> Callable[..., Any]:
        def item(id: int, *, start: Any = start) -> Any:
            return id, start

        return item

    cache = Cache()
    for _ in range(2):
        cache.cached("item:{id}", ignore=["start"])(make(0.0))
    others: list[Any] = [-0.0, [], 0]
    for start in others:
        with pytest.raises(KeyFormatError, match="other code of that name"):
            cache.cached("item:{id}", ignore=["start"])(make(start))


def test_a_method_named_like_an_outer_variable_is_compared() -> None:
    """Only a local function can be its own variable; within a class the name means what is around the class."""

    def shop(price: int) -> Any:
        class Shop:
            def price(self) -> int:
                return price

        return Shop.price

    cache = Cache()
    cache.cached("price", ignore=["self"])(shop(1))
    with pytest.raises(KeyFormatError, match="other code of that name"):
        cache.cached("price", ignore=["self"])(shop(2))
