"""Transactions beyond what Redis has to answer for: tags, keys that workers load, and every command within one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.redis_wire import Raw

if TYPE_CHECKING:
    import globalcache

ABORTED = b"*-1\r\n"


@pytest.fixture
def port(server: globalcache.Server) -> int:
    return int(server.address.rsplit(":", 1)[1])


def test_every_command_ends_within_a_transaction(port: int) -> None:
    """A command that took a lock which the transaction holds would never answer."""
    with Raw(port) as raw:
        listed = raw.ask(b"COMMAND", b"LIST").split(b"\r\n")[2::2]
        assert b"randomkey" in listed
        for name in [*listed, b"client tracking on", b"client list", b"memory stats", b"memory usage k", b"info all"]:
            if name in {b"quit", b"reset", b"exec", b"discard", b"multi", b"watch"}:
                continue
            for count in range(4) if b" " not in name else [0]:
                raw.ask(b"MULTI")
                raw.ask(*name.split(), *[b"1"] * count)
                raw.ask(b"DBSIZE")
                answer = raw.ask(b"EXEC")
                assert answer.startswith((b"*2\r\n", b"-EXECABORT")), (name, count, answer)


@pytest.mark.parametrize(
    "change",
    [
        [b"CACHE.INVALIDATE", b"TAGS", b"1", b"shop"],
        [b"CACHE.INVALIDATE", b"KEYS", b"1", b"k"],
        [b"FLUSHALL"],
        [b"FLUSHDB"],
    ],
)
def test_what_invalidates_a_watched_key_ends_the_transaction(port: int, change: list[bytes]) -> None:
    with Raw(port) as one, Raw(port) as two:
        one.ask(b"CACHE.SET", b"k", b"1", b"TAGS", b"1", b"shop")
        assert one.ask(b"WATCH", b"k") == b"+OK\r\n"
        two.ask(*change)
        one.ask(b"MULTI")
        one.ask(b"SET", b"k", b"2")
        assert one.ask(b"EXEC") == ABORTED
        assert one.ask(b"GET", b"k") == b"$-1\r\n"


def test_a_loaded_key_is_watched_as_it_was_loaded(port: int) -> None:
    with Raw(port, 3) as worker, Raw(port) as one, Raw(port) as two:
        assert worker.ask(b"CACHE.LOADER", b"watched:*") == b"+OK\r\n"
        for other_writes in (False, True):
            key = b"watched:%d" % other_writes
            one.ask(b"WATCH", key)
            one.send(b"GET", key)
            load = worker.reply()
            assert key in load
            token = load.split(b"\r\n:")[1].split(b"\r\n")[0]
            assert worker.ask(b"CACHE.FILL", key, token, b"1").startswith(b":")
            assert one.reply() == b"$1\r\n1\r\n"
            if other_writes:
                two.ask(b"SET", key, b"5")
            one.ask(b"MULTI")
            one.ask(b"INCR", key)
            assert one.ask(b"EXEC") == (ABORTED if other_writes else b"*1\r\n:2\r\n")
        two.ask(b"CACHE.FORGET", b"watched:*")


def test_a_transaction_loads_what_it_needs_first(port: int) -> None:
    with Raw(port, 3) as worker, Raw(port) as one:
        worker.ask(b"CACHE.LOADER", b"needed:*")
        one.ask(b"MULTI")
        one.ask(b"INCR", b"needed:1")
        one.send(b"EXEC")
        token = worker.reply().split(b"\r\n:")[1].split(b"\r\n")[0]
        worker.ask(b"CACHE.FILL", b"needed:1", token, b"41")
        assert one.reply() == b"*1\r\n:42\r\n"
        one.ask(b"CACHE.FORGET", b"needed:*")


def test_a_copy_keeps_flags_expiry_and_the_clock_of_its_tags(port: int) -> None:
    with Raw(port) as raw:
        raw.ask(b"CACHE.SET", b"a", b"v", b"FLAGS", b"7", b"TTL", b"100000", b"TAGS", b"1", b"shop")
        assert raw.ask(b"COPY", b"a", b"b") == b":1\r\n"
        assert raw.ask(b"RENAME", b"a", b"c") == b"+OK\r\n"
        for key in (b"b", b"c"):
            assert raw.ask(b"CACHE.GET", key) == b"*2\r\n$1\r\nv\r\n:7\r\n"
            assert raw.ask(b"TTL", key) == b":100\r\n"
        raw.ask(b"CACHE.INVALIDATE", b"TAGS", b"1", b"shop")
        assert raw.ask(b"EXISTS", b"b", b"c") == b":0\r\n"


def test_values_are_compared_as_valkey_does(port: int) -> None:
    with Raw(port) as raw:
        assert raw.ask(b"SET", b"k", b"1", b"IFEQ", b"1") == b"$-1\r\n"
        raw.ask(b"SET", b"k", b"1")
        assert raw.ask(b"SET", b"k", b"2", b"IFEQ", b"1", b"EX", b"100") == b"+OK\r\n"
        assert raw.ask(b"SET", b"k", b"3", b"IFEQ", b"1", b"GET") == b"$1\r\n2\r\n"
        assert raw.ask(b"SET", b"k", b"3", b"IFEQ", b"1", b"NX") == b"-ERR syntax error\r\n"
        assert raw.ask(b"TTL", b"k") == b":100\r\n"
        assert raw.ask(b"DELIFEQ", b"k", b"1") == b":0\r\n"
        assert raw.ask(b"DELIFEQ", b"k", b"2") == b":1\r\n"
        assert raw.ask(b"DELIFEQ", b"k", b"2") == b":0\r\n"
