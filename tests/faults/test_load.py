"""A short part of the mixed load in every run of the tests; `make faults` takes every combination, and longer."""

from __future__ import annotations

import os

import pytest

from tests.faults.load import load

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
# Memory, threads, eviction: the corners in every run.
SHORT = [("8MiB", 1, "s3fifo"), ("64MiB", 2, "s3fifo"), ("8MiB", 4, "none")]
ALL = [
    (memory, threads, eviction)
    for memory, eviction in [("8MiB", "s3fifo"), ("64MiB", "s3fifo"), ("256MiB", "s3fifo"), ("64MiB", "none")]
    for threads in (1, 2, 4)
]


@pytest.mark.parametrize(("memory", "threads", "eviction"), SHORT if ROUNDS == 1 else ALL)
def test_mixed_load_leaves_every_oracle_quiet(memory: str, threads: int, eviction: str) -> None:
    findings = load(memory, threads, eviction, SEED, min(240, 4 * ROUNDS))
    assert findings.faults == {}, findings.counts
    # An oracle that looked at nothing is quiet as well.
    assert findings.counts["checks"] > 200
    assert min(findings.counts[each] for each in ("hits", "sets", "fills", "served: reads", "looked at once")) > 20
