"""When a loader fails again and again: leave what it asks alone, and look from time to time whether it is back.

A sick database must not be asked by every reader: at most ten times a second, and it is seen to be back within two
seconds. Knows nothing of loads; time is an argument, in seconds.
"""

from __future__ import annotations

# Failures in a row after which loads are refused.
FAILURES = 5
# Between two attempts while it is open, in seconds; doubled from the first to the second.
_SOONEST, _LATEST = 0.1, 1.0


class Breaker:
    """Closed: loads run. Open: they fail at once, but for one attempt at a time."""

    def __init__(self) -> None:
        self.failures = 0
        self.cause = ""
        self._pause = _SOONEST
        self._next_attempt = 0.0

    @property
    def is_open(self) -> bool:
        """Whether loads are refused."""
        return self.failures >= FAILURES

    def allows(self, now: float) -> bool:
        """Tell whether a load may run; the answer may be used once, since an open breaker allows one at a time."""
        if not self.is_open:
            return True
        if now < self._next_attempt:
            return False
        self._next_attempt = now + self._pause
        self._pause = min(self._pause * 2, _LATEST)
        return True

    def succeeded(self) -> None:
        """Close it: a load has come back."""
        self.failures = 0
        self._pause = _SOONEST

    def failed(self, cause: str, now: float) -> None:
        """Count a failure."""
        self.failures += 1
        self.cause = cause
        if self.failures == FAILURES:
            self._next_attempt = now + self._pause
