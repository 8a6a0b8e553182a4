"""The server as a process: signals, restarts, and what its clients see of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import GLOBALCACHE, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_killed_and_started_again_on_the_same_port_at_once(serve: Callable[..., Any]) -> None:
    first = serve()
    with Wire(first.address) as wire:
        wire.ask(b"SET k v\r\n", b"+OK\r\n")
        first.process.kill()
        first.process.wait(10)
    second = serve(listen=first.address)
    assert second.address == first.address
    with Wire(second.address) as wire:
        wire.ask(b"GET k\r\n", b"$-1\r\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_replies_out_and_ends_it_in_time(serve: Callable[..., Any], number: int) -> None:
    requests = 20_000
    server = serve()
    with Wire(server.address) as wire:
        wire.ask(b"PING\r\n", b"+PONG\r\n")
        wire.send(b"*1\r\n$4\r\nPING\r\n" * requests)
        server.process.send_signal(number)
        assert wire.rest() == b"+PONG\r\n" * requests
    assert server.process.wait(10) == 0


def test_it_listens_on_every_address_it_names(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    server = serve("--listen", "127.0.0.1:0", "--listen", f"unix://{path}")
    addresses = server.ready.split("ready on ")[1].split("  ")[0].split(", ")
    assert len(addresses) == 3
    for address in addresses:
        url = address.replace("unix://", "globalcache+unix://")
        subprocess.run([GLOBALCACHE, "ping", "-u", url], check=True, capture_output=True, timeout=30)


def test_full_memory_without_eviction_refuses_writes_only(serve: Callable[..., Any]) -> None:
    server = serve("--eviction", "none", "--memory", "20MiB", "--max-value", "1MiB")
    with Wire(server.address) as wire:
        value = b"x" * 1_000_000
        refused = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        for number in range(100):
            wire.send(b"*3\r\n$3\r\nSET\r\n$2\r\n%02d\r\n$%d\r\n%b\r\n" % (number, len(value), value))
            reply = wire.socket.recv(200)
            if reply == refused:
                break
            assert reply == b"+OK\r\n"
        assert reply == refused
        wire.ask(b"EXISTS 00\r\n", b":1\r\n")
        wire.ask(b"DEL 00 01 02\r\n", b":3\r\n")
        wire.ask(b"*3\r\n$3\r\nSET\r\n$2\r\n00\r\n$%d\r\n%b\r\n" % (len(value), value), b"+OK\r\n")


@pytest.mark.parametrize("thread", ["io", "accept"])
def test_a_thread_that_panics_ends_the_process(serve: Callable[..., Any], thread: str) -> None:
    """A native thread panics: the process ends at once with status 70, so that a supervisor starts it again."""
    server = serve("--threads", "2", "--debug-time")
    with Wire(server.address) as wire, Wire(server.address) as other:
        other.ask(b"PING\r\n", b"+PONG\r\n")
        wire.send(b"debugpanic %s\r\n" % thread.encode())
        for each in (wire, other):
            with contextlib.suppress(ConnectionResetError):
                each.rest()
    assert server.process.wait(10) == 70
    said = server.process.stderr.read()
    assert f"thread 'globalcache-{thread}" in said
    assert "debugpanic was asked for" in said
    assert said.splitlines()[-1] == "globalcache: this is a fault of the server, which ends now with status 70"
