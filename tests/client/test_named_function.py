"""What takes the place of a function is pickled, copied and named as it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest

from tests.client.dict_cache import Cache


def test_attributes_of_a_function_replace_no_method() -> None:
    def price(id: int) -> int:
        return id

    price.invalidate, price.set, price.unit = (lambda *_: None), 1, "eur"  # type: ignore[attr-defined]
    cache = Cache()
    cached = cache.cached("price:{id}")(price)
    assert (cached(1), cached.unit) == (1, "eur")  # type: ignore[attr-defined]
    cached.invalidate(1)
    assert not cache.plain.values
    cached.set(5, 1)
    assert cached(1) == 5


PICKLED = Cache()


@PICKLED.cached("pickled:{id}")
def pickled(id: int) -> int:
    return id


@PICKLED.batch_loader("pickled_rows:{id}")
async def pickled_rows(ids: list[int]) -> dict[int, int]:
    return {each: each for each in ids}


class Till:
    """An object with a cached method, which is equal to another one with the same number."""

    def __init__(self, number: int) -> None:
        self.number = number

    @PICKLED.cached("pickled_method:{self.number}:{id}")
    async def price(self, id: int) -> int:
        return id * self.number

    @staticmethod
    @PICKLED.loader("pickled_static:{id}")
    def rate(id: int) -> int:
        return id


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cached_functions_are_pickled_by_name_as_others(protocol: int) -> None:
    """As processes need it that are not forked, whose arguments are pickled."""
    for function in (pickled, pickled_rows, Till.price, Till.rate):
        assert pickle.loads(pickle.dumps(function, protocol)) is function  # noqa: S301
    bound = pickle.loads(pickle.dumps(Till(3).price, protocol))  # noqa: S301
    assert asyncio.run(bound(7)) == 21
    local = PICKLED.cached("pickled_local:{number}")(lambda number: number)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local, protocol)


def test_cached_functions_are_copied_as_others() -> None:
    """A function is its own copy; a method of an object that is copied deeply belongs to the copy."""
    for function in (pickled, pickled_rows, Till.price):
        assert copy.copy(function) is copy.deepcopy(function) is function
    till = Till(2)
    prices: dict[str, Any] = copy.deepcopy({"till": till, "price": till.price})
    till.number = 3
    assert prices["till"] is not till
    assert prices["price"]._receiver == (prices["till"],)  # noqa: SLF001
    assert copy.copy(till.price)._receiver == (till,)  # noqa: SLF001
