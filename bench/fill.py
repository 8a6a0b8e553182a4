"""Fill servers with items, and look at the memory that they take for it."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

from peers import commands, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from peers import Peer

# Items that are sent before their replies are read.
BATCH = 500
SERVERS = ("globalcache", "memcached", "redis", "valkey")
MIB = 1 << 20


def resident(pid: int) -> int:
    """Return the bytes of a process that lie in memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


class Filler:
    """A connection that writes items."""

    def __init__(self, peer: Peer) -> None:
        self.memcached = peer.name == "memcached"
        self.socket = socket.create_connection(("127.0.0.1", peer.port), 60)
        self.reader = self.socket.makefile("rb")

    def write(self, items: Iterable[tuple[bytes, bytes]], ttl: int = 0) -> None:
        """Write keys and values that expire after `ttl` seconds, or never if it is 0."""
        parts: list[bytes] = []
        for key, value in items:
            if self.memcached:
                parts.append(b"set %b 0 %d %d noreply\r\n%b\r\n" % (key, ttl, len(value), value))
            else:
                head, tail = (5, b"$2\r\nEX\r\n$%d\r\n%d\r\n" % (len(str(ttl)), ttl)) if ttl else (3, b"")
                text = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
                parts.append(text % (head, len(key), key, len(value), value, tail))
            if len(parts) == BATCH:
                self._send(parts)
        self._send(parts)

    def _send(self, parts: list[bytes]) -> None:
        # memcached says nothing but to the last line.
        expected = 1 if self.memcached else len(parts)
        self.socket.sendall(b"".join(parts) + (b"version\r\n" if self.memcached else b""))
        parts.clear()
        for _ in range(expected):
            line = self.reader.readline()
            if line != b"+OK\r\n" and not line.startswith(b"VERSION"):
                raise RuntimeError(f"a write was answered by {line!r}")

    def count(self) -> int:
        """Return how many items the server holds."""
        self.socket.sendall(b"stats\r\n" if self.memcached else b"DBSIZE\r\n")
        while (line := self.reader.readline()) and not line.startswith((b"STAT curr_items", b":")):
            pass
        if self.memcached:
            while self.reader.readline() != b"END\r\n":
                pass
        return int(line.split()[-1].lstrip(b":"))


def numbered(first: int, last: int, key: int, value: int) -> Iterable[tuple[bytes, bytes]]:
    """Make items with keys and values of so many bytes."""
    text = b"v" * value
    return ((b"%0*d" % (key, number), text) for number in range(first, last))


def overhead(name: str, key: int, value: int, ttl: int, step: int) -> float:
    """Return the bytes besides key and value that an item takes: the slope of memory from `step` to twice as many."""
    with running(name, commands(memory=8 << 30)[name]) as peer:
        filler, seen = Filler(peer), []
        for part in range(2):
            filler.write(numbered(part * step, (part + 1) * step, key, value), ttl)
            if filler.count() != (part + 1) * step:
                raise RuntimeError(f"{name} did not keep all items")
            seen.append(resident(peer.pid))
        return (seen[1] - seen[0]) / step - key - value


def held(name: str, memory: int, key: int = 16, value: int = 100, ttl: int = 3600) -> tuple[float, float]:
    """Fill a server with twice what fits; return its items for each `memory` of growth, and the growth itself."""
    with running(name, commands(memory=memory)[name]) as peer:
        before, filler = resident(peer.pid), Filler(peer)
        filler.write(numbered(0, 2 * memory // (key + value), key, value), ttl)
        growth = resident(peer.pid) - before
        return filler.count() * memory / growth, growth


def churn(memory: int, seed: int = 1) -> dict[str, int]:
    """Write values of ever other sizes; return the largest growth of memory of each kind of load."""
    chance = random.Random(seed)  # noqa: S311
    blob = chance.randbytes(2 * MIB)

    def sized(size: Callable[[], int]) -> Iterable[tuple[bytes, bytes]]:
        left = 2 * memory
        while left > 0:
            length = size()
            left -= length + 60
            yield b"k%d" % chance.randrange(max(1, memory // (length + 60))), blob[:length]

    loads: dict[str, Callable[[], int]] = {f"{size} bytes": lambda size=size: size for size in _SIZES}  # type: ignore[misc]
    loads["all sizes"] = lambda: int(2 ** chance.uniform(4, 20))
    largest: dict[str, int] = {}
    with running("globalcache", commands(memory=memory)["globalcache"]) as peer:
        before, filler = resident(peer.pid), Filler(peer)
        for turn in range(2):
            for load, size in loads.items():
                filler.write(sized(size))
                largest[f"{load}, {turn + 1}"] = resident(peer.pid) - before
    return largest


_SIZES = (16, 100_000, 300, 1_000_000, 4_000, 30_000)
