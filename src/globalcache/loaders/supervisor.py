"""Worker processes beside a server: started, told where it is, started again when they die, and ended with it.

A worker imports the application first and says which patterns it serves, so that the server can know them before it
answers anybody; then it is told the server's URL. A pipe that it listens on ends with this process, and so does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

# Waiting for an application to be imported, and for its worker to be known to the server, in seconds.
_IMPORT, _READY = 30.0, 5.0
# Between a death and the next start; the longest if it dies at once, time and again.
_SOONEST, _LATEST = 0.25, 10.0
_LONG_LIFE = 10.0
_GRACE = 8.0


class Supervisor:
    """`count` workers for an application such as "shop:cache"."""

    def __init__(self, target: str, count: int) -> None:
        self.target = target
        self._workers = [_Worker(target) for _ in range(count)]
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._url = ""

    def start(self, environment: dict[str, str]) -> list[str]:
        """Start them; returns the patterns of the keys that they load, none if one of them cannot."""
        for worker in self._workers:
            worker.start(environment)
        self._environment = environment
        facts = [worker.facts(_IMPORT) for worker in self._workers]
        if not all(facts):
            return []
        return list(dict.fromkeys(pattern for fact in facts if fact for pattern in fact["patterns"]))

    def serve(self, url: str) -> list[str]:
        """Tell them where the server is, wait until they are ready, and watch over them; returns a line for each."""
        self._url = url
        lines = []
        for number, worker in enumerate(self._workers, 1):
            worker.tell(url)
            is_ready = worker.templates is not None and worker.facts(_READY) is not None
            what = "  ".join(worker.templates or ()) if is_ready else "not ready yet; see above"
            lines.append(f"worker {number}: {self.target}  {what}")
            self._threads.append(
                threading.Thread(target=self._watch, args=(worker,), name=f"watch-{number}", daemon=True)
            )
        for thread in self._threads:
            thread.start()
        return lines

    def _watch(self, worker: _Worker) -> None:
        pause = _SOONEST
        while True:
            status = worker.wait()
            if self._stopping.is_set():
                return
            pause = _SOONEST if worker.lived() > _LONG_LIFE else pause
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            print(f"globalcache: worker {how}; started again in {pause:g} s", file=sys.stderr, flush=True)
            if self._stopping.wait(pause):
                return
            pause = min(pause * 2, _LATEST)
            worker.start(self._environment)
            if worker.facts(_IMPORT):
                worker.tell(self._url)

    def stop(self) -> None:
        """End them: what they are loading they may finish."""
        self._stopping.set()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        for worker in self._workers:
            worker.end(deadline)


class _Worker:
    """One process, and a pipe each way: its facts, and the URL that it is told."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None
        self._facts = self._orders = -1
        self._begun = 0.0
        self.templates: list[str] | None = None

    def start(self, environment: dict[str, str]) -> None:
        self._close()
        self._facts, facts = os.pipe()
        orders, self._orders = os.pipe()
        command = [sys.executable, "-c", "from globalcache.cli import main; main()", "worker", self._target]
        command += ["--pipes", f"{orders},{facts}"]
        self.templates = None
        self._begun = time.monotonic()
        self._process = subprocess.Popen(command, pass_fds=(orders, facts), env=os.environ | environment)
        os.close(orders)
        os.close(facts)

    def facts(self, timeout: float) -> dict[str, Any] | None:
        """Return the next thing that it says; None if it ends before or says nothing in time."""
        line = b""
        deadline = time.monotonic() + timeout
        # Not select(), which knows no descriptors from 1,024 on.
        poll = select.poll()
        poll.register(self._facts, select.POLLIN)
        while not line.endswith(b"\n"):
            chunk = os.read(self._facts, 1) if poll.poll(max(0, deadline - time.monotonic()) * 1000) else b""
            if not chunk:
                return None
            line += chunk
        found: dict[str, Any] = json.loads(line)
        self.templates = found.get("templates", self.templates)
        return found

    def tell(self, url: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead, which its watcher sees
            os.write(self._orders, url.encode() + b"\n")

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait()

    def lived(self) -> float:
        return time.monotonic() - self._begun

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, deadline: float) -> None:
        if self._process is not None:
            try:
                self._process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _close(self) -> None:
        for end in (self._facts, self._orders):
            if end >= 0:
                os.close(end)
        self._facts = self._orders = -1
