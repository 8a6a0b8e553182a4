"""A PostgreSQL cluster in a temporary folder, on a free port of this machine, for the time of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def programs() -> Path | None:
    """Return the folder of the newest initdb and postgres, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Cluster:
    """A running cluster; `url` is of its database, `port` the one that it listens on."""

    def __init__(self, folder: Path, programs: Path, port: int) -> None:
        self.port = port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._folder, self._programs, self._runs = folder, programs, False
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        data = folder / "data"
        data.mkdir()
        if self._user is not None:
            for path in (folder, data):
                shutil.chown(path, self._user)
        self._run("initdb", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--no-locale")

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        settings = "-c listen_addresses=127.0.0.1 -c fsync=off -c max_prepared_transactions=8"
        options = f"-p {self.port} {settings} -k {self._folder}"
        self._run("pg_ctl", "-w", "-t", "60", "-s", "-l", str(self._folder / "log"), "-o", options, "start")
        self._runs = True

    def stop(self) -> None:
        """Stop it as a crash would, if it runs."""
        if self._runs:
            self._runs = False
            self._run("pg_ctl", "-w", "-t", "60", "-s", "-m", "immediate", "stop")

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *words]
        # What pg_ctl starts keeps its output: it must be no pipe that somebody reads to its end.
        null = subprocess.DEVNULL
        subprocess.run(command, check=True, stdout=null, stderr=null, user=self._user, cwd=self._folder, timeout=120)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Give a new cluster that runs, or skip the test if PostgreSQL is not installed."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed; `make deps` installs it")
    with tempfile.TemporaryDirectory() as temporary:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = Cluster(Path(temporary), folder, port)
        made.start()
        try:
            yield made
        finally:
            made.stop()
