"""What oracles saw under a load."""

from __future__ import annotations

from collections import Counter


class Findings:
    """What the oracles saw, and how often everything else happened."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def fault(self, kind: str, detail: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self.faults.setdefault(kind, [])
        if len(self.faults[kind]) < 5:
            self.faults[kind].append(detail)

    def check(self, holds: bool, kind: str, detail: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.fault(kind, detail)

    def report(self, load: str) -> int:
        """Print what happened under a load; returns the status to exit with, 1 if an oracle was not quiet."""
        print(load)
        print("  " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.counts.items())))
        for kind, details in self.faults.items():
            print(f"  {kind}:", *details, sep="\n    ")
        return 1 if self.faults else 0
