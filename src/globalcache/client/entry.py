"""A value and what is known of it."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Entry(NamedTuple, Generic[T]):
    """A value and what is known of it. `age` and `ttl` in seconds; None where it is not known, or never ends."""

    value: T
    version: int
    age: float | None
    ttl: float | None
    stale: bool
    absent: bool
