"""The breaker: what is sick is asked seldom, and is seen to be back."""

from __future__ import annotations

from itertools import pairwise

from globalcache.loaders.breaker import FAILURES, Breaker


def open_one() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.allows(0)
        assert not breaker.is_open
        breaker.failed("down", 0)
    assert breaker.is_open
    return breaker


def test_attempts_on_what_is_down_are_few() -> None:
    breaker = open_one()
    attempts = []
    for millis in range(60_000):
        if breaker.allows(millis / 1000):
            attempts.append(millis)
            breaker.failed("still down", millis / 1000)
    assert 60 <= len(attempts) <= 70
    assert all(len([a for a in attempts if second <= a < second + 1000]) <= 10 for second in range(0, 60_000, 500))
    assert max(after - before for before, after in pairwise(attempts)) <= 1000
    assert breaker.cause == "still down"


def test_one_success_closes_it() -> None:
    breaker = open_one()
    assert not breaker.allows(0.05)
    assert breaker.allows(0.2)
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.allows(0.2) for _ in range(100))
