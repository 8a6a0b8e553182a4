"""Words of commands: nothing but bytes is given to hiredis, and so many words are sent before replies are read."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.client import connection, multiplexed_connection
from globalcache.client.wire import MOST_BYTES, MOST_KEYS, batches, key_batches, pack, word_of

if TYPE_CHECKING:
    from tests.client.faces import Face


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


def test_batches_hold_so_many_keys_and_bytes() -> None:
    """Both sides would otherwise write, and neither read."""
    keys = [b"%d" % number for number in range(2 * MOST_KEYS + 1)]
    assert [len(part) for part in key_batches(keys)] == [MOST_KEYS, MOST_KEYS, 1]
    assert [key for part in key_batches(keys) for key in part] == keys
    long = [b"x" * (MOST_BYTES // 2)] * 5
    assert [len(part) for part in key_batches(long)] == [2, 2, 1]
    assert [len(part) for part in key_batches([b"x" * MOST_BYTES * 2] * 2)] == [1, 1]
    commands = [(b"SET", key, b"v") for key in keys]
    assert [len(part) for part in batches(commands)] == [MOST_KEYS, MOST_KEYS, 1]
    assert list(batches([])) == []


def test_bulk_calls_read_between_their_batches(small: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent at once and not yet answered is one batch, whatever the call."""
    keys = [f"key{number}" for number in range(2 * MOST_KEYS + 10)]
    longest = most_at_once(small, monkeypatch)
    assert small("set_many", dict.fromkeys(keys, 1)) == len(keys)
    assert small("get_many", keys) == dict.fromkeys(keys, 1)
    assert small("delete_many", keys[:-5]) == len(keys) - 5
    assert small("invalidate", *keys) == 5
    loaded = small("get_or_load_many", keys, lambda keys: dict.fromkeys(keys, 2))
    assert loaded == dict.fromkeys(keys, 2)
    assert 0 < longest[0] <= MOST_KEYS * 200


def most_at_once(face: Face, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many bytes were sent at once at most."""
    longest = [0]

    def note(data: bytes) -> None:
        longest[0] = max(longest[0], len(data))

    if face.runner is None:
        ask = connection.Connection.ask

        def asking(connection: Any, request: bytes) -> Any:
            note(request)
            return ask(connection, request)

        monkeypatch.setattr(connection.Connection, "ask", asking)
    else:
        flush = multiplexed_connection.MultiplexedConnection._flush  # noqa: SLF001

        def flushing(link: Any) -> None:
            note(b"".join(link._output))  # noqa: SLF001
            flush(link)

        monkeypatch.setattr(multiplexed_connection.MultiplexedConnection, "_flush", flushing)
    return longest
