"""The memory that a server takes, whatever is written to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Process

LIMIT = 16 << 20
LOADS = [(16, 16), (100_000, 100_000), (300, 300), (1_000_000, 1_000_000), (3_000, 30_000), (4, 500_000), (20, 200)]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the memory of a process")
def test_memory_stays_within_its_limit_as_values_change_size(serve: Callable[..., Process]) -> None:
    server = serve("--threads", "1", "--memory", str(LIMIT), "--max-value", "1MiB")
    chance = random.Random(1)
    blob = chance.randbytes(1 << 20)
    before = growth = resident(server.process.pid)
    with Wire(server.address) as wire:
        for low, high in LOADS:
            left = 2 * LIMIT
            while left > 0:
                batch = []
                for _ in range(min(200, 1 + (4 << 20) // high)):
                    length = chance.randint(low, high)
                    key = chance.randrange(LIMIT // (length + 60) + 1)
                    batch.append(b"*3\r\n$3\r\nSET\r\n$8\r\n%08d\r\n$%d\r\n%b\r\n" % (key, length, blob[:length]))
                    left -= length + 60
                wire.ask(b"".join(batch), b"+OK\r\n" * len(batch))
            growth = resident(server.process.pid) - before
            assert growth <= 1.05 * LIMIT + (16 << 20), (low, high)
    assert growth > LIMIT // 4
