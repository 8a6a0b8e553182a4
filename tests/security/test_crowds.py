"""Many who do no harm alone: thousands that drip, and neighbours from another network."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import threading
from typing import TYPE_CHECKING

from tests.conftest import Wire, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Process

IS_LONG = int(os.environ.get("FAULTS_ROUNDS", "1")) > 1
DRIPPERS = 5_000 if IS_LONG else 300


class Drippers:
    """Sockets that send a byte of a request every ten seconds, each at a moment of its own."""

    def __init__(self, address: str, count: int) -> None:
        host, port = address.rsplit(":", 1)
        self.sockets = [socket.create_connection((host, int(port)), 10) for _ in range(count)]
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._drip)
        self.thread.start()

    def _drip(self) -> None:
        parts = 100
        for turn in range(10 * parts):
            for one in self.sockets[turn % parts :: parts]:
                # A request that never ends; one that the server gave up may be reset.
                with contextlib.suppress(OSError):
                    one.send(b"*1000\r\n"[turn // parts : turn // parts + 1] or b"$")
            if self.over.wait(10 / parts):
                return

    def close(self) -> None:
        """Let go of them all."""
        self.over.set()
        self.thread.join()
        for one in self.sockets:
            one.close()


def test_thousands_that_drip_hold_up_nobody(serve: Callable[..., Process]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = serve("--max-clients", str(2 * DRIPPERS + 100))
    alone, beside = [], []
    for _ in range(5 if IS_LONG else 1):
        alone.append(load(server.address, server.process.pid)["p99"])
        drippers = Drippers(server.address, DRIPPERS)
        try:
            beside.append(load(server.address, server.process.pid)["p99"])
            with Wire(server.address) as wire:
                wire.ask(b"PING\r\n", b"+PONG\r\n")
        finally:
            drippers.close()
    before, after = statistics.median(alone), statistics.median(beside)
    print(
        f"\n{DRIPPERS:,} that drip: p99 of others {after:.0f} us, {after / before:.2f} times {before:.0f} (at most 1.5)"
    )
    assert not IS_LONG or after <= 1.5 * before


ASK = """
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
except OSError as error:
    sys.exit(type(error).__name__)
connection.settimeout(3)
connection.sendall(b"GET k\\r\\n")
print(connection.recv(100).decode(), end="")
"""


def asked(words: list[str], host: str, port: str) -> str:
    """Return what a neighbour is answered, or why not."""
    done = subprocess.run(
        [*words, "python3", "-c", ASK, host, port], capture_output=True, text=True, timeout=20, check=False
    )
    return (done.stdout + done.stderr).strip()


def test_a_neighbour_reaches_nothing_that_was_not_opened_to_it(
    serve: Callable[..., Process], neighbour: tuple[list[str], str, str]
) -> None:
    words, here, _ = neighbour
    port = serve().address.rsplit(":", 1)[1]
    assert asked(words, here, port) == "ConnectionRefusedError"
    server = serve("--password", "sesame", listen=f"{here}:0")
    assert asked(words, here, server.address.rsplit(":", 1)[1]) == "-NOAUTH Authentication required."
