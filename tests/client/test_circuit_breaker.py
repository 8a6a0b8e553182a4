"""The breaker: a function that fails for one key after another is tried seldom, and runs again when it works."""

from __future__ import annotations

from globalcache.client.circuit_breaker import FAILURES, CircuitBreaker


def open_one() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for number in range(FAILURES):
        assert breaker.allows(0)
        assert not breaker.is_open
        assert breaker.failed(b"k%d" % number, "down", 0) == (number == FAILURES - 1)
    return breaker


def test_tries_while_it_is_open() -> None:
    """One a second, each of which fails, for a minute of readers that ask every millisecond."""
    breaker = open_one()
    tries = []
    for millis in range(60_000):
        if breaker.allows(millis / 1000):
            tries.append(millis)
            assert not breaker.failed(b"k", "still down", millis / 1000)
    assert tries == list(range(1000, 60_000, 1000))
    assert breaker.cause == "still down"


def test_one_success_closes_it() -> None:
    breaker = open_one()
    assert not breaker.allows(0.5)
    assert breaker.next_try_in(0.5) == 0.5
    assert breaker.allows(1)
    breaker.succeeded()
    assert not breaker.is_failing
    assert all(breaker.allows(1) for _ in range(100))


def test_one_bad_key_does_not_open_it() -> None:
    """A row that always fails is limited by its own hold-off; the other rows of the function are well."""
    breaker = CircuitBreaker()
    for _ in range(100):
        assert not breaker.failed(b"bad", "ValueError", 0)
    assert breaker.allows(0)
