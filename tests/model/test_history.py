"""The checker against histories whose verdict is known, and against the definition by brute force."""

from __future__ import annotations

import itertools
import math
import random
import sys

import pytest

from tests.model.history import Kind, Operation, Outcome, State, check


def op(  # noqa: PLR0917 - histories are tables
    kind: Kind,
    outcome: Outcome,
    called: float,
    returned: float = math.inf,
    value: State = None,
    expected: State = None,
    key: str = "k",
) -> Operation:
    return Operation(0, key, kind, outcome, called, returned, value, expected)


GOOD = {
    "empty": [],
    "a read beside a write sees the old or the new": [
        op("write", "ok", 0, 1, 1),
        op("write", "ok", 2, 9, 2),
        op("read", "ok", 3, 4, 1),
        op("read", "ok", 5, 6, 2),
    ],
    "two writes at once in either order": [
        op("write", "ok", 0, 5, 1),
        op("write", "ok", 0, 5, 2),
        op("read", "ok", 6, 7, 1),
    ],
    "an unknown write takes effect late": [
        op("write", "ok", 0, 1, 1),
        op("write", "unknown", 2, value=2),
        op("read", "ok", 3, 4, 1),
        op("read", "ok", 100, 101, 2),
    ],
    "or never": [op("write", "unknown", 0, value=1), op("read", "missing", 100, 101)],
    "a failed compare-and-set shows the effect of an unknown write": [
        op("write", "ok", 0, 1, 1),
        op("write", "unknown", 2, value=2),
        op("cas", "differs", 3, 4, 3, 1),
    ],
    "one of two compare-and-sets wins": [
        op("write", "ok", 0, 1, 1),
        op("cas", "ok", 2, 5, 2, 1),
        op("cas", "differs", 2, 5, 3, 1),
        op("read", "ok", 6, 7, 2),
    ],
    "add after delete": [
        op("write", "ok", 0, 1, 1),
        op("delete", "ok", 2, 3),
        op("add", "ok", 4, 5, 2),
        op("add", "differs", 6, 7, 3),
        op("delete", "ok", 8, 9),
        op("delete", "missing", 10, 11),
    ],
}

BAD = {
    "a value nobody wrote": [op("read", "ok", 0, 1, 7)],
    "a stale read": [op("write", "ok", 0, 1, 1), op("write", "ok", 2, 3, 2), op("read", "ok", 4, 5, 1)],
    "back to the old value while the write runs": [
        op("write", "ok", 0, 1, 1),
        op("write", "ok", 2, 9, 2),
        op("read", "ok", 3, 4, 2),
        op("read", "ok", 5, 6, 1),
    ],
    "a lost compare-and-set": [
        op("write", "ok", 0, 1, 1),
        op("cas", "ok", 2, 5, 2, 1),
        op("cas", "ok", 2, 5, 3, 1),
    ],
    "a late fill after a delete": [
        op("write", "ok", 0, 1, 1),
        op("delete", "ok", 2, 3),
        op("read", "missing", 4, 5),
        op("read", "ok", 6, 7, 1),
    ],
    "a value vanishes": [op("write", "ok", 0, 1, 1), op("read", "missing", 2, 3)],
    "an unknown write takes effect twice": [
        op("write", "unknown", 0, value=1),
        op("read", "ok", 2, 3, 1),
        op("write", "ok", 4, 5, 2),
        op("read", "ok", 6, 7, 1),
    ],
    "an unknown write seen before it was called": [op("read", "ok", 0, 1, 1), op("write", "unknown", 2, value=1)],
    "two adds win": [op("add", "ok", 0, 5, 1), op("add", "ok", 0, 5, 2)],
    "one key of two": [op("write", "ok", 0, 1, 1, key="a"), op("read", "ok", 2, 3, 9, key="b")],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_caught_and_the_culprit_is_named(name: str) -> None:
    violation = check(BAD[name])
    assert violation is not None
    assert str(violation.operation) in str(violation)


def test_a_value_may_be_evicted_but_not_come_back() -> None:
    assert check(BAD["a value vanishes"], forgets=True) is None
    assert check(BAD["a late fill after a delete"], forgets=True) is not None
    assert check(BAD["a stale read"], forgets=True) is not None


def test_values_must_be_unique() -> None:
    with pytest.raises(ValueError, match="not unique"):
        check([op("write", "ok", 0, 1, 1), op("write", "ok", 2, 3, 1)])


def by_definition(history: list[Operation]) -> bool:
    """Whether some order of all that returned and any of the unknown explains the history."""
    known = [one for one in history if one.outcome != "unknown"]
    unknown = [one for one in history if one.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *some]):
                state: tuple[State] | None = (None,)
                for place, one in enumerate(order):
                    if any(later.returned < one.called for later in order[place + 1 :]):
                        state = None
                    state = one.effect(state[0]) if state is not None else None
                if state is not None:
                    return True
    return False


def random_history(random_: random.Random) -> list[Operation]:
    """Make a history of up to five operations at random, without regard to any register."""
    history = []
    for number in range(random_.randint(2, 5)):
        kind: Kind = random_.choice(["read", "write", "cas", "delete", "add"])
        outcomes: dict[Kind, list[Outcome]] = {
            "read": ["ok", "missing"],
            "write": ["ok"],
            "cas": ["ok", "differs", "missing"],
            "delete": ["ok", "missing", "done"],
            "add": ["ok", "differs"],
        }
        outcome = random_.choice([*outcomes[kind], "unknown"] if random_.random() < 0.3 else outcomes[kind])
        called = random_.random() * 10
        returned = math.inf if outcome == "unknown" else called + random_.random() * 5
        seen = random_.randint(1, 5) if kind == "read" and outcome == "ok" else None
        value = seen if kind in {"read", "delete"} else number + 1
        history.append(op(kind, outcome, called, returned, value, random_.randint(1, 5) if kind == "cas" else None))
    return history


def test_it_agrees_with_the_definition() -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(1500):
        history = random_history(random.Random(seed))
        verdict = by_definition(history)
        verdicts[verdict] += 1
        assert (check(history) is None) is verdict, (seed, [str(one) for one in history])
    assert min(verdicts.values()) > 100


def test_its_cost_is_linear_with_many_unknown_outcomes() -> None:
    random_ = random.Random(7)
    history, state, now = [], None, 0.0
    for number in range(1, 20_001):
        now += 1
        if random_.random() < 0.01:
            history.append(op("write", "unknown", now, value=number))
        elif random_.random() < 0.5:
            history.append(op("write", "ok", now, now + 0.5, number))
            state = number
        else:
            history.append(op("read", "missing" if state is None else "ok", now, now + 0.5, state))
    assert calls_of(history[:10_000]) * 3 > calls_of(history)


def calls_of(history: list[Operation]) -> int:
    """Return how many functions are called by a check that finds nothing: what it costs on a machine of any speed."""
    calls = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        assert check(history) is None
    finally:
        sys.setprofile(None)
    return calls
