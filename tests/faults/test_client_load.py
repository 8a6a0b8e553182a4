"""A short part of the mixed load of clients in every run of the tests; `make faults` takes longer."""

from __future__ import annotations

import os

from tests.faults.client_load import load

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))


def test_mixed_load_of_clients_leaves_every_oracle_quiet() -> None:
    findings = load(min(120, 4 * ROUNDS), SEED)
    assert findings.faults == {}, findings.counts
    # An oracle that looked at nothing is quiet as well.
    assert findings.counts["checks"] > 50
    assert min(findings.counts[each] for each in ("loads", "cached", "many", "writes", "cancelled")) > 0
