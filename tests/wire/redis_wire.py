"""Replies of Redis as bytes, one at a time, and a redis-server to compare with."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def request(words: Sequence[bytes]) -> bytes:
    """Encode a request as an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Raw:
    """A connection whose replies are kept as they came."""

    def __init__(self, port: int, resp: int = 2) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")
        if resp == 3:
            self.ask(b"HELLO", b"3")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def reply(self) -> bytes:
        """Read one whole reply, whatever its type."""
        line = self.file.readline()
        assert line.endswith(b"\r\n"), "the server closed the connection"
        mark, rest = line[:1], line[1:-2]
        if mark in b"$=!" and rest != b"-1":
            return line + self.file.read(int(rest) + 2)
        if mark in b"*~>" and rest != b"-1":
            return line + b"".join(self.reply() for _ in range(int(rest)))
        if mark == b"%":
            return line + b"".join(self.reply() for _ in range(2 * int(rest)))
        return line

    def send(self, *words: bytes) -> None:
        self.socket.sendall(request(words))

    def ask(self, *words: bytes) -> bytes:
        self.send(*words)
        return self.reply()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Run a redis-server that keeps nothing, or skip; gives its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed; `make deps` installs it")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                with Raw(port) as raw:
                    assert raw.ask(b"PING") == b"+PONG\r\n"
                break
            except OSError:
                assert time.monotonic() < deadline, "redis-server does not start"
        yield port
    finally:
        process.terminate()
        process.wait(10)
