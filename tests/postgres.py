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


@contextmanager
def cluster() -> Iterator[str]:
    """Give the URL of a new cluster, or skip the test if PostgreSQL is not installed."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed; `make deps` installs it")
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as temporary, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        data = Path(temporary) / "data"
        data.mkdir()
        if user is not None:
            for path in (Path(temporary), data):
                shutil.chown(path, user)
        initdb: list[str | Path] = [
            folder / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=temporary, timeout=120)
        free.close()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {temporary}"
        control: list[str | Path] = [folder / "pg_ctl", "-D", data, "-w", "-t", "60", "-s"]
        log = Path(temporary) / "log"
        subprocess.run([*control, "-l", log, "-o", options, "start"], check=True, user=user, cwd=temporary, timeout=90)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, user=user, cwd=temporary, timeout=60)
