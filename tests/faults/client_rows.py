"""What the processes of the mixed load of clients share: the rows, how many, and what they note of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import mmap
import os
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Rows of each kind; the kinds of row by their cached functions, with ttl and refresh_after in seconds.
ROWS = 12
KINDS: dict[str, dict[str, Any]] = {
    "short": {"ttl": 0.4},
    "fresh": {"ttl": 5, "refresh_after": 0.3},
    "kept": {"ttl": 0.5, "stale_if_error": 5},
    "many": {"ttl": 0.6, "refresh_after": 0.2},
}
NAMES = list(KINDS)
# Processes, lanes of a process: threads that call the plain face, tasks that call the other, one that writes, one that
# forks.
PROCESSES, THREADS, TASKS = 3, 3, 6
# A process that is told to end says where it hangs, shortly before it is given up.
EXIT = 20.0
# Every call is over after its time-outs and its wait.
LAST_CALL = 15.0
WELL, DYING, PAUSE, END = range(4)
# Where the counters stand: the phase, then versions and acknowledged versions, then which lanes rest.
COUNT = len(KINDS) * ROWS
VERSION, ACKNOWLEDGED, RESTING = 1, 1 + COUNT, 1 + 2 * COUNT
LANES = THREADS + TASKS + 2
SIZE = 8 * (RESTING + PROCESSES * LANES)


@dataclasses.dataclass
class Row:
    """A row of one version, with fields whose types JSON does not have."""

    index: int
    version: int
    is_away: bool
    price: Decimal
    at: dt.datetime
    parts: list[tuple[int, str]]
    pad: str = dataclasses.field(default="", compare=False)


def row_of(index: int, version: int, *, is_away: bool, pad: str = "") -> Row:
    """Return what a row holds: all follows from its version."""
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=version)
    return Row(index, version, is_away, Decimal(version).scaleb(-2), at, [(version, str(index))], pad)


class Counters:
    """Numbers in a file that all processes map."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)

    def __getitem__(self, at: int) -> int:
        return int(struct.unpack_from("q", self._map, 8 * at)[0])

    def __setitem__(self, at: int, number: int) -> None:
        struct.pack_into("q", self._map, 8 * at, number)

    @property
    def phase(self) -> int:
        return self[0]


class Log:
    """What a process did: lines that survive its death."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, *facts: Any) -> None:
        os.write(self._file, json.dumps(facts).encode() + b"\n")

    def fault(self, kind: str, detail: str) -> None:
        self("fault", kind, detail[:400])


def key_of(index: int) -> str:
    return f"{NAMES[index // ROWS]}:{index % ROWS}"


def index_of(key: str) -> int:
    kind, _, number = key.partition(":")
    return NAMES.index(kind) * ROWS + int(number)
