"""Measure how soon those who wait for a key have their answers after it was filled.

A thousand wait on 8 connections (tickets and pushes) and on 1,000 (in place). The time runs from sending the fill to
the arrival of the last answer, as a client in Python sees it; median, best and worst of many rounds are printed.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import time

from globalcache import Server

WAITERS = 1_000


class Waiting:
    """Connections that wait for one key."""

    def __init__(self, address: str, connections: int, hello: bytes) -> None:
        host, port = address.rsplit(":", 1)
        self.sockets = [socket.create_connection((host, int(port))) for _ in range(connections)]
        self.selector = selectors.DefaultSelector()
        self.piece = max(1 << 10, (1 << 20) // connections)
        for connection in self.sockets:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hello:
                connection.sendall(hello)
                connection.recv(1 << 16)
            self.selector.register(connection, selectors.EVENT_READ)

    def ask(self, request: bytes) -> None:
        """Have all connections together ask a thousand times."""
        each = WAITERS // len(self.sockets)
        for connection in self.sockets:
            connection.sendall(request * each)

    def count(self, mark: bytes, wanted: int) -> None:
        """Read until so many answers with a mark have come."""
        seen = 0
        deadline = time.monotonic() + 30
        while seen < wanted and time.monotonic() < deadline:
            for key, _ in self.selector.select(1):
                assert isinstance(key.fileobj, socket.socket)
                # A buffer of a megabyte for a line would be what is measured.
                seen += key.fileobj.recv(self.piece).count(mark)
        if seen < wanted:
            raise RuntimeError(f"{seen} of {wanted} answers came")


def measure(address: str, connections: int, rounds: int) -> list[float]:
    """Return for each round the milliseconds until the last answer."""
    host, port = address.rsplit(":", 1)
    holder = socket.create_connection((host, int(port)))
    holder.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tickets = connections < WAITERS
    waiting = Waiting(address, connections, b"HELLO 3\r\n" if tickets else b"")
    took = []
    for number in range(rounds):
        key = f"w{connections}:{number}".encode()
        holder.sendall(b"CACHE.FETCH %b\r\n" % key)
        token = holder.recv(1 << 16).split(b"\r\n")[4].removeprefix(b":")
        waiting.ask(b"CACHE.FETCH %b WAIT 20000%b\r\n" % (key, b" TICKET" if tickets else b""))
        if tickets:
            waiting.count(b"waiting", WAITERS)
        else:
            # Nobody is answered yet: all are known to wait when the server says so.
            while True:
                holder.sendall(b"CACHE.INSPECT %b\r\n" % key)
                if b"waiters\r\n:%d\r\n" % WAITERS in holder.recv(1 << 16):
                    break
        begun = time.perf_counter()
        holder.sendall(b"CACHE.FILL %b %b value:1234\r\n" % (key, token))
        waiting.count(b"value:1234", WAITERS)
        took.append((time.perf_counter() - begun) * 1000)
        holder.recv(1 << 16)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    with Server(memory="64MiB", threads=1) as server:
        for connections, bar in ((8, 2), (WAITERS, 10)):
            took = measure(server.address, connections, rounds)
            print(
                f"{WAITERS} waiters on {connections} connections: last answer after {statistics.median(took):.2f} ms "
                f"(best {min(took):.2f}, worst {max(took):.2f}; bar {bar})"
            )


if __name__ == "__main__":
    main()
