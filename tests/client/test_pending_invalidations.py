"""Invalidations that a server has yet to acknowledge."""

from __future__ import annotations

import gc
import hashlib
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import globalcache
from globalcache import Cache
from globalcache.client.endpoint import Endpoint
from globalcache.client.pending_invalidations import PendingInvalidations
from tests.client.faces import Face

if TYPE_CHECKING:
    from pathlib import Path


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


def test_debts_that_may_not_be_paid_are_misses(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More was lost than is remembered by name, and the user may not empty the server: misses, and one warning."""
    users = tmp_path / "users"
    users.write_text(f"user app on #{hashlib.sha256(b'pw').hexdigest()} ~* &* +@all -flushdb -cache.invalidate\n")
    with globalcache.Server(memory="16MiB", threads=1, users_file=str(users)) as server:
        with Face(kind, f"globalcache://app:pw@{server.address}", timeout=5) as face:
            assert face("set", "x", "old")
            face.endpoint.undelivered(tuple(b"%d" % number for number in range(20_000)), (), sent=True)
            with caplog.at_level(logging.WARNING, "globalcache"):
                for _ in range(5):
                    assert face("get", "x") is None
                assert face("get_or_load", "x", lambda: "new") == "new"
            assert len([record for record in caplog.records if "cannot be made good" in record.message]) == 1
        # Lost keys that are known by name are deleted instead.
        with Face(kind, f"globalcache://app:pw@{server.address}", timeout=5) as face:
            assert face("get", "x") == "old"
            face.endpoint.undelivered((b"x",), (), sent=True)
            assert face("get", "x") is None
            assert face("set", "x", "new")
            assert face("get", "x") == "new"


def test_a_connection_older_than_a_lost_write_is_not_read(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write is lost while a connection is greeted: it names the old generation, so it would fence nobody."""
    greeting, generations = Endpoint.greeting, []

    def lose_one(endpoint: Endpoint, generation: int) -> list[tuple[bytes, ...]]:
        generations.append(generation)
        if len(generations) == 1:
            endpoint.undelivered((b"k",), (), sent=True)
        return greeting(endpoint, generation)

    monkeypatch.setattr(Endpoint, "greeting", lose_one)
    assert face("get", "k") is None
    assert generations == [1, 2]
    assert face.endpoint.pending.generation == 2
    assert len(face.endpoint.pending) == 0
