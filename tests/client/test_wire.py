"""Words of commands: nothing but bytes is given to hiredis, whatever a user has given."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import globalcache
from globalcache.client.wire import pack, word_of

SOURCES = Path(globalcache.__file__).parent


class Broken(int):
    """A number whose text cannot be made, as when a signal handler raises meanwhile."""

    def __repr__(self) -> str:
        raise OSError


def test_a_type_checker_refuses_to_pack_what_is_not_bytes() -> None:
    """`make lint` fails where one of these comments is not needed any more."""
    if TYPE_CHECKING:
        pack((b"CACHE.FETCH", 1))  # type: ignore[arg-type]
        pack((b"GET", "key"))  # type: ignore[arg-type]
    assert pack((b"GET", b"key")) == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"


def test_hiredis_packs_in_one_place() -> None:
    """Whoever calls it elsewhere would not be held to bytes by the type of `pack`."""
    users = [
        path.name
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.alias)
        and "pack_command" in {getattr(node, "attr", None), getattr(node, "name", None)}
    ]
    assert users == ["wire.py"]


def test_a_number_without_text_is_an_exception_and_no_crash() -> None:
    """Hiredis would read the text that it did not get."""
    with globalcache.Cache("memory://") as cache, pytest.raises(OSError):  # noqa: PT011 - it has no text
        cache.command("SET", "key", Broken(1))


@pytest.mark.parametrize(
    ("given", "sent"), [("é", "é".encode()), (b"\xff", b"\xff"), (-7, b"-7"), (1.5, b"1.5"), (10**25, b"1" + b"0" * 25)]
)
def test_words_of_users_are_sent_as_they_are_written(given: str | bytes | float, sent: bytes) -> None:
    """All kinds that a command may be given."""
    assert word_of(given) == sent


def test_a_word_that_is_none_is_named() -> None:
    """None was forgotten rather than meant."""
    with globalcache.Cache("memory://") as cache, pytest.raises(TypeError, match="text, bytes or a number, not None"):
        cache.command("GET", None)  # type: ignore[arg-type]
