"""A server, a real memcached beside it, and raw bytes to and from both: what the memcached tests stand on."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from globalcache._core import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def started(**options: Any) -> Iterator[Server]:
    """A server on a common port and on one for memcached only, with every option that tests want."""
    settings: dict[str, Any] = {
        "listen": ["127.0.0.1:0", "memcached://127.0.0.1:0"],
        "threads": 2,
        "memory": 64 << 20,
        "evict": True,
        "max_value": 1 << 20,
        "max_clients": 200,
        "client_memory": 64 << 20,
        "idle_timeout_ms": 0,
        "insecure": False,
    }
    server = Server(**settings | options)
    try:
        yield server
    finally:
        server.stop()


def ports(server: Server) -> tuple[int, int]:
    """The common port and the one for memcached only."""
    common, own = (int(address.rpartition(":")[2]) for address in server.addresses)
    return common, own


@contextlib.contextmanager
def real_memcached() -> Iterator[int]:
    """The port of a memcached of the system."""
    binary = shutil.which("memcached")
    if binary is None:
        pytest.skip("memcached is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [binary, "-u", "nobody", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "memcached does not answer"
                time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


class Wire:
    """A connection that sends bytes and reads until a marker that nothing else answers with."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def ask(self, request: bytes) -> bytes:
        """The reply to `request`, which leaves no block unfinished."""
        self.socket.sendall(request + b"mn\r\n")
        reply = b""
        while not reply.endswith(b"MN\r\n"):
            more = self.socket.recv(65536)
            if not more:
                return reply + b"<end>"
            reply += more
        return reply.removesuffix(b"MN\r\n")

    def close(self) -> None:
        self.socket.close()
