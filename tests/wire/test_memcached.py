"""The memcached door as bytes: what cannot be compared with memcached, or must hold where none is installed."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.wire.memcached_wire import Wire, ports, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from globalcache._core import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with started(debug_time=True) as server:
        yield server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(ports(server)[1])
    wire.ask(b"flush_all\r\n")
    yield wire
    wire.close()


def redis(port: int, request: bytes, size: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        reply = b""
        while len(reply) < size:
            reply += connection.recv(size - len(reply))
        return reply


def test_a_value_is_one_value_through_every_door(server: Server, wire: Wire) -> None:
    common = ports(server)[0]
    assert wire.ask(b"set n 7 0 2\r\n41\r\n") == b"STORED\r\n"
    assert redis(common, b"INCR n\r\n", 5) == b":42\r\n"
    assert wire.ask(b"incr n 1\r\nget n\r\n") == b"43\r\nVALUE n 7 2\r\n43\r\nEND\r\n"
    assert wire.ask(b"decr n 40\r\n") == b"3\r\n"
    assert redis(common, b"GET n\r\n", 7) == b"$1\r\n3\r\n"


def test_a_write_through_redis_changes_the_cas_number(server: Server, wire: Wire) -> None:
    wire.ask(b"set k 0 0 1\r\na\r\n")
    version = wire.ask(b"mg k c\r\n").split(b" c")[1].strip()
    redis(ports(server)[0], b"SET k b\r\n", 5)
    assert wire.ask(b"cas k 0 0 1 %b\r\nc\r\n" % version) == b"EXISTS\r\n"
    assert wire.ask(b"ms k 1 C%b\r\nc\r\n" % version) == b"EX\r\n"


def test_the_common_port_knows_memcached_by_its_lower_case_verbs(server: Server) -> None:
    wire = Wire(ports(server)[0])
    assert wire.ask(b"get none\r\n") == b"END\r\n"
    assert wire.ask(b"GET none\r\n") == b"ERROR\r\n"
    wire.close()
    assert redis(ports(server)[0], b"GET none\r\n", 5) == b"$-1\r\n"


def test_expiry_by_the_clock_that_runs_ahead(wire: Wire) -> None:
    wire.ask(b"set a 0 10 1\r\nx\r\nset b 0 20 1\r\nx\r\nset c 0 0 1\r\nx\r\n")
    assert wire.ask(b"debugtime 10\r\n") == b"OK\r\n"
    assert wire.ask(b"mg a t\r\nmg b t\r\nmg c t\r\n") == b"EN\r\nHD t10\r\nHD t-1\r\n"
    assert wire.ask(b"touch b 100\r\nmg b t\r\ngat 0 b\r\nmg b t\r\n").endswith(b"END\r\nHD t-1\r\n")
    soon = int(time.time()) + 10**7
    assert wire.ask(b"set d 0 %d 1\r\nx\r\nmg d\r\nset d 0 2592001 1\r\nx\r\nmg d\r\n" % soon).endswith(
        b"STORED\r\nHD\r\nSTORED\r\nEN\r\n"
    )


def test_flush_all_waits_for_its_time(wire: Wire) -> None:
    assert wire.ask(b"set a 0 0 1\r\nx\r\nflush_all 30\r\nset b 0 0 1\r\nx\r\nget a\r\n").endswith(b"x\r\nEND\r\n")
    wire.ask(b"debugtime 29\r\n")
    assert wire.ask(b"mg a\r\n") == b"HD\r\n"
    wire.ask(b"debugtime 1\r\n")
    assert wire.ask(b"mg a\r\nmg b\r\nset a 0 0 1\r\ny\r\nmg a\r\n") == b"EN\r\nEN\r\nSTORED\r\nHD\r\n"


@pytest.mark.parametrize("verb", [b"set k 0 0 %d\r\n", b"ms k %d\r\n"])
def test_a_value_too_large_is_skipped_and_deletes_the_old_one(wire: Wire, verb: bytes) -> None:
    wire.ask(b"set k 0 0 1\r\nx\r\nset other 0 0 1\r\nx\r\n")
    size = (1 << 20) + 1
    reply = wire.ask(
        verb % size + b"set other 0 0 1\r\n" * (size // 17) + b"z" * (size % 17) + b"\r\nmg k\r\nmg other s\r\n"
    )
    assert reply == b"SERVER_ERROR object too large for cache\r\nEN\r\nHD s1\r\n"


def test_a_short_line_cannot_ask_for_a_reply_without_bound(wire: Wire) -> None:
    wire.ask(b"set k 0 0 1000\r\n" + bytes(1000) + b"\r\n")
    assert wire.ask(b"get" + b" k" * 300_000 + b"\r\n") == b"SERVER_ERROR out of memory storing object\r\n"
    assert wire.ask(b"get" + b" none" * 100_000 + b"\r\n") == b"END\r\n"
    assert wire.ask(b"get" + b" k" * (1 << 20) + b"\r\n") == b"CLIENT_ERROR line too long\r\n<end>"


def test_the_binary_protocol_gets_one_line(server: Server) -> None:
    for port in ports(server):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"\x80\x0a" + bytes(22))
            reply = b""
            while more := connection.recv(1000):
                reply += more
        assert reply == b"CLIENT_ERROR the binary protocol is not offered, use the text protocol\r\n"


def test_bytes_arriving_one_by_one(wire: Wire) -> None:
    request = b"set slow 5 0 4\r\na\r\nb\r\nget slow\r\nmn\r\n"
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request:
        wire.socket.sendall(bytes([byte]))
    wanted = b"STORED\r\nVALUE slow 5 4\r\na\r\nb\r\nEND\r\nMN\r\n"
    reply = b""
    while len(reply) < len(wanted):
        reply += wire.socket.recv(100)
    assert reply == wanted


def test_statistics(wire: Wire) -> None:
    def stats(section: bytes = b"") -> dict[bytes, bytes]:
        rows = wire.ask(b"stats" + section + b"\r\n").removesuffix(b"END\r\n").splitlines()
        return {name: value for _, name, value in (row.split(b" ", 2) for row in rows)}

    assert wire.ask(b"stats reset\r\n") == b"RESET\r\n"
    wire.ask(b"set k 0 0 1\r\nx\r\nget k\r\nget none\r\nget k k\r\n")
    seen = stats()
    assert (seen[b"get_hits"], seen[b"get_misses"], seen[b"cmd_get"]) == (b"3", b"1", b"4")
    assert int(seen[b"curr_items"]) >= 1
    assert int(seen[b"curr_connections"]) >= 1
    assert stats(b" settings")[b"item_size_max"] == b"1048576"
    assert int(stats(b" items")[b"items:1:number"]) >= 1
    assert stats(b" sizes") == {b"sizes_status": b"disabled"}
    assert int(stats(b" conns")[b"connected"]) >= 1


def test_shutdown_stops_the_server_only_where_it_is_allowed() -> None:
    with started() as server:
        wire = Wire(ports(server)[1])
        assert wire.ask(b"shutdown\r\ndebugtime 1\r\n") == b"ERROR: shutdown not enabled\r\nERROR\r\n"
        assert not server.stopping
        wire.close()
    with started(shutdown=True) as server:
        wire = Wire(ports(server)[1])
        assert wire.ask(b"shutdown\r\n") == b"<end>"
        deadline = time.monotonic() + 5
        while not server.stopping and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.stopping
        wire.close()
