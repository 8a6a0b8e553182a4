"""Programs of this version and of the one before, each in a process of its own.

$HOME_BEFORE is an environment of Python that has the version before.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Wire

ROOT = Path(__file__).parents[2]
HOME_BEFORE = ROOT / os.environ.get("HOME_BEFORE", "none")
# Seconds until a call that should have ended counts as one that does not.
LIMIT = 30


def program(version: str, name: str) -> list[str]:
    """Return the path of a program of a version."""
    return [str((HOME_BEFORE / "bin" if version == "before" else Path(sys.executable).parent) / name)]


def environment(version: str, **more: str) -> dict[str, str]:
    """Return the environment of a process, in which only this version is found."""
    hidden = {"PYTHONPATH"} if version == "before" else set()
    return {name: value for name, value in os.environ.items() if name not in hidden} | more


class TheServer:
    """A server of a version, in a process of its own."""

    def __init__(self, version: str, *options: str, listen: str = "127.0.0.1:0") -> None:
        words = [*program(version, "globalcache"), "serve", "--listen", listen, "--memory", "64MiB", "--debug-time"]
        self.process = subprocess.Popen([*words, *options], stderr=subprocess.PIPE, text=True, env=environment(version))
        assert self.process.stderr is not None
        ready = self.process.stderr.readline()
        if "ready on" not in ready:
            self.end()
            pytest.fail(f"the server did not start: {ready}")
        self.address = ready.split("ready on ")[1].split()[0].rstrip(",")
        self.url = f"globalcache://{self.address}"
        # How many errors a test means to get.
        self.meant = 0

    def pass_time(self, seconds: int) -> None:
        with Wire(self.address) as wire:
            wire.ask(b"debugtime %d\r\n" % seconds, b"OK\r\n")

    def errors(self) -> int:
        """Return how many commands were answered with an error."""
        with Wire(self.address) as wire:
            wire.send(b"INFO stats\r\nQUIT\r\n")
            told = wire.rest().decode()
        return int(told.split("total_error_replies:")[1].split()[0])

    def end(self) -> None:
        """End it, if it has not ended."""
        self.process.terminate()
        self.process.wait(LIMIT)
        assert self.process.stderr is not None
        self.process.stderr.close()


class ToldError(Exception):
    """What a call at a peer raised."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Peer:
    """A client of a version, in a process of its own; see peer.py."""

    def __init__(self, version: str, url: str, face: str) -> None:
        self.version = version
        self.process = subprocess.Popen(
            [*program(version, "python"), "-m", "tests.versions.peer", url, face],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(version),
        )
        self._numbers = itertools.count()
        self._answers: dict[int, Future[Any]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def begin(self, call: str, *args: Any, **options: Any) -> Future[Any]:
        """Begin a call; returns its outcome."""
        number = next(self._numbers)
        answer = self._answers[number] = Future()
        assert self.process.stdin is not None
        line = {"id": number, "call": call, "args": args, "options": options}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return answer

    def __call__(self, call: str, *args: Any, **options: Any) -> Any:
        """Do a call and return its value; raises ToldError."""
        return self.begin(call, *args, **options).result(LIMIT)

    def count(self, key: str) -> int:
        """Return how often a row was selected in this process."""
        return int(self("database.count", key))

    def refused(self) -> int:
        """Return what the client counts of what it was refused."""
        stats = self("cache.stats")
        return int(stats["errors"] + stats["refused_fills"])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            future = self._answers.pop(answer["id"])
            if "error" in answer:
                future.set_exception(ToldError(answer["error"], answer["text"]))
            else:
                future.set_result(answer["value"])
        for future in self._answers.values():
            future.set_exception(ToldError("EOFError", "the process ended"))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self._reader.join(LIMIT)
        self.process.kill()
        self.process.wait(LIMIT)
        self.process.stdout.close()
