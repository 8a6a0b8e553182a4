"""Loaders of an application, as a worker of either version runs them."""

from __future__ import annotations

import os

import globalcache
from tests.versions.rows import NoRow

cache = globalcache.AsyncCache(os.environ["GLOBALCACHE_URL"])
shop = cache.namespace("shop")


@cache.loader("served:{number}", ttl="10m", absent=[NoRow], negative_ttl=0, tags=["served"])
async def served(number: int) -> dict[str, int | str]:
    """Load a row; there is none below 0, and the database fails at 13."""
    if number < 0:
        raise NoRow(f"served:{number}")
    if number == 13:
        raise RuntimeError("no answer")
    if number == 14:
        return {"text": "x" * 100_000}
    return {"served": number, "process": os.getpid()}


@shop.batch_loader("batch:{number}", ttl="10m", tags=["batches"])
def batch(numbers: list[int]) -> dict[int, dict[str, int]]:
    """Load many rows; there is none below 0."""
    return {number: {"batch": number, "process": os.getpid()} for number in numbers if number >= 0}
