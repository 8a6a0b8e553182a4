"""When a server that is away is tried again. Pure: `now` is an argument."""

from __future__ import annotations

# The first pause after a failed connect, in seconds; the longest if the server refused at once, which costs nobody
# anything, and the longest if it kept its caller waiting.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_SLOW_PAUSE = 0.05, 0.25, 1.0


class Backoff:
    """When to try a server again: at once after a loss, then after pauses that double, drawn at random."""

    def __init__(self) -> None:
        self.failures = 0
        self.away_since: float | None = None
        self._retry_at = 0.0
        self._longest = _LONGEST_PAUSE

    def may_try(self, now: float) -> bool:
        """Tell whether a connection may be attempted; the caller that is told so is the only one for a pause."""
        if self.failures and now < self._retry_at:
            return False
        if self.failures:
            self._retry_at = now + self._pause
        return True

    @property
    def _pause(self) -> float:
        return min(self._longest, _FIRST_PAUSE * (1 << min(self.failures - 1, 10)))

    def failed(self, now: float, draw: float, *, slow: bool = False) -> bool:
        """Note a failed attempt; `draw` is random, 0 to 1. Returns whether it is the first one.

        `slow`: the attempt waited for the server until its deadline, so the next one comes later.
        """
        self.failures += 1
        self._longest = _LONGEST_SLOW_PAUSE if slow else _LONGEST_PAUSE
        self._retry_at = now + self._pause * (0.5 + draw / 2)
        if self.away_since is not None:
            return False
        self.away_since = now
        return True

    def succeeded(self, now: float) -> float | None:
        """Note a connection; returns for how many seconds the server was away, if it was."""
        self.failures = 0
        since, self.away_since = self.away_since, None
        return None if since is None else now - since
