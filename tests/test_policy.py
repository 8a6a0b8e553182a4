"""Policies: durations as people write them, and the words that the server is told."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

from globalcache.errors import ConfigError
from globalcache.policy import Policy, seconds


def text(words: list[bytes]) -> str:
    return b" ".join(words).decode()


def test_durations_become_seconds() -> None:
    policy = Policy(ttl="5m", refresh_after=60, stale_if_error=timedelta(hours=1), negative_ttl="500ms", tags="users")
    assert (policy.ttl, policy.refresh_after, policy.stale_if_error, policy.negative_ttl) == (300, 60, 3600, 0.5)
    assert policy.tags == ("users",)
    assert policy == Policy(ttl=300.0, refresh_after=60.0, stale_if_error=3600.0, negative_ttl=0.5, tags=["users"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ttl": 0}, "ttl: 0: should be at least 0.001 s"),
        ({"ttl": "soon"}, "ttl: 'soon': should look like"),
        ({"ttl": float("nan")}, "ttl: nan: should be"),
        ({"negative_ttl": -1}, "negative_ttl: -1: should be at least 0 s"),
        ({"ttl": 60, "refresh_after": "1m"}, "refresh_after: 60 s: should be less than ttl, 60 s"),
        ({"stale_if_error": "1h"}, "stale_if_error: counts from the end of ttl"),
        ({"ttl": 1, "jitter": 1}, "jitter: 1: should be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Policy(**options)


def test_words_for_the_server() -> None:
    policy = Policy(ttl="5m", refresh_after="1m", stale_if_error="1h")
    assert text(policy.words()) == "TTL 300000 REFRESH 60000 GRACE 3600000"
    assert text(policy.words(draw=0.5, cost=0.25, flags=3, tags=[b"a", b"b"])) == (
        "TTL 285000 REFRESH 57000 GRACE 3600000 COST 250 FLAGS 3 TAGS 2 a b"
    )
    assert text(Policy().words(draw=1)) == ""
    assert text(Policy(ttl=10, jitter=0).words(draw=1)) == "TTL 10000"


def test_how_long_absence_is_remembered() -> None:
    assert text(Policy(ttl="5m").words(absent=True)) == "ABSENT TTL 10000"
    assert text(Policy(ttl="5s").words(absent=True)) == "ABSENT TTL 5000"
    assert text(Policy().words(absent=True)) == "ABSENT TTL 10000"
    assert text(Policy(ttl="5m", negative_ttl="1m").words(absent=True, tags=[b"t"])) == "ABSENT TTL 60000 TAGS 1 t"
    assert text(Policy(negative_ttl=0).words(absent=True)) == "ABSENT TTL 0"


def test_times_beyond_what_a_server_takes_are_clamped_or_named() -> None:
    longest = 2**50 / 1000
    for endless in (timedelta.max, sys.maxsize, 10**400, float("inf"), "99999999999d"):
        assert seconds("ttl", endless) == longest
    assert Policy(ttl=10**400).words()[1] == b"%d" % 2**50
    assert seconds("wait", 0) == 0
    for short in (0.0004, "0.5ms", timedelta(microseconds=999)):
        with pytest.raises(ConfigError, match=r"wait: .*: should be at least 0.001 s \(1 ms\)"):
            seconds("wait", short)
    for none in (float("nan"), -1, -(10**400), None, [1]):
        with pytest.raises(ConfigError, match="wait: "):
            seconds("wait", none)  # type: ignore[arg-type]
