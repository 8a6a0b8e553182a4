"""RESP over a bare socket: exact replies, and what becomes of a stream that cannot be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Wire

if TYPE_CHECKING:
    import globalcache


def test_replies_come_in_order_however_the_input_is_cut(wire: Wire) -> None:
    requests = (
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb \r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nINCR n\r\nGET none\r\nTTL k\r\n"
    )
    replies = b"+OK\r\n$5\r\na\r\nb \r\n:1\r\n$-1\r\n:-1\r\n"
    wire.ask(requests, replies)
    wire.ask(b"FLUSHALL\r\n", b"+OK\r\n")
    for byte in requests:
        wire.send(bytes([byte]))
    wire.expect(replies)


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"*2\r\n$6\r\nNOSUCH\r\n$1\r\na\r\n", b"-ERR unknown command 'NOSUCH', with args beginning with: 'a' \r\n"),
        (b"GET\r\n", b"-ERR wrong number of arguments for 'get' command\r\n"),
        (b"SET k v EX 0\r\n", b"-ERR invalid expire time in 'set' command\r\n"),
        (b"SET k v EX x\r\n", b"-ERR value is not an integer or out of range\r\n"),
        (b"SET k v NX XX\r\n", b"-ERR syntax error\r\n"),
        (b"SET k v EX 1 PX 1\r\n", b"-ERR syntax error\r\n"),
        (b"MSET a\r\n", b"-ERR wrong number of arguments for 'mset' command\r\n"),
        (b"SELECT 16\r\n", b"-ERR DB index is out of range\r\n"),
        (b"HELLO 4\r\n", b"-NOPROTO unsupported protocol version\r\n"),
        (b"CLIENT NOSUCH\r\n", b"-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"),
        (b'GET ""\r\n', b"-ERR a key has 1 to 65535 bytes\r\n"),
        (b"EXPIRE k 1 NX GT\r\n", b"-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"),
    ],
)
def test_errors_are_spelled_as_redis_spells_them(wire: Wire, request_: bytes, reply: bytes) -> None:
    wire.ask(request_, reply)
    wire.ask(b"PING\r\n", b"+PONG\r\n")


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"*1\r\n$-1\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$99999999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*99999999999\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n:1\r\n", b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n$4\r\nPINGxx", b"-ERR Protocol error: expected '\\r\\n' after a bulk string\r\n"),
    ],
)
def test_a_broken_stream_is_closed_and_nothing_behind_it_runs(
    server: globalcache.Server, request_: bytes, reply: bytes
) -> None:
    with Wire(server.address) as wire:
        wire.send(request_ + b"\r\nSET x y\r\n")
        assert wire.rest() == reply
    with Wire(server.address) as wire:
        wire.ask(b"EXISTS x\r\n", b":0\r\n")


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"])
def test_http_executes_nothing(server: globalcache.Server, verb: str) -> None:
    with Wire(server.address) as wire:
        wire.send(f"{verb} / HTTP/1.1\r\nHost: x\r\n\r\nSET x y\r\n".encode())
        assert b"OK" not in wire.rest()
    with Wire(server.address) as wire:
        wire.ask(b"EXISTS x\r\n", b":0\r\n")


def test_tls_on_a_plain_port_is_refused_in_the_clear(server: globalcache.Server) -> None:
    with Wire(server.address) as wire:
        wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        assert wire.rest() == b"-ERR Protocol error: this port does not speak TLS\r\n"


def test_quit_answers_what_came_before_and_closes(server: globalcache.Server) -> None:
    with Wire(server.address) as wire:
        wire.send(b"PING\r\nQUIT\r\nSET x y\r\n")
        assert wire.rest() == b"+PONG\r\n+OK\r\n"


def test_values_expire_by_the_clock(wire: Wire) -> None:
    wire.ask(b"SET k v PX 1\r\n", b"+OK\r\n")
    while True:
        wire.send(b"PTTL k\r\n")
        reply = wire.socket.recv(100)
        if reply == b":-2\r\n":
            break
        assert reply in (b":1\r\n", b":0\r\n")
    wire.ask(b"GET k\r\n", b"$-1\r\n")
    wire.ask(b"SET k v EXAT 1\r\n", b"+OK\r\n")
    wire.ask(b"EXISTS k\r\n", b":0\r\n")


def test_large_values_come_back_whole(wire: Wire) -> None:
    value = bytes(range(256)) * (4 << 12)
    wire.ask(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n%b\r\n" % (len(value), value), b"+OK\r\n")
    wire.ask(b"GET big\r\nGET big\r\n", b"$%d\r\n%b\r\n" % (len(value), value) * 2)
    wire.ask(b"PING\r\n", b"+PONG\r\n")


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.sampled_from([b"", b"*", b"*2\r\n$3\r\n", b"{", b"SET ", b"PING\r\n"]))
def test_random_bytes_get_answers_or_a_clean_close(
    shared_server: globalcache.Server, data: bytes, start: bytes
) -> None:
    with Wire(shared_server.address) as wire:
        wire.send(start + data)
        wire.socket.shutdown(1)
        replies = wire.rest()
    assert not replies or replies[:1] in b"+-:$*{C"
    with Wire(shared_server.address) as wire:
        wire.ask(b"PING\r\n", b"+PONG\r\n")
