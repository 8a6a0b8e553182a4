"""Loads as they are at the moment of a call."""

from __future__ import annotations

import functools
from typing import Any

from globalcache.client.bound import bound

region = "eu"
count = 0


class Query:
    """What stands for an object with a state of its own."""

    def run(self) -> str:
        return region


def by_region() -> str:
    return region


def counted() -> int:
    global count  # noqa: PLW0603 - this is what is tried
    count += 1
    return count


def test_variables_are_those_of_the_call(monkeypatch: Any) -> None:
    number = 1

    def load(factor: int = 10, *, plus: int = 0) -> tuple[int, str]:
        return number * factor + plus, region

    kept = [bound(load), bound(functools.partial(load, 100, plus=5)), bound(lambda: (number, region))]
    number = 2
    monkeypatch.setattr("tests.client.test_bound.region", "us")
    assert [one() for one in kept] == [(10, "eu"), (105, "eu"), (1, "eu")]
    assert load() == (20, "us")


def test_what_a_function_assigns_is_not_copied() -> None:
    calls = 0

    def load() -> int:
        nonlocal calls
        calls += 1

        def inner() -> None:
            nonlocal calls
            calls += 10

        inner()
        return calls

    assert (bound(load)(), calls) == (11, 11)
    before = count
    assert bound(counted)() == before + 1 == count


def test_a_variable_without_a_value_is_given_one_later() -> None:
    def load() -> int:
        return later

    kept = bound(load)
    later = 3
    assert kept() == 3


def test_a_function_is_copied_with_its_attributes_and_nothing_else() -> None:
    by_region.mark = 1  # type: ignore[attr-defined]
    copy = bound(by_region)
    assert (copy.__name__, copy.__qualname__, copy.__module__, copy.mark) == ("by_region", "by_region", __name__, 1)
    assert copy is not by_region
    query = Query()
    assert bound(query.run) == query.run
    assert bound(len) is len
    assert bound(query) is query
