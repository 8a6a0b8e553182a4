"""Exceptions that say that there is no row, by `absent`: every process raises the class that its reader names."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import NoResultFound

import globalcache
from globalcache import Cache, ConfigError, LoadError
from tests.client.loads import (
    processes,
    raised,
)


class NoUser(Exception):  # noqa: N818
    """There is no such user."""


class NoOrder(Exception):  # noqa: N818
    """There is no such order."""


class NoRow(Exception):  # noqa: N818
    """There is no such row, with a constructor of its own."""

    def __init__(self, table: str, key: str) -> None:
        super().__init__(f"no {table} at {key}")


class HTTPException(Exception):  # noqa: N818
    """An answer to a request: made from one text, it would have that as its status."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status


def test_each_class_of_absent_is_raised_in_every_process() -> None:
    world, (a, b) = processes(2)
    ran: list[int] = []

    def row(id: int) -> int:
        ran.append(id)
        raise (NoUser if id < 10 else NoOrder)(f"row {id}")

    here = a.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)
    there = b.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)
    for number, kind in ((1, NoUser), (20, NoOrder)):
        first, again, other = (raised(partial(call, number)) for call in (here, here, there))
        assert (type(first), str(first)) == (kind, f"row {number}")
        assert (type(again), str(again)) == (type(other), str(other)) == (kind, f"row:{number}")
    assert len(ran) == 2
    world.clock.advance(11)
    assert isinstance(raised(lambda: there(1)), NoUser)
    assert len(ran) == 3


def test_a_subclass_is_stored_as_the_class_that_was_named() -> None:
    _, (cache,) = processes(1)

    class NoUserToday(NoUser):
        """One that readers do not know of."""

    @cache.cached("user:{id}", ttl="1m", absent=[NoOrder, NoUser])
    def user(id: int) -> int:
        raise NoUserToday(id)

    assert isinstance(raised(lambda: user(1)), NoUserToday)
    assert type(raised(lambda: user(1))) is NoUser


def test_a_class_with_its_own_constructor() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent={NoRow: lambda key: NoRow("product", key)})
    def row(id: int) -> int:
        raise NoRow("product", f"id {id}")

    assert [str(raised(lambda: row(1))) for _ in range(2)] == ["no product at id 1", "no product at row:1"]


def test_absent_takes_constructors_that_take_anything() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent=[NoResultFound])
    def row(id: int) -> int:
        raise NoResultFound(id)

    for _ in range(2):
        assert isinstance(raised(lambda: row(1)), NoResultFound)


@pytest.mark.parametrize("kind", [NoRow, HTTPException, UnicodeDecodeError, ExceptionGroup])
def test_classes_that_cannot_be_made_are_refused(kind: Any) -> None:
    cache = Cache("memory://")

    def row(id: int) -> int:
        return id

    with pytest.raises(ConfigError, match=f"absent: {kind.__name__} has a constructor of its own; .*lambda key: "):
        cache.cached("row:{id}", absent=[kind])(row)
    with pytest.raises(ConfigError, match="pass_through: 7 is no class of exceptions"):
        cache.cached("row:{id}", pass_through=[7])(row)  # type: ignore[list-item]


def test_a_class_that_the_reader_does_not_name() -> None:
    _, (a, b) = processes(2)

    def row(id: int) -> int:
        raise NoUser(id)

    raised(lambda: a.cached("row:{id}", ttl="1m", absent=[NoUser])(row)(1))
    error = raised(lambda: b.cached("row:{id}", ttl="1m", absent=[NoOrder])(row)(1))
    assert isinstance(error, LoadError)
    assert (error.key, error.cause_class) == ("row:1", f"{__name__}.NoUser")
    assert b.get_or_load("row:1", lambda: 1) is None
    assert b.get_or_load_many(["row:1"], lambda _: {}) == {"row:1": None}


def test_an_absence_without_a_name_raises_the_first_class() -> None:
    _, (cache,) = processes(1)

    @cache.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])
    def row(id: int) -> int:  # noqa: ARG001
        return None  # type: ignore[return-value]  # as an absence that another client wrote

    @cache.cached("maybe:{id}", ttl="1m", absent=[NoUser, NoOrder])
    def maybe(id: int) -> int | None:  # noqa: ARG001
        return None

    assert type(raised(lambda: row(1))) is type(raised(lambda: row(1))) is NoUser
    assert (maybe(1), maybe(1)) == (None, None)


def test_a_real_server_keeps_the_name_of_an_absence(server: globalcache.Server) -> None:
    with Cache(server.url) as a, Cache(server.url) as b:

        def row(id: int) -> int:
            raise NoOrder(id)

        raised(lambda: a.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)(1))
        error = raised(lambda: b.cached("row:{id}", ttl="1m", absent=[NoUser, NoOrder])(row)(1))
        assert (type(error), str(error)) == (NoOrder, "row:1")
        assert b.get("row:1") is None
        entry = b.get_entry("row:1")
        assert entry is not None
        assert (entry.value, entry.absent) == (None, True)
