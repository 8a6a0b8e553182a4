"""How messages show what an application gave, whatever its classes do."""

from __future__ import annotations

from typing import Any

import pytest

from globalcache import Cache
from globalcache.client.guard import text_of
from globalcache.errors import written
from globalcache.keys import KeyTemplate


class Mute:
    """A value that has no text, as an object of a database whose session is closed."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


class Endless(Mute):
    """A value that shows itself within itself."""

    def __repr__(self) -> str:
        return f"[{self!r}]"


class Text(str):
    """A text whose `encode` is its own."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError


class Odd(Exception):  # noqa: N818 - as applications name it
    """An exception whose text is of a class of its own."""

    def __str__(self) -> str:
        return Text("odd")


class Interrupted(Mute):
    """A value during whose text the user interrupts the program."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


def test_a_value_is_shown_in_a_few_words() -> None:
    assert written(1.5) == "1.5"
    assert written("x" * 10**6) == "'" + "x" * 299 + "..."
    assert written(Mute()) == "<Mute, which has no text>"
    assert written(Endless()) == "<Endless, which has no text>"
    with pytest.raises(KeyboardInterrupt):
        written(Interrupted())
    assert text_of(Odd()) == "(its text could not be made)"


def test_a_mistake_is_named_whatever_a_value_shows() -> None:
    """Its own exception in place of the message would name neither the function nor what to do."""

    def user(id: int) -> int:
        return id

    template: Any = KeyTemplate("user:{id}", user)
    with Cache("memory://") as cache:

        @cache.batch_loader("row:{id:int}")
        def rows(ids: list[int]) -> dict[int, int]:
            return dict.fromkeys(ids, 1)

        given: Any = Mute()
        for call, line in (
            (lambda: rows(given), r"rows takes a list of items: \[<Mute, "),
            (lambda: cache.get(given), "a key is a str that is not empty, not <Mute, "),
            (lambda: cache.set("k", 1, tags=[given]), "tags: <tuple, which has no text>"),
            (lambda: cache.invalidate(tags=[given]), "a tag is a str that is not empty, not <Mute, "),
            (lambda: cache.set("k", 1, ttl=given), "ttl: <Mute, "),
            (lambda: cache.incr("k", given), "delta: <Mute, "),
            (lambda: template.key(("x" * 1000,), {}), r"id: 'x{299}\.\.\. is no int"),
        ):
            with pytest.raises((TypeError, ValueError), match=line):
                call()
