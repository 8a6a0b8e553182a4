"""A full cache that may not evict: writes are refused in each protocol's words, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Process

VALUE = b"v" * 1000


def test_writes_are_refused_and_nothing_else(serve: Callable[..., Process]) -> None:
    server = serve("--threads", "1", "--memory", "1MiB", "--max-value", "128KiB", "--eviction", "none")
    with Wire(server.address) as redis, Wire(server.address) as memcached:
        replies = set()
        for number in range(1500):
            redis.send(b"*3\r\n$3\r\nSET\r\n$4\r\n%04d\r\n$1000\r\n%b\r\n" % (number, VALUE))
            reply = b""
            while not reply.endswith(b"\r\n"):
                reply += redis.socket.recv(1000)
            replies.add(reply[:5])
        assert replies == {b"+OK\r\n", b"-OOM "}
        full = b"SERVER_ERROR out of memory storing object\r\n"
        memcached.ask(b"set other 0 0 1000\r\n" + VALUE + b"\r\n", full)
        redis.ask(b"GET 0000\r\n", b"$1000\r\n" + VALUE + b"\r\n")
        redis.ask(b"EXISTS 0000 0001\r\nTTL 0000\r\nDEL 0000\r\n", b":2\r\n:-1\r\n:1\r\n")
        memcached.ask(b"get 0001\r\n", b"VALUE 0001 0 1000\r\n" + VALUE + b"\r\nEND\r\n")
        memcached.ask(b"delete 0001\r\n", b"DELETED\r\n")
