"""When a server that is away is tried again."""

from __future__ import annotations

from globalcache.client.backoff import Backoff


def test_pauses_double_and_one_caller_at_a_time_tries() -> None:
    backoff = Backoff()
    assert backoff.may_try(0)
    assert backoff.failed(0, draw=1)
    assert not backoff.failed(0, draw=1)  # told once
    pauses = []
    now = 0.0
    for _ in range(10):
        backoff.failed(now, draw=1)
        step = now
        while not backoff.may_try(step):
            step += 0.01
        assert not backoff.may_try(step)  # the next one waits for what that one finds
        pauses.append(round(step - now, 2))
        now = step
    assert pauses[:3] == sorted(pauses[:3])
    assert max(pauses) <= 2.02
    assert backoff.succeeded(100) == 100
    assert backoff.succeeded(101) is None
