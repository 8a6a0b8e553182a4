"""JSON messages over a bare socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.conftest import Wire
from tests.maelstrom import EXPECTED, INPUT

if TYPE_CHECKING:
    import globalcache


def test_the_exchange_is_answered_byte_for_byte(wire: Wire) -> None:
    wire.ask(INPUT, EXPECTED)


def test_the_exchange_may_arrive_a_byte_at_a_time(wire: Wire) -> None:
    for byte in INPUT:
        wire.send(bytes([byte]))
    wire.expect(EXPECTED)


def ask(wire: Wire, **body: Any) -> dict[str, Any]:
    wire.send(json.dumps({"src": "c", "dest": "cache", "body": body}).encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        line += wire.socket.recv(1 << 16)
    reply: dict[str, Any] = json.loads(line)["body"]
    return reply


def test_what_one_protocol_writes_the_other_reads(server: globalcache.Server, wire: Wire) -> None:
    with Wire(server.address) as redis:
        ask(wire, type="set", msg_id=1, key="n", value=100)
        redis.ask(b"INCR n\r\n", b":101\r\n")
        assert ask(wire, type="get", msg_id=2, key="n")["value"] == 101
        redis.ask(b"SET s hello\r\n", b"+OK\r\n")
        assert ask(wire, type="get", msg_id=3, key="s")["value"] == "hello"
        redis.ask(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$2\r\n\xff\x00\r\n", b"+OK\r\n")
        assert ask(wire, type="get", msg_id=4, key="b")["value"] == {"base64": "/wA="}
        ask(wire, type="set", msg_id=5, key="o", value={"a": [1, None]})
        redis.ask(b"GET o\r\n", b'$14\r\n{"a":[1,null]}\r\n')


def test_a_ttl_is_milliseconds(server: globalcache.Server, wire: Wire) -> None:
    assert ask(wire, type="set", msg_id=1, key="k", value=1, ttl_ms=60_000)["type"] == "set_ok"
    with Wire(server.address) as redis:
        redis.ask(b"TTL k\r\n", b":60\r\n")


def test_a_line_that_is_no_message_is_answered_and_the_next_one_runs(wire: Wire) -> None:
    wire.send(b"{nonsense\n")
    with wire.socket.makefile("rb") as lines:
        assert json.loads(lines.readline())["body"]["code"] == 12
    assert ask(wire, type="get", msg_id=1, key="k")["type"] == "get_ok"
