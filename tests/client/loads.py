"""Loads as tests make them: loads that fail or are counted, and what callers get of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import Cache, DeadlineError
from globalcache.client.flights import Flight
from globalcache.client.guard import Guard
from globalcache.contrib.testing import CacheForTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from globalcache.client.single_flight import SingleFlight


GUARD = Guard("a load")


def load_once(single_flight: SingleFlight, name: bytes, load: Callable[[], Any], wait: float = 20) -> Any:
    """Load one key without a lease, unless another thread does; return what came of it."""

    def run(names: Iterable[bytes], outcomes: dict[bytes, Any]) -> None:
        outcomes.update({name: load() for name in names})

    end = time.monotonic() + wait
    while True:
        mine, others = single_flight.do([name], GUARD, run, end)
        flight = others.get(name, mine)
        if not flight.is_over:
            raise DeadlineError("too late")
        if (outcome := flight.outcome(name)) is not None:
            return outcome


class Outside(BaseException):
    """What gevent, a signal handler or a native module raises."""


def count_waits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows with each thread that waits for a load of its process."""
    waits, wait = list[None](), Flight.wait

    def note(flight: Flight, end: float) -> None:
        waits.append(None)
        wait(flight, end)

    monkeypatch.setattr(Flight, "wait", note)
    return waits


class Sick(Exception):  # noqa: N818 - as applications name it
    """The database is away."""


class Forbidden(Exception):  # noqa: N818
    """The caller may not see this."""


def processes(count: int, kind: Any = Cache, **options: Any) -> tuple[CacheForTests, list[Cache]]:
    """Return the cache that has the clock, and caches that stand for processes on its store."""
    world = CacheForTests()
    made = [kind("memory://", namespace="test", **options) for _ in range(count)]
    world.stand_in_for(*made)
    return world, made


def failing(error: BaseException, ran: list[Any] | None = None) -> Callable[[], Any]:
    def load() -> Any:
        if ran is not None:
            ran.append(error)
        raise error

    return load


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test looks at it
        call()
    return caught.value


def readers(cache: Any) -> Any:
    """Return a function whose exception concerns its caller alone: a guest may not read what ada may."""

    def page(user: str) -> str:
        if user != "ada":
            raise Forbidden(user)
        return f"page for {user}"

    def of(user: str, begin: Callable[[], object]) -> Any:
        load = lambda: (begin(), page(user))[1]  # noqa: E731
        return cache.get_or_load("page", load, guard=Guard("page", (), (Forbidden,)))

    return of
