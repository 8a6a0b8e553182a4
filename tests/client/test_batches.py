"""What batch loaders take and return: items that are equal in Python and have keys of their own, rows by key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from globalcache.client.batches import apart, check_apart, rows_of
from tests.client.loads import (
    processes,
)


def test_equal_items_come_into_groups_of_their_own() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    there = noon.astimezone(timezone(timedelta(hours=2)))
    cases: list[tuple[list[Any], list[list[int]]]] = [
        ([], [[]]),
        ([1, 2, "1"], [[0, 1, 2]]),
        ([1, True, 2, 1.0], [[0, 2], [1], [3]]),
        ([noon, there], [[0], [1]]),
        ([("a", 0), ("a", False)], [[0], [1]]),
    ]
    for items, places in cases:
        groups = apart(items)
        assert [list(group.values()) for group in groups] == places
        assert all(items[place] is item for group in groups for item, place in group.items())


def test_rows_of_equal_items_are_refused() -> None:
    """A dict has one row for 1 and True; stored or returned for both, it would be wrong for one of them."""
    with pytest.raises(TypeError, match="flag: 1, True are equal in Python"):
        check_apart("flag", [1, 2, True])
    check_apart("flag", [1, 2, "1"])
    found: dict[Any, str] = {1: "one", 2: "two", "1": "text"}
    assert rows_of("flag", [1, 2, "1"], found) == ["one", "two", "text"]


@pytest.mark.parametrize(
    "form", [list, lambda keys: [(key, 1) for key in keys], lambda keys: {key[:1]: 1 for key in keys}]
)
def test_a_batch_of_the_wrong_shape_is_no_lack_of_rows(form: Any) -> None:
    _, (cache, other) = processes(2)
    with pytest.raises(TypeError, match=r"\.<lambda> returned (a list; it should return a dict|keys that it was not)"):
        cache.get_or_load_many(["ka", "kb"], lambda keys: form(keys))  # noqa: PLW0108 - it is named in the message
    assert other.get_or_load_many(["ka", "kb"], lambda keys: dict.fromkeys(keys, 1)) == {"ka": 1, "kb": 1}
