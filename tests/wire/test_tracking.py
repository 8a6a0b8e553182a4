"""Publish and subscribe, and client tracking, byte for byte beside redis-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import globalcache
from tests.wire.redis_wire import Raw, redis_server, request

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(params=["globalcache", "redis"])
def port(request: pytest.FixtureRequest, server: globalcache.Server, redis_port: int) -> int:
    """Give the port of either server: both have to do the same."""
    chosen = int(server.address.rsplit(":", 1)[1]) if request.param == "globalcache" else redis_port
    with Raw(chosen) as raw:
        assert raw.ask(b"FLUSHALL") == b"+OK\r\n"
    return chosen


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def push(*parts: bytes) -> bytes:
    return b">%d\r\n" % len(parts) + b"".join(parts)


def void(*keys: bytes) -> bytes:
    """Build the message that copies of keys are void; without keys, that all are."""
    listed = b"*%d\r\n" % len(keys) + b"".join(map(bulk, keys)) if keys else b"_\r\n"
    return push(bulk(b"invalidate"), listed)


@pytest.mark.parametrize("resp", [2, 3])
def test_messages_reach_who_listens(port: int, resp: int) -> None:
    mark = b">" if resp == 3 else b"*"
    with Raw(port, resp) as one, Raw(port) as two:
        assert one.ask(b"SUBSCRIBE", b"news") == mark + b"3\r\n" + bulk(b"subscribe") + bulk(b"news") + b":1\r\n"
        assert one.ask(b"PSUBSCRIBE", b"n*s") == mark + b"3\r\n" + bulk(b"psubscribe") + bulk(b"n*s") + b":2\r\n"
        assert two.ask(b"PUBSUB", b"CHANNELS", b"n*") == b"*1\r\n" + bulk(b"news")
        assert (
            two.ask(b"PUBSUB", b"NUMSUB", b"news", b"x")
            == b"*4\r\n" + bulk(b"news") + b":1\r\n" + bulk(b"x") + b":0\r\n"
        )
        assert two.ask(b"PUBSUB", b"NUMPAT") == b":1\r\n"
        assert two.ask(b"PUBLISH", b"news", b"hi\r\n") == b":2\r\n"
        assert two.ask(b"PUBLISH", b"other", b"hi") == b":0\r\n"
        assert one.reply() == mark + b"3\r\n" + bulk(b"message") + bulk(b"news") + bulk(b"hi\r\n")
        assert one.reply() == mark + b"4\r\n" + bulk(b"pmessage") + bulk(b"n*s") + bulk(b"news") + bulk(b"hi\r\n")
        if resp == 2:
            assert one.ask(b"PING") == b"*2\r\n" + bulk(b"pong") + bulk(b"")
            assert one.ask(b"GET", b"k").startswith(b"-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
        else:
            assert one.ask(b"PING") == b"+PONG\r\n"
        assert one.ask(b"UNSUBSCRIBE") == mark + b"3\r\n" + bulk(b"unsubscribe") + bulk(b"news") + b":1\r\n"
        assert one.ask(b"PUNSUBSCRIBE", b"n*s") == mark + b"3\r\n" + bulk(b"punsubscribe") + bulk(b"n*s") + b":0\r\n"
        nobody = b"_\r\n" if resp == 3 else b"$-1\r\n"
        assert one.ask(b"UNSUBSCRIBE") == mark + b"3\r\n" + bulk(b"unsubscribe") + nobody + b":0\r\n"
        assert one.ask(b"PING") == b"+PONG\r\n"
        assert two.ask(b"PUBLISH", b"news", b"hi") == b":0\r\n"


def test_a_connection_that_is_gone_listens_no_more(port: int) -> None:
    with Raw(port) as two:
        with Raw(port) as one:
            one.ask(b"SUBSCRIBE", b"gone")
        for _ in range(1000):
            if two.ask(b"PUBLISH", b"gone", b"x") == b":0\r\n":
                return
    pytest.fail("it is still told")


@pytest.mark.parametrize(
    "change",
    [
        [b"SET", b"k", b"2"],
        [b"DEL", b"k"],
        [b"INCR", b"k"],
        [b"EXPIRE", b"k", b"100"],
        [b"APPEND", b"k", b"0"],
        [b"PEXPIREAT", b"k", b"1"],
        [b"RENAME", b"k", b"l"],
        [b"GETDEL", b"k"],
        [b"SETRANGE", b"k", b"0", b"7"],
        [b"MSET", b"other", b"1", b"k", b"2"],
    ],
)
def test_a_key_that_was_read_is_void_once_it_changes(port: int, change: list[bytes]) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        two.ask(b"SET", b"k", b"1")
        assert one.ask(b"CLIENT", b"TRACKING", b"ON") == b"+OK\r\n"
        assert one.ask(b"GET", b"k") == bulk(b"1")
        two.ask(*change)
        assert one.reply() == void(b"k")
        two.ask(b"SET", b"k", b"3")
        assert one.ask(b"PING") == b"+PONG\r\n", "it is told once for each read"


def test_what_is_flushed_voids_everything(port: int) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        one.ask(b"CLIENT", b"TRACKING", b"ON")
        one.ask(b"MGET", b"a", b"b")
        two.ask(b"FLUSHALL")
        assert one.reply() == void()


def test_what_expires_is_void_without_anybody_asking(port: int) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        one.ask(b"CLIENT", b"TRACKING", b"ON")
        two.ask(b"SET", b"k", b"1", b"PX", b"50")
        one.ask(b"GET", b"k")
        assert one.reply() == void(b"k")


def test_what_is_evicted_is_void() -> None:
    with globalcache.Server(memory="2MiB", max_value="64KiB", threads=1) as server:
        port = int(server.address.rsplit(":", 1)[1])
        with Raw(port, 3) as one, Raw(port) as two:
            two.ask(b"SET", b"k", b"1")
            one.ask(b"CLIENT", b"TRACKING", b"ON")
            assert one.ask(b"GET", b"k") == bulk(b"1")
            for number in range(20_000):
                two.ask(b"SET", b"key:%d" % number, b"x" * 500)
            assert one.reply() == void(b"k")
            assert two.ask(b"GET", b"k") == b"$-1\r\n"


def test_own_writes_are_pushed_after_their_reply(port: int) -> None:
    with Raw(port, 3) as one:
        one.ask(b"CLIENT", b"TRACKING", b"ON")
        one.ask(b"GET", b"k")
        assert one.ask(b"SET", b"k", b"1") == b"+OK\r\n"
        assert one.reply() == void(b"k")
        one.ask(b"CLIENT", b"TRACKING", b"OFF")
        one.ask(b"CLIENT", b"TRACKING", b"ON", b"NOLOOP")
        one.ask(b"GET", b"k")
        assert one.ask(b"SET", b"k", b"2") == b"+OK\r\n"
        assert one.ask(b"PING") == b"+PONG\r\n"


def test_broadcast_tells_of_prefixes_read_or_not(port: int) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        assert one.ask(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"user:", b"PREFIX", b"shop:") == b"+OK\r\n"
        two.ask(b"SET", b"other", b"1")
        two.ask(b"SET", b"shop:1", b"1")
        assert one.reply() == void(b"shop:1")
        two.ask(b"DEL", b"shop:1")
        assert one.reply() == void(b"shop:1")
        overlapping = one.ask(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"user:1")
        assert overlapping.startswith(b"-ERR Prefix 'user:1' overlaps with an existing prefix 'user:'")


@pytest.mark.parametrize(("mode", "word", "told"), [(b"OPTIN", b"YES", True), (b"OPTOUT", b"NO", False)])
def test_the_next_command_is_chosen(port: int, mode: bytes, word: bytes, told: bool) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        one.ask(b"CLIENT", b"TRACKING", b"ON", mode)
        assert one.ask(b"CLIENT", b"CACHING", word) == b"+OK\r\n"
        one.ask(b"GET", b"first")
        one.ask(b"GET", b"second")
        two.ask(b"SET", b"first", b"1")
        two.ask(b"SET", b"second", b"1")
        assert one.reply() == void(b"first" if told else b"second")
        assert one.ask(b"PING") == b"+PONG\r\n"


def test_another_connection_may_be_told_instead(port: int) -> None:
    with Raw(port) as one, Raw(port) as listener, Raw(port) as two:
        number = listener.ask(b"CLIENT", b"ID")[1:-2]
        listener.ask(b"SUBSCRIBE", b"__redis__:invalidate")
        assert one.ask(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", number) == b"+OK\r\n"
        assert one.ask(b"CLIENT", b"GETREDIR") == b":%b\r\n" % number
        one.ask(b"GET", b"k")
        two.ask(b"SET", b"k", b"1")
        assert listener.reply() == b"*3\r\n" + bulk(b"message") + bulk(b"__redis__:invalidate") + b"*1\r\n" + bulk(b"k")
        assert one.ask(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"999999") == (
            b"-ERR The client ID you want redirect to does not exist\r\n"
        )


def test_a_redirection_that_broke_is_announced(port: int) -> None:
    """R closes; W changes what A read: A is sent a message in the place of the invalidation, and one for each later."""
    with Raw(port, 3) as one, Raw(port) as two:
        with Raw(port) as listener:
            number = listener.ask(b"CLIENT", b"ID")[1:-2]
            listener.ask(b"SUBSCRIBE", b"__redis__:invalidate")
            one.ask(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", number)
            one.ask(b"GET", b"k")
        while two.ask(b"CLIENT", b"LIST", b"ID", number) not in {b"$0\r\n\r\n", b"=4\r\ntxt:\r\n"}:
            pass
        broken = push(bulk(b"tracking-redir-broken"), b":%b\r\n" % number)
        two.ask(b"SET", b"k", b"1")
        assert one.ask(b"PING") == broken
        assert one.reply() == b"+PONG\r\n"
        assert b"broken_redirect" in one.ask(b"CLIENT", b"TRACKINGINFO")
        one.ask(b"GET", b"k")
        two.ask(b"SET", b"k", b"2")
        assert one.reply() == broken


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize(
    "sequence",
    [
        ["ON BCAST", "INFO", "ON BCAST PREFIX a", "ON BCAST", "INFO", "OFF", "INFO"],
        [
            "ON BCAST PREFIX a",
            "ON BCAST",
            "ON BCAST PREFIX b PREFIX c",
            "ON BCAST PREFIX ab",
            "ON BCAST PREFIX a",
            "INFO",
        ],
        ["ON BCAST PREFIX a PREFIX ab", "INFO", "ON BCAST PREFIX ab PREFIX c PREFIX a", "INFO"],
        ["ON", "ON BCAST", "ON OPTIN", "ON OPTOUT", "ON", "INFO", "ON PREFIX a", "ON BCAST OPTIN", "ON OPTIN OPTOUT"],
        [
            "OFF FOO",
            "OFF NOLOOP",
            "OFF REDIRECT 999999",
            "OFF PREFIX",
            "MAYBE",
            "ON REDIRECT x",
            "ON REDIRECT 0",
            "INFO",
        ],
        ["ON NOLOOP", "INFO", "ON", "INFO", "ON OPTIN", "YES", "INFO", "ON OPTIN NOLOOP", "INFO", "NO", "OFF", "YES"],
        ["ON OPTOUT", "NO", "INFO", "YES", "MAYBE", "ON OPTOUT", "INFO", "OFF", "ON OPTOUT", "INFO"],
    ],
)
def test_options_go_together_as_in_redis(
    server: globalcache.Server, redis_port: int, resp: int, sequence: list[str]
) -> None:
    """INFO stands for CLIENT TRACKINGINFO, YES and the like for CLIENT CACHING, and the rest for CLIENT TRACKING."""
    answers = []
    for port in (int(server.address.rsplit(":", 1)[1]), redis_port):
        with Raw(port, resp) as raw:
            for line in sequence:
                words = line.encode().split()
                if line == "INFO":
                    asked = [b"TRACKINGINFO"]
                else:
                    asked = [b"CACHING" if line in {"YES", "NO", "MAYBE"} else b"TRACKING", *words]
                answers.append((line, raw.ask(b"CLIENT", *asked)))
    half = len(answers) // 2
    assert answers[:half] == answers[half:]


def test_broadcasts_of_one_turn_are_one_message(port: int) -> None:
    with Raw(port, 3) as one, Raw(port) as two:
        one.ask(b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        two.socket.sendall(b"".join(request([b"SET", key, b"1"]) for key in (b"b", b"a", b"b", b"c")))
        assert one.reply() == void(b"a", b"b", b"c")


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize(
    "words",
    [
        [b"TRACKINGINFO"],
        [b"GETREDIR"],
        [b"CACHING", b"YES"],
        [b"CACHING", b"MAYBE"],
        [b"TRACKING", b"ON", b"OPTIN", b"OPTOUT"],
        [b"TRACKING", b"ON", b"BCAST", b"OPTIN"],
        [b"TRACKING", b"ON", b"PREFIX", b"x"],
        [b"TRACKING", b"MAYBE"],
        [b"TRACKING", b"ON", b"FOO"],
        [b"TRACKING"],
        [b"REPLY", b"MAYBE"],
        [b"KILL", b"1.2.3.4:5"],
        [b"KILL", b"ID", b"0"],
        [b"KILL", b"ID", b"999999"],
        [b"KILL", b"FOO", b"1"],
        [b"KILL", b"TYPE", b"foo"],
        [b"LIST", b"FOO"],
        [b"NO-EVICT", b"ON"],
        [b"NO-EVICT", b"MAYBE"],
        [b"NOSUCH"],
        [b"SETNAME", b"a b"],
    ],
)
def test_subcommands_are_refused_as_redis_does(
    server: globalcache.Server, redis_port: int, resp: int, words: list[bytes]
) -> None:
    ports = (int(server.address.rsplit(":", 1)[1]), redis_port)
    answers = []
    for port in ports:
        with Raw(port, resp) as raw:
            answers.append(raw.ask(b"CLIENT", *words))
    assert answers[0] == answers[1]


def test_replies_are_left_out_on_request(port: int) -> None:
    with Raw(port) as raw:
        raw.send(b"CLIENT", b"REPLY", b"SKIP")
        raw.send(b"SET", b"k", b"1")
        assert raw.ask(b"GET", b"k") == bulk(b"1")
        raw.send(b"CLIENT", b"REPLY", b"OFF")
        raw.send(b"INCR", b"k")
        raw.send(b"NOSUCH")
        assert raw.ask(b"CLIENT", b"REPLY", b"ON") == b"+OK\r\n"
        assert raw.ask(b"GET", b"k") == bulk(b"2")


def test_an_invalidated_tag_voids_what_was_read_with_it(server: globalcache.Server) -> None:
    port = int(server.address.rsplit(":", 1)[1])
    with Raw(port, 3) as one, Raw(port, 3) as other, Raw(port) as two:
        two.ask(b"CACHE.SET", b"k", b"1", b"TAGS", b"1", b"shop")
        two.ask(b"SET", b"plain", b"1")
        one.ask(b"CLIENT", b"TRACKING", b"ON")
        other.ask(b"CLIENT", b"TRACKING", b"ON")
        assert one.ask(b"GET", b"k") == bulk(b"1")
        assert other.ask(b"GET", b"plain") == bulk(b"1")
        assert two.ask(b"CACHE.INVALIDATE", b"TAGS", b"1", b"shop") == b":1\r\n"
        assert one.reply() == void()
        assert other.ask(b"PING") == b"+PONG\r\n", "it read nothing that has a tag"


def test_clients_are_listed_and_closed(port: int) -> None:
    with Raw(port) as one, Raw(port) as two:
        one.ask(b"CLIENT", b"SETNAME", b"victim")
        number = one.ask(b"CLIENT", b"ID")[1:-2]
        listed = two.ask(b"CLIENT", b"LIST", b"ID", number)
        assert b"id=%b " % number in listed
        assert b" name=victim " in listed
        assert b" db=0 " in listed
        assert two.ask(b"CLIENT", b"KILL", b"ID", number) == b":1\r\n"
        assert one.file.read() == b""
