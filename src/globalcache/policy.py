"""For how long a value is kept, when it is refreshed, and what stands in for it: the options of every cached function.

Times go from where they are given to the words of CACHE.FILL and CACHE.SET here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from msgspec.structs import force_setattr

from globalcache.errors import ConfigError, written
from globalcache.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

Duration: TypeAlias = "float | str | timedelta"

# How long "there is no such row" is remembered unless told otherwise, in seconds.
_NEGATIVE = 10.0
# Tags of one value, besides those of its namespaces.
_MOST_TAGS = 16
# The shortest and the longest time that a server takes, in seconds: 1 ms and 35,000 years.
_SHORTEST, _LONGEST = 0.001, 2**50 / 1000


def seconds(name: str, duration: Duration, *, least: float = 0.0, most: float = math.inf) -> float:
    """Read a duration. One that is longer than a server can keep is shortened to that.

    Raises ConfigError that names the option for text that is no duration, for less than `least`, for more than `most`,
    and for a time above 0 and below 1 ms, which no server can measure.
    """
    try:
        value = parse_duration(duration)
    except ValueError as error:
        raise ConfigError(f"{name}: {written(duration)}: {error}") from None
    if 0 < value < _SHORTEST:
        least = _SHORTEST
    if not value >= least:
        raise ConfigError(
            f"{name}: {written(duration)}: should be at least {least:g} s" + " (1 ms)" * (least == _SHORTEST)
        )
    if value > most:
        raise ConfigError(f"{name}: {written(duration)}: should be at most {most:g} s")
    return min(value, _LONGEST)


def _texts(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, Iterable) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name}: {written(given)}: should be a text or several")
    return tuple(texts)


def millis(value: float) -> int:
    """Return whole milliseconds, at least one."""
    return max(1, round(value * 1000))


class Policy(msgspec.Struct, frozen=True):
    """How a value is kept. Durations are seconds, text such as "5m", or timedeltas; all are seconds once they are here.

    ttl             after it the value is gone; None: it stays
    refresh_after   after it the value is stale: still served, and refreshed in the background
    stale_if_error  for how long beyond ttl the value stands in when a load fails
    negative_ttl    how long "there is no such row" is remembered; None: ttl, at most 10 s; 0: it is not
    tags            what the value can be invalidated by, besides its key
    jitter          share of ttl by which it may end earlier after a load, so that not all values end together
    """

    ttl: Duration | None = None
    refresh_after: Duration | None = None
    stale_if_error: Duration | None = None
    negative_ttl: Duration | None = None
    tags: Sequence[str] = ()
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("ttl", 0.001), ("refresh_after", 0.001), ("stale_if_error", 0), ("negative_ttl", 0)):
            given = getattr(self, name)
            if given is not None:
                force_setattr(self, name, seconds(name, given, least=least))
        if isinstance(self.ttl, float) and isinstance(self.refresh_after, float) and self.refresh_after >= self.ttl:
            raise ConfigError(f"refresh_after: {self.refresh_after:g} s: should be less than ttl, {self.ttl:g} s")
        if self.stale_if_error and self.ttl is None:
            raise ConfigError("stale_if_error: counts from the end of ttl, and there is no ttl")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter: {self.jitter!r}: should be at least 0 and less than 1")
        if self.tags != ():
            force_setattr(self, "tags", _texts("tags", self.tags))
            if len(self.tags) > _MOST_TAGS:
                raise ConfigError(f"tags: {len(self.tags)}: should be at most {_MOST_TAGS}")

    def words(  # noqa: PLR0913 - a fact each
        self,
        *,
        draw: float = 0.0,
        absent: bool = False,
        least_absence: int = 0,
        cost: float | None = None,
        flags: int = 0,
        tags: Sequence[bytes] = (),
    ) -> list[bytes]:
        """Return the options of CACHE.FILL or CACHE.SET.

        `draw` is a random number between 0 and 1 for a load, and 0 for what is set; `cost` is how long the load took in
        seconds; `tags` are the texts that the templates in `self.tags` gave. An absence that is not to be kept is kept
        for `least_absence` ms nevertheless.
        """
        factor = 1 - self.jitter * draw
        ttl: Any = self.ttl
        refresh: Any = self.refresh_after
        grace: Any = self.stale_if_error
        words: list[bytes] = []
        if absent:
            # A negative_ttl of 0 answers those that wait for the load, and nothing is kept.
            kept = millis(self.absent_for * factor) if self.absent_for else least_absence
            words += b"ABSENT", b"TTL", b"%d" % kept
        else:
            if ttl is not None:
                words += b"TTL", b"%d" % millis(ttl * factor)
            if refresh is not None:
                words += b"REFRESH", b"%d" % millis(refresh * factor)
            if grace:
                words += b"GRACE", b"%d" % millis(grace)
        if cost is not None:
            words += b"COST", b"%d" % round(cost * 1000)
        if flags:
            words += b"FLAGS", b"%d" % flags
        if tags:
            words += b"TAGS", b"%d" % len(tags), *tags
        return words

    @property
    def absent_for(self) -> float:
        """How long "there is no such row" is remembered, in seconds."""
        ttl, negative = (cast("float | None", value) for value in (self.ttl, self.negative_ttl))
        return negative if negative is not None else min(_NEGATIVE, ttl or _NEGATIVE)
