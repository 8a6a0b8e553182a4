"""Sizes and times as people write them: `256MiB`, `1g`, `500ms`, `5m`."""

import math
import re
from datetime import timedelta

_SIZES = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "kib": 2**10, "m": 2**20, "mb": 2**20, "mib": 2**20} | {
    "g": 2**30,
    "gb": 2**30,
    "gib": 2**30,
}
_TIMES = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBERS = (int, float)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def _parse(text: str, units: dict[str, int] | dict[str, float], example: str) -> float:
    match = _AMOUNT.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(f"should look like {example}")
    return float(match[1]) * units[match[2]]


def parse_size(size: str | int) -> int:
    """Return bytes. `k`, `m` and `g` count in 1024, with or without `b` or `ib` behind them, as redis.conf has it."""
    return size if isinstance(size, int) else int(_parse(size, _SIZES, "256MiB, 64kb or 1g"))


def parse_duration(duration: str | float | timedelta) -> float:
    """Return seconds; a number without a unit is seconds already. Raises ValueError."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, _NUMBERS):
        try:
            return float(duration)
        except OverflowError:  # a whole number that is longer than any float
            return math.inf if duration > 0 else -math.inf
    if not isinstance(duration, str):
        raise ValueError("should be seconds, a timedelta, or text such as 5m")  # noqa: TRY004 - callers catch one class
    return _parse(duration, _TIMES, "30s, 500ms, 5m, 1h or 1d")


def format_size(size: int) -> str:
    """Write bytes in the largest unit that they fill exactly."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
