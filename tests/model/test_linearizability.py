"""Every door together is one register per key; and a register with seeded faults is caught by the same means."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import Proxy
from tests.model.doors import Json, Memcached, Network, Node, Resp
from tests.model.driver import drive
from tests.model.history import Operation, check

if TYPE_CHECKING:
    import globalcache
    from tests.model.doors import Answer, Door
    from tests.model.history import Kind, State

# `make faults` sets both.
OPERATIONS = 400 * int(os.environ.get("FAULTS_ROUNDS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", str(random.randrange(1 << 20))))


def verdict(history: list[Operation]) -> None:
    """Print what was checked and fail on a violation."""
    outcomes = Counter(operation.outcome for operation in history)
    print(f"seed {SEED}: {len(history)} operations, {dict(outcomes)}")
    assert all(outcomes[one] for one in ("ok", "differs", "missing", "done"))
    violation = check(history)
    assert violation is None, f"seed {SEED}\n{violation}"


def test_all_protocols_together_are_one_register_per_key(server: globalcache.Server) -> None:
    doors: list[Door] = [door(server.address) for door in (Resp, Memcached, Json) for _ in range(3)]
    history = drive(doors, seed=SEED, operations=OPERATIONS)
    assert all(operation.outcome != "unknown" for operation in history)
    verdict(history)


def test_cut_links_leave_outcomes_open_and_nothing_wrong(server: globalcache.Server) -> None:
    done = threading.Event()
    with Proxy(server.address) as proxy:

        def cut() -> None:
            while not done.wait(0.02):
                proxy.cut()

        cutter = threading.Thread(target=cut)
        cutter.start()
        doors: list[Door] = [door(proxy.address) for door in (Resp, Memcached, Json) for _ in range(2)]
        doors += [Resp(server.address), Json(server.address)]
        try:
            # Every open outcome doubles what may have happened to its key: keys are short-lived here.
            history = drive(doors, seed=SEED, operations=OPERATIONS // 2, rotate=40)
        finally:
            done.set()
            cutter.join()
    assert any(operation.outcome == "unknown" for operation in history)
    verdict(history)


def test_maelstrom_nodes_are_one_register_per_key() -> None:
    network = Network(["n1", "cache", "n2", "n3"], SEED)
    try:
        doors = [Node(network, network.nodes[number % 4], f"c{number + 1}") for number in range(8)]
        history = drive(doors, seed=SEED, operations=OPERATIONS // 4)
    finally:
        network.close()
    verdict(history)


class Faulty:
    """A register that keeps its word but for one fault, which it commits now and then."""

    def __init__(self, fault: str, seed: int) -> None:
        self.fault = fault
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.values: dict[str, State] = {}
        self.old: dict[str, State] = {}

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        time.sleep(0)
        with self.lock:
            state = self.values.get(key)
            now = self.random.random() < 0.25
            if kind == "read":
                if now and self.fault == "stale read" and self.old.get(key) is not None:
                    state = self.old[key]
                if now and self.fault == "late fill" and state is None:
                    state = self.values[key] = self.old.get(key)
                return ("missing" if state is None else "ok"), state
            answer = Operation(0, key, kind, "unknown", 0, 0, value, expected)
            effect = answer.effect(state)
            assert effect is not None
            differs = (kind == "cas" and state != expected) or (kind == "add" and state is not None)
            if kind in {"cas", "delete"} and state is None:
                return "missing", None
            if differs:
                return "differs", None
            if not (now and self.fault == "lost compare-and-set" and kind == "cas"):
                self.old[key], self.values[key] = state, effect[0]
            return "ok", None


class FaultyDoor:
    """A client of it."""

    kinds: tuple[Kind, ...] = ("read", "write", "cas", "delete", "add")

    def __init__(self, register: Faulty) -> None:
        self.ask = register.ask

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("fault", ["stale read", "lost compare-and-set", "late fill"])
def test_a_register_with_a_fault_is_caught(fault: str) -> None:
    # Which operations overlap is up to the threads: one run may hide the fault behind them, twenty do not.
    runs = (drive([FaultyDoor(Faulty(fault, seed))] * 6, seed=seed, operations=1000) for seed in range(20))
    assert any(check(history) is not None for history in runs)


def test_the_same_register_without_a_fault_passes() -> None:
    register = Faulty("none", 1)
    assert check(drive([FaultyDoor(register) for _ in range(6)], seed=1, operations=400)) is None
