"""Many clients on few keys: each asks in a thread of its own, and everything asked is recorded with its times."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from tests.model.history import Kind, Operation, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.doors import Door

_WEIGHTS: dict[Kind, int] = {"read": 4, "write": 3, "cas": 4, "delete": 1, "add": 1}


def drive(doors: Sequence[Door], *, seed: int, operations: int, keys: int = 3, rotate: int = 200) -> list[Operation]:  # noqa: C901 - one loop, told in its order
    """Let each door do so many operations; return what was done. Raises what a door raises besides OSError.

    Every `rotate` operations of a client it goes on to new keys: many short histories are checked faster than a long
    one. Values are unique; a compare-and-set expects what its client saw last, which is often out of date.
    """
    histories: list[list[Operation]] = [[] for _ in doors]
    failures: list[Exception] = []

    def client(number: int, door: Door) -> None:
        random_ = random.Random(seed * 1000 + number)
        seen: dict[str, State] = {}
        try:
            for count in range(operations):
                key = f"s{seed}-{count // rotate}-{random_.randrange(keys)}"
                kind = random_.choices(door.kinds, [_WEIGHTS[one] for one in door.kinds])[0]
                value = None if kind in {"read", "delete"} else number * operations + count + 1
                expected = seen.get(key) or 0 if kind == "cas" else None
                called = time.monotonic()
                outcome: Outcome
                try:
                    outcome, found = door.ask(kind, key, value, expected)
                    returned = time.monotonic()
                except ConnectionRefusedError:
                    # Nothing was sent, so nothing has happened: it is not part of the history.
                    time.sleep(0.005)
                    continue
                except OSError:
                    outcome, found, returned = "unknown", None, float("inf")
                value = found if kind == "read" else value
                if outcome == "ok":
                    seen[key] = value
                histories[number].append(Operation(number, key, kind, outcome, called, returned, value, expected))
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=client, args=pair) for pair in enumerate(doors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for door in doors:
        door.close()
    if failures:
        raise failures[0]
    return [operation for history in histories for operation in history]
