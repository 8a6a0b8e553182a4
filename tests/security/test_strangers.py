"""Clients that have not said who they are, where they have to: what they may send, and what they cost."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

import pytest

import globalcache
from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
FEW = 2_500
TRIES = 100_000 if int(os.environ.get("FAULTS_ROUNDS", "1")) > 1 else FEW


@pytest.fixture(scope="module")
def server() -> Iterator[globalcache.Server]:
    with globalcache.Server(memory="16MiB", threads=1, password="sesame") as server:
        yield server


def bulk(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def test_ten_words_of_sixteen_kib_and_no_more(server: globalcache.Server) -> None:
    with Wire(server.address) as wire:
        wire.ask(bulk([b"PING"] + [b"x"] * 9), b"-NOAUTH Authentication required.\r\n")
        wire.send(bulk([b"PING"] + [b"x"] * 10))
        assert wire.rest().startswith(b"-ERR Protocol error")
    with Wire(server.address) as wire:
        wire.ask(bulk([b"ECHO", b"x" * 16 * KIB]), b"-NOAUTH Authentication required.\r\n")
        wire.send(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % (16 * KIB + 1))
        assert wire.rest().startswith(b"-ERR Protocol error")
    with Wire(server.address) as wire:
        wire.send(b"*9\r\n" + b"".join(b"$%d\r\n%b\r\n" % (16 * KIB, b"x" * 16 * KIB) for _ in range(4)) + b"$1\r\n")
        assert b"too big request" in wire.rest()


@pytest.mark.parametrize("line", [b"get " + b"k " * 40 * KIB, b'{"src":"' + b"x" * 80 * KIB])
def test_long_lines_of_other_protocols_end_the_connection(server: globalcache.Server, line: bytes) -> None:
    with Wire(server.address) as wire:
        wire.send(line[: 80 * KIB])
        try:
            assert wire.socket.recv(4096).startswith((b"CLIENT_ERROR", b"ERROR", b"SERVER_ERROR", b"{"))
            assert wire.rest() == b""
        except ConnectionResetError:
            pass


@pytest.mark.parametrize("line", [b"GET k\r\n", b"get k\r\n"])
def test_refusals_that_are_not_read_are_not_piled_up(server: globalcache.Server, line: bytes) -> None:
    wires = [Wire(server.address) for _ in range(20)]
    for wire in wires:
        wire.socket.setblocking(False)
        try:
            for _ in range(100):
                wire.socket.send(line * 1000)
        except BlockingIOError:
            pass
    time.sleep(0.05)  # whatever is piled up is piled up now
    assert server.stats()["client_bytes"] < 20 * 160 * KIB
    for wire in wires:
        wire.socket.close()


def test_an_unknown_user_takes_as_long_as_a_wrong_password(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("users") / "users.acl"
    path.write_text("user ada on #" + "0" * 64 + " allkeys +@all\n")
    reply = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    took: dict[bytes, list[float]] = {b"ada": [], b"bob": []}
    with globalcache.Server(memory="16MiB", threads=1, users_file=path) as server:
        # Whoever does not say who he is has ten seconds.
        for _ in range(TRIES // FEW):
            with Wire(server.address) as wire:
                for _ in range(FEW):
                    for name, times in took.items():
                        begun = time.perf_counter()
                        wire.ask(b"AUTH %b wrong\r\n" % name, reply)
                        times.append(time.perf_counter() - begun)
    known, unknown = (statistics.median(times) for times in took.values())
    print(f"\n{TRIES:,} tries each: known {1e6 * known:.2f} us, unknown {1e6 * unknown:.2f} us")
    # Of more tries the medians lie closer together.
    assert abs(known - unknown) < (0.02 if TRIES > FEW else 0.25) * known
