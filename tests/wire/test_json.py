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


def test_a_line_that_is_no_message_is_answered(wire: Wire) -> None:
    wire.send(b"{nonsense\n")
    with wire.socket.makefile("rb") as lines:
        assert json.loads(lines.readline())["body"]["code"] == 12
    assert ask(wire, type="get", msg_id=1, key="k")["type"] == "get_ok"


def test_one_loads_and_the_others_wait(server: globalcache.Server, wire: Wire) -> None:
    first = ask(wire, type="fetch", msg_id=1, key="k")
    assert (first["state"], first["value"], first["version"]) == ("miss", None, None)
    with Wire(server.address) as other, other.socket.makefile("rb") as lines:
        body = {"type": "fetch", "msg_id": 7, "key": "k", "wait_ms": 9_000}
        other.send(json.dumps({"src": "c2", "dest": "cache", "body": body}).encode() + b"\n")
        # Whoever waits goes on asking: answers carry numbers.
        other.send(b'{"src":"c2","dest":"cache","body":{"type":"get","msg_id":8,"key":"k"}}\n')
        assert json.loads(lines.readline())["body"]["in_reply_to"] == 8
        renewed = ask(wire, type="renew", msg_id=2, key="k", token=first["token"], ms=3000)
        assert renewed["held"] is True
        filled = ask(wire, type="fill", msg_id=3, key="k", token=first["token"], value={"a": 1}, ttl_ms=5000)
        assert filled["stored"] is True
        outcome = json.loads(lines.readline())["body"]
        assert (outcome["in_reply_to"], outcome["state"], outcome["value"]) == (7, "hit", {"a": 1})
        assert outcome["version"] == filled["version"]
    assert ask(wire, type="fill", msg_id=4, key="k", token=first["token"], value=2)["stored"] is False
    assert ask(wire, type="inspect", msg_id=5, key="k")["state"] == "hit"


def test_a_failed_load_is_an_error_and_absence_is_an_answer(wire: Wire) -> None:
    token = ask(wire, type="fetch", msg_id=1, key="k")["token"]
    assert ask(wire, type="fail", msg_id=2, key="k", token=token, message="down")["held"] is True
    failed = ask(wire, type="fetch", msg_id=3, key="k")
    assert (failed["code"], failed["text"]) == (11, "LOADFAILED k: down")
    token = ask(wire, type="fetch", msg_id=4, key="none")["token"]
    ask(wire, type="fill", msg_id=5, key="none", token=token, absent=True, ttl_ms=5000)
    assert ask(wire, type="fetch", msg_id=6, key="none")["state"] == "absent"
    token = ask(wire, type="fetch", msg_id=7, key="other")["token"]
    assert ask(wire, type="release", msg_id=8, key="other", token=token)["held"] is True
    assert ask(wire, type="fill", msg_id=9, key="other", value=1)["code"] == 12


def test_a_value_with_tags_goes_with_them(wire: Wire) -> None:
    ask(wire, type="set", msg_id=1, key="k", value=1, tags=["t"], refresh_ms=60_000)
    assert ask(wire, type="get", msg_id=2, key="k")["value"] == 1
    assert ask(wire, type="invalidate", msg_id=3, tags=["t"])["count"] == 1
    assert ask(wire, type="get", msg_id=4, key="k")["value"] is None
