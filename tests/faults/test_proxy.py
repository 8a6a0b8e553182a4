"""The proxy does to bytes what it says, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Wire
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{listener.getsockname()[1]}") as carrying:
        yield carrying


def linked(proxy: Proxy, listener: socket.socket) -> tuple[Wire, socket.socket]:
    """Both ends of a link."""
    client = Wire(proxy.address)
    server, _ = listener.accept()
    server.settimeout(10)
    return client, server


def test_it_carries_bytes_both_ways_and_the_end_of_them(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        data = bytes(range(256)) * 4096
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += server.recv(1 << 16)
        sender.join(10)
        assert got == data
        server.sendall(b"answer")
        client.expect(b"answer")
        client.socket.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.sendall(b"last")
        server.close()
        assert client.rest() == b"last"


def test_it_delays(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        proxy.to_server.delay = 0.1
        begun = time.monotonic()
        client.send(b"x")
        assert server.recv(1) == b"x"
        assert time.monotonic() - begun >= 0.1


def test_it_bounds_the_rate(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        proxy.to_client.rate = 10_000
        begun = time.monotonic()
        server.sendall(b"x" * 1000)
        client.expect(b"x" * 1000)
        server.sendall(b"y")
        client.expect(b"y")
        assert time.monotonic() - begun >= 0.1


def test_held_bytes_arrive_after_their_sender_has_closed(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with server:
        proxy.hold()
        client.send(b"late")
        client.socket.close()
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.recv(1)
        server.settimeout(10)
        proxy.release()
        assert server.recv(4) == b"late"
        assert server.recv(1) == b""


def test_it_cuts(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        client.send(b"x")
        assert server.recv(1) == b"x"
        proxy.cut()
        with pytest.raises(ConnectionError):
            client.rest()
        with pytest.raises(ConnectionError):
            server.recv(1)


def test_it_truncates_and_says_so_to_both(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        proxy.to_server.cut_after = 3
        client.send(b"abcdef")
        assert server.recv(10) == b"abc"
        assert server.recv(10) == b""
        with pytest.raises(ConnectionError):
            client.rest()
    again, server = linked(proxy, listener)
    with again, server:
        again.send(b"abcdef")
        assert server.recv(10) == b"abcdef"


def test_it_doubles(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        proxy.to_server.double = True
        client.send(b"ab")
        client.socket.shutdown(socket.SHUT_WR)
        got = b""
        while piece := server.recv(10):
            got += piece
        assert got == b"abab"


def test_it_loses_silently(proxy: Proxy, listener: socket.socket) -> None:
    client, server = linked(proxy, listener)
    with client, server:
        proxy.to_client.silent = True
        server.sendall(b"lost")
        client.send(b"x")
        assert server.recv(1) == b"x"
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.rest()


def test_it_refuses_while_told_so(proxy: Proxy, listener: socket.socket) -> None:
    proxy.refusing = True
    # It may be told while it connects already.
    with pytest.raises(ConnectionError), Wire(proxy.address) as client:
        client.ask(b"x", b"y")
    proxy.refusing = False
    client, server = linked(proxy, listener)
    with client, server:
        server.sendall(b"x")
        client.expect(b"x")
    assert proxy.accepted == 2
