"""COMMAND beside redis-server: what clients, proxies and generators of clients read of each command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.wire.redis_wire import Raw, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import globalcache


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def ports(server: globalcache.Server, redis_port: int) -> tuple[int, int]:
    return int(server.address.rsplit(":", 1)[1]), redis_port


def described(port: int, *words: str) -> Any:
    """Ask COMMAND as RESP2 has it: nested lists."""
    with redis.Redis(port=port, protocol=2, decode_responses=True) as client:
        client.set_response_callback("COMMAND", lambda reply, **_: reply)
        client.set_response_callback("COMMAND INFO", lambda reply, **_: reply)
        return client.execute_command("COMMAND", *words)


def test_commands_are_described_as_by_redis(ports: tuple[int, int]) -> None:
    ours, theirs = ({row[0]: row for row in described(port)} for port in ports)
    shared = set(ours) & set(theirs)
    assert len(shared) > 70
    for name in sorted(shared):
        assert ours[name][:9] == theirs[name][:9], name
        subs = {row[0]: row for row in theirs[name][9]}
        for row in ours[name][9]:
            # redis-server 7.0 has none; later ones do.
            if row[0] != "client|setinfo":
                assert row == subs[row[0]]


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize(
    "words",
    [
        [b"INFO", b"get", b"set", b"eval", b"copy", b"nosuch", b"client|id", b"client|nosuch"],
        [b"GETKEYS", b"GET", b"k"],
        [b"GETKEYS", b"MSET", b"a", b"1", b"b", b"2"],
        [b"GETKEYS", b"EVAL", b"return 1", b"2", b"a", b"b", b"c"],
        [b"GETKEYS", b"EVAL", b"return 1", b"0"],
        [b"GETKEYS", b"EVAL", b"return 1", b"3", b"a"],
        [b"GETKEYS", b"EVALSHA", b"x", b"-1", b"a"],
        [b"GETKEYS", b"MEMORY", b"USAGE", b"k"],
        [b"GETKEYS", b"MEMORY", b"STATS"],
        [b"GETKEYS", b"OBJECT", b"ENCODING", b"k"],
        [b"GETKEYS", b"PING"],
        [b"GETKEYS", b"GET"],
        [b"GETKEYS", b"NOSUCH", b"k"],
        [b"GETKEYS"],
        [b"GETKEYSANDFLAGS", b"SET", b"k", b"v"],
        [b"GETKEYSANDFLAGS", b"SET", b"k", b"v", b"GET"],
        [b"GETKEYSANDFLAGS", b"RENAME", b"a", b"b"],
        [b"GETKEYSANDFLAGS", b"EVAL", b"return 1", b"1", b"k"],
        [b"GETKEYSANDFLAGS", b"MSETNX", b"a", b"1", b"b", b"2"],
        [b"GETKEYSANDFLAGS"],
        [b"LIST", b"FILTERBY", b"PATTERN", b"xget*"],
        [b"LIST", b"FILTERBY", b"PATTERN", b"getra*"],
        [b"LIST", b"FILTERBY", b"MODULE", b"x"],
        [b"LIST", b"FILTERBY", b"FOO", b"x"],
        [b"LIST", b"FILTERBY", b"PATTERN"],
    ],
)
def test_questions_are_answered_as_by_redis(ports: tuple[int, int], resp: int, words: list[bytes]) -> None:
    answers = []
    for port in ports:
        with Raw(port, resp) as raw:
            answers.append(raw.ask(b"COMMAND", *words))
    assert answers[0] == answers[1]


def test_lists_are_filtered_as_by_redis(ports: tuple[int, int]) -> None:
    known = [set(described(port, "LIST")) for port in ports]
    for words in (
        ["ACLCAT", "scripting"],
        ["ACLCAT", "admin"],
        ["PATTERN", "client|*"],
        ["PATTERN", "s*"],
        ["ACLCAT", "x"],
    ):
        ours, theirs = (set(described(port, "LIST", "FILTERBY", *words)) for port in ports)
        assert ours & known[1] == theirs & known[0], words
