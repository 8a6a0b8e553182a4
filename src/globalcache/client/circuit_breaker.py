"""Leave a function alone that fails for one key after another, and look once a second whether it works again.

A database in trouble must not be asked by every reader. One key that always fails opens nothing: the hold-off of that
key limits it already, and other keys of the function may be well. Knows nothing of loads; time is an argument, in
seconds.
"""

from __future__ import annotations

# Different keys that fail in a row before loads are refused, and the seconds between two tries after that.
FAILURES = 5
BETWEEN_TRIES = 1.0


class CircuitBreaker:
    """Closed: loads run. Open: they are refused, apart from one try a second. For one thread at a time."""

    def __init__(self) -> None:
        self.cause = ""
        self._failed: set[bytes] = set()
        self._next_try = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the last load failed."""
        return bool(self._failed)

    @property
    def is_open(self) -> bool:
        """Whether loads are refused."""
        return len(self._failed) >= FAILURES

    def allows(self, now: float) -> bool:
        """Return whether a load may run now. While the breaker is open, True is returned once a second."""
        if not self.is_open:
            return True
        if now < self._next_try:
            return False
        self._next_try = now + BETWEEN_TRIES
        return True

    def next_try_in(self, now: float) -> float:
        """Return the seconds until a load may run again."""
        return max(0.0, self._next_try - now)

    def succeeded(self) -> None:
        """Close it: a load has returned."""
        self._failed.clear()

    def failed(self, key: bytes, cause: str, now: float) -> bool:
        """Count a failure; returns whether it opened the breaker."""
        was_open = self.is_open
        if not was_open:
            self._failed.add(key)
        self.cause = cause
        if self.is_open and not was_open:
            self._next_try = now + BETWEEN_TRIES
        return self.is_open and not was_open
