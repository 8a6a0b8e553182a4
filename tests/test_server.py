"""A server inside this process."""

from __future__ import annotations

import gc
import os
import re
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

import globalcache
from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_it_serves_until_it_is_stopped() -> None:
    with globalcache.Server(memory="8MiB", threads=1, max_value="1MiB") as server:
        assert server.url == f"globalcache://{server.address}"
        assert server.redis_url == f"redis://{server.address}"
        with Wire(server.address) as wire:
            wire.ask(b"SET k v\r\nGET k\r\nGET none\r\n", b"+OK\r\n$1\r\nv\r\n$-1\r\n")
            stats = server.stats()
            assert (stats["items"], stats["hits"], stats["misses"], stats["connected"]) == (1, 1, 1, 1)
        assert repr(server) == f"Server({server.address})"
    with pytest.raises(ConnectionRefusedError):
        Wire(server.address)
    server.stop()


def test_a_unix_socket_has_urls_of_its_own(tmp_path: Path) -> None:
    with globalcache.Server(listen=[f"unix://{tmp_path}/s"]) as server:
        assert server.url == f"globalcache+unix://{tmp_path}/s"
        assert server.redis_url == f"unix://{tmp_path}/s"


def test_wrong_options_and_taken_addresses() -> None:
    with pytest.raises(globalcache.ConfigError, match="memory"):
        globalcache.Server(memory="much")
    with pytest.raises(globalcache.ConfigError, match="no such option"):
        globalcache.Server(memroy=1)
    with globalcache.Server() as server, pytest.raises(OSError, match="Address already in use"):
        globalcache.Server(listen=[server.address])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork_it_belongs_to_the_parent() -> None:
    with globalcache.Server() as server:
        child = os.fork()
        if child == 0:
            try:
                server.stats()
            except RuntimeError as error:
                os._exit(0 if "fork()" in str(error) else 2)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        with Wire(server.address) as wire:
            wire.ask(b"PING\r\n", b"+PONG\r\n")


@pytest.mark.parametrize("thread", ["io", "accept"])
def test_a_thread_that_panics(thread: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """A native thread panics: clients of all threads see the end, the cause is logged, and every later call raises."""
    server = globalcache.Server(threads=2, debug_time=True)
    address = server.address
    with Wire(address) as wire, Wire(address) as other:
        other.ask(b"PING\r\n", b"+PONG\r\n")
        wire.send(b"debugpanic %s\r\n" % thread.encode())
        wire.rest()
        assert other.rest() == b""
    said = f"closed its listeners and connections: the thread globalcache-{thread}.* panicked: debugpanic was asked for"
    calls: list[Callable[[], object]] = [server.stop, server.stats, server.reload, lambda: server.address]
    for call in [*calls, lambda: server.stopping, server.stop]:
        with pytest.raises(RuntimeError, match=said):
            call()
    with pytest.raises(ConnectionRefusedError):
        Wire(address)
    with pytest.raises(RuntimeError, match=said), server:
        pass
    with pytest.raises(KeyError), server:
        raise KeyError
    assert "debugpanic was asked for" in capfd.readouterr().err
    # It is written by a thread of its own, which nobody joins.
    for _ in range(1000):
        if caplog.records:
            break
        time.sleep(0.01)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert re.search(said, caplog.text)


def test_a_server_that_is_dropped_sends_what_it_was_asked() -> None:
    """The client is a thread of the same interpreter, so dropping the server must let that run."""
    server = globalcache.Server(threads=1, memory="64MiB")
    value = b"x" * (8 << 20)
    host, port = server.address.rsplit(":", 1)
    begin, got = threading.Event(), bytearray()
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value))
        client.recv(16)
        client.sendall(b"GET k\r\n" * 2)

        def read() -> None:
            begin.wait()
            while data := client.recv(1 << 16):
                got.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        begin.set()
        del server
        gc.collect()
        reader.join()
    sent, received = 2 * (len(value) + len("$8388608\r\n\r\n")), len(got)
    assert received == sent
