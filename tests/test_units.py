"""Sizes and times as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from globalcache.units import format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("256MiB", 1 << 28), ("256mb", 1 << 28), ("1g", 1 << 30), ("64 k", 1 << 16), ("10", 10), (7, 7)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("3", 3.0),
        (2, 2.0),
        (timedelta(minutes=1), 60.0),
    ],
)
def test_durations(text: str | float | timedelta, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1x", "-1s", "1 2", "m", "\u0661s"])
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="should look like"):
        parse_size(text)
    with pytest.raises(ValueError, match="should look like"):
        parse_duration(text)


def test_sizes_are_written_in_the_largest_unit_that_fits() -> None:
    assert [format_size(size) for size in (1 << 28, 3 << 30, 1 << 10, 1000, 0)] == [
        "256MiB",
        "3GiB",
        "1KiB",
        "1000",
        "0",
    ]
