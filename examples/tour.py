"""The first five minutes, done by a program: what `make run` promises is checked step by step.

It works on a copy of the shop and with a server of its own, and prints what it does. Exit status 0: all was so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
GLOBALCACHE = str(Path(sys.executable).with_name("globalcache"))


class Tour:
    """A server with the shop behind it, and the commands that are tried on it."""

    def __init__(self, folder: Path) -> None:
        for name in ("shop.py", "herd.py"):
            shutil.copy(HERE / name, folder / name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.env = os.environ | {"GLOBALCACHE_URL": address, "PYTHONUNBUFFERED": "1"}
        self.run(sys.executable, "shop.py", "create")
        self.output = folder / "output"
        with self.output.open("w") as output:
            command = [GLOBALCACHE, "serve", "shop:cache", "--listen", address]
            self.server = subprocess.Popen(command, cwd=folder, env=self.env, stdout=output, stderr=output)
        self.until(lambda: "worker 1: shop:cache  product:{id:int}  order:{id:int}" in self.output.read_text())

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user does."""
        return subprocess.run(
            words, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )

    def queries(self) -> int:
        """Count the lines that the shop has printed about its queries."""
        return len(re.findall(r"^  \d\d:\d\d:\d\d\.\d{3}  \w+ \d+ rows? ", self.output.read_text(), re.MULTILINE))

    def until(self, holds: Callable[[], bool], limit: float = 30.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + limit
        while not holds():
            if self.server.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"waited in vain; the server said:\n{self.output.read_text()}")
            time.sleep(0.02)

    def step(self, *words: str, shows: str, queries: int = 0, status: int = 0) -> None:
        """Run a command and check what it shows, and how many queries the database sees for it."""
        before = self.queries()
        done = self.run(*words)
        shown = (done.stdout + done.stderr).strip()
        print(f"$ {' '.join(Path(word).name for word in words)}\n{shown}".strip())
        assert done.returncode == status, f"status {done.returncode}: {shown}"
        assert re.search(shows, shown), f"expected {shows}"
        self.until(lambda: self.queries() >= before + queries)
        assert self.queries() == before + queries, f"{self.queries() - before} queries, not {queries}"

    def end(self) -> None:
        """Stop the server as Ctrl-C does."""
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(20) == 0, self.output.read_text()


def main() -> None:
    """Take the tour."""
    python, shop = sys.executable, "shop.py"
    with tempfile.TemporaryDirectory() as folder:
        tour = Tour(Path(folder))
        try:
            tour.step(GLOBALCACHE, "get", "product:1", shows=r'^\{"id":1,"name":"Tea","price":4.5\}$', queries=1)
            tour.step(GLOBALCACHE, "get", "product:1", shows=r'^\{"id":1,"name":"Tea","price":4.5\}$')
            tour.step(GLOBALCACHE, "stats", shows=r"hits +\d+\n.*\nloads +1\n")
            tour.step(GLOBALCACHE, "inspect", "product:1", shows=r"state +hit\n(.*\n)*lease +none")
            tour.step(
                python, "herd.py", shows="8 processes, 1,000 readers, product:77 cold: 1 query, all answered", queries=1
            )
            tour.step(python, shop, "price", "1", "19.90", shows="^$")
            tour.step(GLOBALCACHE, "get", "product:1", shows='"price":19.9}', queries=1)
            tour.step(GLOBALCACHE, "get", "order:7", shows=r'^\{"id":7,"product":50,"quantity":3\}$', queries=1)
            tour.step(GLOBALCACHE, "get", "product:5000", shows="^$", status=1, queries=1)
            tour.step(python, shop, "down", shows="^$")
            tour.step(GLOBALCACHE, "get", "product:999", shows="product:999: .*OperationalError", status=4)
            tour.step(GLOBALCACHE, "get", "product:1", shows='"price":19.9}')
            tour.step(python, shop, "up", shows="^$")
            tour.until(lambda: tour.run(GLOBALCACHE, "get", "product:999").returncode == 0, 2.0)
        finally:
            tour.end()
    print("All of it is so.")


if __name__ == "__main__":
    main()
