"""What many clients did to one key, and whether one register could have done it: a linearizability checker.

By G. Lowe's just-in-time method ("Testing for linearizability", 2016): walk through calls and returns in the order of
time with the set of configurations that are possible so far, each the register's state and the running operations that
have taken effect in it. At a return the operation must have taken effect; only then others that run are tried before
it. Keys are independent of each other (linearizability is local), so each key is checked alone.

An operation whose outcome is unknown (a time-out, a cut connection) never returns: it may take effect at any later
time, or never. Configurations that differ only in such operations are compared: one that has used fewer of them can do
whatever the other can, so only the smallest are kept. Written values must be unique per key; a history in which they
are not is refused, because its verdict would be weaker than it looks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

State = int | None  # None: there is no such key
Kind = Literal["read", "write", "cas", "delete", "add"]
Outcome = Literal["ok", "differs", "missing", "done", "unknown"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Times are of one clock that never goes back; `returned` is inf if nothing came back.

    read: `ok` with `value`, or `missing`. write: `ok`. cas: `ok`; `differs` if the value was not `expected`; `missing`.
    delete: `ok` if there was a value, `missing`, or `done` where the protocol does not tell.
    add (write if there is none): `ok`, or `differs` if there was one.
    """

    client: int
    key: str
    kind: Kind
    outcome: Outcome
    called: float
    returned: float = math.inf
    value: State = None
    expected: State = None

    def effect(self, state: State) -> tuple[State] | None:
        """Return the state after it took effect in `state`, or None if its outcome is impossible there."""
        known = self.outcome != "unknown"
        match self.kind:
            case "read":
                fits, after, seen = state == self.value, state, "missing" if state is None else "ok"
                if known and seen == "ok" and not fits:
                    return None
            case "write":
                after, seen = self.value, "ok"
            case "cas":
                seen = "missing" if state is None else "ok" if state == self.expected else "differs"
                after = self.value if seen == "ok" else state
            case "delete":
                after, seen = None, "missing" if state is None else "ok"
            case "add":
                after, seen = (self.value, "ok") if state is None else (state, "differs")
        return (after,) if self.outcome in {"done", "unknown", seen} else None

    def __str__(self) -> str:
        until = f"{self.returned:.6f}" if self.returned < math.inf else "open"
        what = " ".join(str(part) for part in (self.expected, self.value) if part is not None)
        return f"{self.called:.6f} - {until}  client {self.client}  {self.kind} {self.key} {what}  {self.outcome}"


@dataclass(frozen=True)
class Violation:
    """The first return that no order explains, and what ran or ended just before it."""

    operation: Operation
    states: frozenset[State]
    context: tuple[Operation, ...]

    def __str__(self) -> str:
        lines = [f"no order explains: {self.operation}", f"possible states before it: {sorted(map(str, self.states))}"]
        return "\n".join([*lines, "just before it:", *(f"  {operation}" for operation in self.context)])


