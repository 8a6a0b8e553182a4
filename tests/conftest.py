"""Fixtures: a server in this process, a server in one of its own, and a bare socket to talk to either."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import hypothesis
import pytest

import globalcache
from globalcache import _core
from globalcache.client import connection, connection_pool, multiplexed, multiplexed_connection, resp_connection
from globalcache.client import wire as wire_module
from globalcache.loaders import connection as worker_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The same examples every time, and no time limit for each: machines are shared.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

GLOBALCACHE = str(Path(sys.executable).with_name("globalcache"))


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def until(holds: Callable[[], Any], why: Callable[[], str] = str, limit: float = 60) -> None:
    """Wait for what another thread or process does in its own time; fails with `why()` after `limit` seconds."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, why()
        time.sleep(0.002)


def in_turns(call: Callable[[], object], seconds: float, count: int = 8) -> None:
    """Call something again and again from threads that take turns as often as they can; raises what it raised."""
    raised: list[BaseException] = []
    end = time.monotonic() + seconds

    def run() -> None:
        try:
            while time.monotonic() < end and not raised:
                call()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if raised:
        raise raised[0]


def transport(cache: Any) -> Any:
    """Return how a cache reaches its first server, below what users see."""
    return cache._servers[0]  # noqa: SLF001


@pytest.fixture(scope="session", autouse=True)
def _only_bytes_are_packed() -> Iterator[None]:
    """Have every command of every test looked at: hiredis crashes when a signal handler raises over other words."""
    pack, others = wire_module.pack, []

    def checked(words: tuple[bytes, ...]) -> bytes:
        others.extend([word for word in words if type(word) is not bytes])
        assert not others
        return pack(words)

    with pytest.MonkeyPatch.context() as patch:
        for module in (
            wire_module,
            connection,
            connection_pool,
            multiplexed,
            multiplexed_connection,
            resp_connection,
            worker_connection,
        ):
            patch.setattr(module, "pack", checked)
        yield
    # Threads that renew leases log what they raise.
    assert not others


class Wire:
    """A bare socket: what is sent and what comes back, byte for byte."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def expect(self, reply: bytes) -> None:
        """Read as many bytes as `reply` has and compare."""
        got = b""
        while len(got) < len(reply):
            chunk = self.socket.recv(len(reply) - len(got))
            if not chunk:
                break
            got += chunk
        assert got == reply

    def ask(self, request: bytes, reply: bytes) -> None:
        self.send(request)
        self.expect(reply)

    def rest(self) -> bytes:
        """Read until the server closes."""
        got = b""
        while chunk := self.socket.recv(1 << 16):
            got += chunk
        return got

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[globalcache.Server]:
    with globalcache.Server(memory="64MiB", threads=2) as server:
        yield server


@pytest.fixture
def server(shared_server: globalcache.Server) -> globalcache.Server:
    """Return a running server that is empty."""
    with Wire(shared_server.address) as wire:
        wire.ask(b"FLUSHALL\r\n", b"+OK\r\n")
    return shared_server


@pytest.fixture
def wire(server: globalcache.Server) -> Iterator[Wire]:
    with Wire(server.address) as wire:
        yield wire


class Process:
    """A `globalcache serve` of its own, on a free port unless told otherwise."""

    def __init__(self, *options: str, listen: str = "127.0.0.1:0") -> None:
        command = [GLOBALCACHE, "serve", "--listen", listen, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.ready = self.process.stderr.readline()
        if "ready on" not in self.ready:
            self.end()
            pytest.fail(f"the server did not start: {self.ready}")
        self.address = self.ready.split("ready on ")[1].split()[0].rstrip(",")

    def end(self) -> None:
        """Kill it if it still runs, and close its pipe."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Process]]:
    """Start servers in processes of their own, which end with the test."""
    started: list[Process] = []

    def start(*options: str, listen: str = "127.0.0.1:0") -> Process:
        started.append(Process(*options, listen=listen))
        return started[-1]

    yield start
    for process in started:
        process.end()


@contextmanager
def tool(name: str) -> Iterator[str]:
    """Give the path of a program, or skip the test."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; `make deps` installs it")
    yield path


@pytest.fixture
def redis_cli() -> Iterator[str]:
    with tool("redis-cli") as path:
        yield path


def load(address: str, pid: int) -> dict[str, float]:
    """Have 20 connections ask what they can for a moment."""
    options = {"address": address, "pid": pid, "connections": 20, "keys": 1000, "warm_up": 0.1, "seconds": 0.4}
    report: dict[str, float] = json.loads(_core.run_bench(json.dumps(options)))
    assert report["errors"] == 0
    return report


@pytest.fixture
def neighbour() -> Iterator[tuple[list[str], str, str]]:
    """Give the words that run a command in another network, this machine's address there, and the link between."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("another network needs root and iproute2")
    name, ours, theirs = f"gc-{os.getpid()}", f"gc{os.getpid()}a", f"gc{os.getpid()}b"
    here, there = "169.254.217.1", "169.254.217.2"
    steps = [
        f"ip netns add {name}",
        f"ip link add {ours} type veth peer name {theirs} netns {name}",
        f"ip addr add {here}/30 dev {ours}",
        f"ip link set {ours} up",
        f"ip -n {name} addr add {there}/30 dev {theirs}",
        f"ip -n {name} link set {theirs} up",
    ]
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{step}: {done.stderr.strip()}")
        yield ["ip", "netns", "exec", name], here, ours
    finally:
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
