"""What a process remembers while a server is away."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from globalcache import Cache
from globalcache.client.outage import Breaker, Owed


def test_a_bill_is_settled_once_and_what_came_since_stays() -> None:
    owed = Owed()
    owed.add([b"a", b"b"], [b"t"], sent=False)
    bill = owed.bill()
    owed.add([b"b"], sent=True)
    assert bill.commands() == [
        (b"CACHE.INVALIDATE", b"KEYS", b"2", b"a", b"b"),
        (b"CACHE.INVALIDATE", b"TAGS", b"1", b"t"),
    ]
    owed.settle(bill)
    assert (len(owed), owed.bill().keys, owed.serial, owed.generation) == (1, [b"b"], 2, 2)
    owed.settle(owed.bill())
    assert not owed
    assert owed.bill().commands() == []


def test_too_much_becomes_everything() -> None:
    owed = Owed(most=2)
    owed.add([b"a", b"b", b"c"], sent=False)
    owed.add([b"d"], sent=False)
    assert owed.bill().commands() == [(b"FLUSHDB",)]
    owed.settle(owed.bill())
    assert not owed


def test_long_bills_are_several_commands() -> None:
    owed = Owed()
    owed.add([b"%d" % number for number in range(2400)], sent=False)
    assert [int(command[2]) for command in owed.bill().commands()] == [1000, 1000, 400]
    # Long names make commands of fewer of them.
    owed.add(tags=[b"%d" % number + b"x" * 60_000 for number in range(6)], sent=False)
    assert [int(command[2]) for command in owed.bill().commands()] == [1000, 1000, 400, 4, 2]


def test_pauses_double_and_one_caller_at_a_time_tries() -> None:
    breaker = Breaker()
    assert breaker.may_try(0)
    assert breaker.failed(0, draw=1)
    assert not breaker.failed(0, draw=1)  # told once
    pauses = []
    now = 0.0
    for _ in range(10):
        breaker.failed(now, draw=1)
        step = now
        while not breaker.may_try(step):
            step += 0.01
        assert not breaker.may_try(step)  # the next one waits for what that one finds
        pauses.append(round(step - now, 2))
        now = step
    assert pauses[:3] == sorted(pauses[:3])
    assert max(pauses) <= 2.02
    assert breaker.succeeded(100) == 100
    assert breaker.succeeded(101) is None


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
def test_the_text_of_what_is_owed(keys: int, text: str) -> None:
    owed = Owed(most=3)
    owed.add([b"%d" % number for number in range(keys)], sent=False)
    assert owed.text.startswith(text)
