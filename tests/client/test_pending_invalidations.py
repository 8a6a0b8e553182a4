"""Invalidations that a server has yet to acknowledge."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from globalcache import Cache
from globalcache.client.pending_invalidations import PendingInvalidations


def test_acknowledged_names_are_forgotten_and_later_ones_stay() -> None:
    pending = PendingInvalidations()
    pending.add([b"a", b"b"], [b"t"], sent=False)
    snapshot = pending.snapshot()
    pending.add([b"b"], sent=True)
    assert snapshot.commands() == [
        (b"CACHE.INVALIDATE", b"KEYS", b"2", b"a", b"b"),
        (b"CACHE.INVALIDATE", b"TAGS", b"1", b"t"),
    ]
    pending.acknowledge(snapshot)
    assert (len(pending), pending.snapshot().keys, pending.serial, pending.generation) == (1, [b"b"], 2, 2)
    pending.acknowledge(pending.snapshot())
    assert not pending
    assert pending.snapshot().commands() == []


def test_too_much_becomes_everything() -> None:
    pending = PendingInvalidations(most=2)
    pending.add([b"a", b"b", b"c"], sent=False)
    pending.add([b"d"], sent=False)
    assert pending.snapshot().commands() == [(b"FLUSHDB",)]
    pending.acknowledge(pending.snapshot())
    assert not pending


def test_many_names_are_several_commands() -> None:
    pending = PendingInvalidations()
    pending.add([b"%d" % number for number in range(2400)], sent=False)
    assert [int(command[2]) for command in pending.snapshot().commands()] == [1000, 1000, 400]
    # Long names make commands of fewer of them.
    pending.add(tags=[b"%d" % number + b"x" * 60_000 for number in range(6)], sent=False)
    assert [int(command[2]) for command in pending.snapshot().commands()] == [1000, 1000, 400, 4, 2]


def test_what_was_not_delivered_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else knows of it: it is lost with the last cache of this process, and with the process."""
    cache = Cache("globalcache://127.0.0.1:1")
    cache.invalidate("a", "b")
    del cache
    gc.collect()
    line = "2 writes and invalidations were not delivered to 127.0.0.1:1, which may return old values"
    assert sum(line in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(("calls", "said"), [("cache.invalidate('k')", 1), ("cache.get('k')", 0)])
def test_a_process_that_exits_says_what_it_did_not_deliver(calls: str, said: int) -> None:
    program = f"from globalcache import Cache; cache = Cache('globalcache://127.0.0.1:1'); {calls}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.count("1 write or invalidation was not delivered to 127.0.0.1:1") == said


@pytest.mark.parametrize(("keys", "text"), [(1, "1 write or inv"), (3, "3 writes and inv"), (4, "more than 3 writes")])
def test_the_text_of_what_is_pending(keys: int, text: str) -> None:
    pending = PendingInvalidations(most=3)
    pending.add([b"%d" % number for number in range(keys)], sent=False)
    assert pending.text.startswith(text)
