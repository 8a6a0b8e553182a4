"""The breaker: a function that fails for one key after another is tried seldom, and runs again when it works."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from globalcache import LoadError
from globalcache.client.circuit_breaker import FAILURES, CircuitBreaker
from tests.client.loads import (
    Sick,
    failing,
    processes,
    raised,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


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


def test_a_sick_database_is_tried_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand keys of one function, each asked once: five tries, then one a second, and one line in the log."""
    world, (cache,) = processes(1)
    ran: list[float] = []

    @cache.cached("row:{id}", ttl="1m")
    def row(id: int) -> int:
        ran.append(world.clock())
        raise Sick(id)

    begun = world.clock()
    for number in range(1000):
        error = raised(lambda number=number: row(number))  # type: ignore[misc]
        assert isinstance(error, Sick | LoadError)
        if isinstance(error, LoadError):
            assert (error.key, error.cause_class) == (f"row:{number}", f"{Sick.__module__}.Sick")
        world.clock.advance(0.01)
    assert len(ran) == 5 + 9
    assert max(sum(at <= other < at + 1 for other in ran) for at in ran if at > begun + 0.1) <= 2
    assert sum("once a second" in record.getMessage() for record in caplog.records) == 1


def test_a_breaker_closes_when_a_try_succeeds() -> None:
    world, (cache,) = processes(1)
    sick = True

    @cache.cached("row:{id}", ttl="1m")
    def row(id: int) -> int:
        if sick:
            raise Sick
        return id

    for number in range(10):
        raised(lambda number=number: row(number))  # type: ignore[misc]
    sick = False
    assert isinstance(raised(lambda: row(20)), LoadError)
    world.clock.advance(1)
    assert [row(number) for number in range(20)] == list(range(20))


def test_a_breaker_is_of_one_function() -> None:
    _, (cache,) = processes(1)
    for number in range(10):
        raised(lambda number=number: cache.get_or_load(f"k{number}", failing(Sick())))  # type: ignore[misc]
    assert cache.get_or_load("other", lambda: 1) == 1


def test_any_callable_has_a_breaker() -> None:
    """Mocks have every attribute, methods and partial functions are new ones each time, and objects have no code."""
    _, (cache,) = processes(1)

    class Repository:
        def load(self, _: int = 0) -> Any:
            raise Sick

        def __call__(self) -> Any:
            raise Sick

    mock = Mock(side_effect=Sick())
    makers: list[Callable[[], Any]] = [
        lambda: mock,
        lambda: Repository().load,
        lambda: partial(partial(Repository().load, 1)),
        Repository,
    ]
    for kind, make in enumerate(makers):
        tried = [raised(partial(cache.get_or_load, f"{kind}:{number}", make())) for number in range(8)]
        assert isinstance(tried[-1], LoadError)


def test_what_cannot_be_stored_opens_no_breaker() -> None:
    _, (cache,) = processes(1)

    def load() -> Any:
        return object()

    for number in range(10):
        error = raised(lambda number=number: cache.get_or_load(f"k{number}", load))  # type: ignore[misc]
        assert isinstance(error, TypeError)


def test_a_sick_database_without_a_server() -> None:
    """The process loads by itself while the server is away: a key that failed rests for 100 ms."""
    world, (cache,) = processes(1)
    ran: list[Any] = []
    with world.faults.dead():
        error = Sick()
        for _ in range(5):
            assert raised(lambda: cache.get_or_load("k", failing(error, ran))) is error
        assert len(ran) == 1
        world.clock.advance(0.101)
        assert [cache.get_or_load("k", lambda: 1) for _ in range(2)] == [1, 1]
        for number in range(20):
            raised(lambda number=number: cache.get_or_load(f"k{number}", failing(Sick(), ran)))  # type: ignore[misc]
        assert len(ran) == 5
