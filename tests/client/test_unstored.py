"""Values that the server did not store; what their callers get of them is in test_connections.py."""

from __future__ import annotations

import random

from globalcache.client.unstored import Unstored
from tests.conftest import in_turns


def test_threads_keep_find_and_forget_at_the_same_time() -> None:
    unstored, draw = Unstored(), random.Random(1)

    def step() -> None:
        key = b"%d" % draw.randrange(40)
        if draw.random() < 0.5:
            unstored.keep(key, key, 0, "cause", 1.0)
            assert unstored.find(key, "cause", 1.0) in {None, (key, 0)}
        else:
            unstored.forget([key])
            unstored.keep(b"old", key, 0, "cause", -9.0)

    in_turns(step, 0.5)