def check(history: Iterable[Operation], *, forgets: bool = False) -> Violation | None:
    """Return what is wrong with the first key that is, or None. With `forgets` a value may vanish at any time."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    for operations in keys.values():
        violation = _check_key(operations, forgets=forgets)
        if violation is not None:
            return violation
    return None


class _Configurations:
    """Possible worlds: state and effective operations that will return -> the least sets of unknown ones used."""

    def __init__(self) -> None:
        self._least: dict[tuple[State, int], list[int]] = {}

    def add(self, state: State, done: int, used: int) -> bool:
        """Return False if a world that was already there can do whatever this one can."""
        others = self._least.setdefault((state, done), [])
        if any(other & used == other for other in others):
            return False
        others[:] = [other for other in others if other & used != used]
        others.append(used)
        return True

    def __iter__(self) -> Iterator[tuple[State, int, int]]:
        for (state, done), sets in self._least.items():
            for used in sets:
                yield state, done, used

    def states(self) -> frozenset[State]:
        return frozenset(state for state, _ in self._least)


class _Running:
    """Operations that were called and have not returned, each with a bit; bits of those that returned are reused."""

    def __init__(self) -> None:
        self.bits: dict[int, Operation] = {}
        self._place: dict[int, int] = {}
        self._free: list[int] = []

    def call(self, operation: Operation) -> None:
        bit = self._free.pop() if self._free else 1 << len(self.bits)
        self.bits[bit] = operation
        self._place[id(operation)] = bit

    def end(self, operation: Operation) -> int:
        bit = self._place.pop(id(operation))
        del self.bits[bit]
        self._free.append(bit)
        return bit


def _check_key(operations: list[Operation], *, forgets: bool) -> Violation | None:
    written = [one.value for one in operations if one.kind in {"write", "cas", "add"}]
    if len(written) != len(set(written)):
        raise ValueError(f"values written to {operations[0].key} are not unique")
    # An unknown read changes nothing and told nobody anything. At one moment calls stand before returns: operations
    # that touch count as concurrent, which can hide a violation but never invents one.
    told = [one for one in operations if one.kind != "read" or one.outcome != "unknown"]
    calls = [(one.called, 0, number) for number, one in enumerate(told)]
    returns = [(one.returned, 1, number) for number, one in enumerate(told) if one.outcome != "unknown"]
    running = _Running()
    worlds = _Configurations()
    worlds.add(None, 0, 0)
    for _, is_return, number in sorted(calls + returns):
        operation = told[number]
        if not is_return:
            running.call(operation)
            continue
        before = worlds
        worlds = _after_return(before, running, operation, forgets=forgets)
        if not worlds.states():
            ended = [one for one in told if one.returned < operation.returned]
            near = sorted(ended, key=lambda one: one.returned)[-6:] + list(running.bits.values())[-6:]
            return Violation(operation, before.states(), tuple(near))
    return None


def _useful(running: _Running) -> list[tuple[int, Operation]]:
    """Unknown operations whose effect a running one could be the first to see.

    Nobody sees the others before the next return, so they can as well take effect later, or not at all.
    """
    values: set[State] = set()
    anything = False
    for one in running.bits.values():
        if one.kind == "add" or one.outcome == "missing":
            values.add(None)
        if one.kind == "cas":
            values.add(one.expected)
        elif one.kind == "read" and one.outcome == "ok":
            values.add(one.value)
        anything = anything or one.outcome == "differs" or (one.kind == "delete" and one.outcome == "ok")
    unknown = [(bit, one) for bit, one in running.bits.items() if one.outcome == "unknown"]
    return [(bit, one) for bit, one in unknown if anything or (None if one.kind == "delete" else one.value) in values]


def _after_return(
    worlds: _Configurations, running: _Running, operation: Operation, *, forgets: bool
) -> _Configurations:
    """The worlds in which `operation` has taken effect, with its bit forgotten."""
    (own,) = (bit for bit, one in running.bits.items() if one is operation)
    candidates = [(bit, one) for bit, one in running.bits.items() if one.outcome != "unknown"]
    candidates += _useful(running)
    reached, tried = _Configurations(), _Configurations()
    ahead = list(worlds)
    for world in ahead:
        tried.add(*world)
    while ahead:
        state, done, used = ahead.pop()
        if done & own:
            reached.add(state, done & ~own, used)
            continue
        if forgets and state is not None and tried.add(None, done, used):
            ahead.append((None, done, used))
        for bit, one in candidates:
            if (done | used) & bit:
                continue
            effect = one.effect(state)
            if effect is None:
                continue
            unknown = one.outcome == "unknown"
            if unknown and effect[0] == state:
                continue
            world = (effect[0], done, used | bit) if unknown else (effect[0], done | bit, used)
            if tried.add(*world):
                ahead.append(world)
    running.end(operation)
    return reached
