"""What a process remembers while a server is away. Pure: no sockets, no clock, `now` is an argument.

A write or invalidation that was not delivered, or sent and not answered, is *owed*: it goes to the server as an
invalidation before anything is read there again. A connection may be used while its `paid` equals `Owed.serial`, so
the path of a read pays one comparison for all of this.

    A: SET K v1, no answer in time        -> owed: K; the generation grows
    A: a new connection, SESSION id 2     -> the server closes what is left of generation 1, its unread input and all
    A: INVALIDATE K, acknowledged         -> paid; only now is anything read
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from globalcache.client.wire import key_batches

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names remembered for a server; beyond them it is flushed. Some megabytes at most for names of the usual length.
MOST_OWED = 10_000
# The first pause after a failed connect, in seconds; the longest if the server refused at once, which costs nobody
# anything, and the longest if it kept its caller waiting.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_SLOW_PAUSE = 0.05, 0.25, 1.0


class Bill(msgspec.Struct):
    """What was owed at one moment, and the generation of connections that may settle it."""

    serial: int
    generation: int
    keys: list[bytes] = msgspec.field(default_factory=list)
    tags: list[bytes] = msgspec.field(default_factory=list)
    everything: bool = False

    def commands(self) -> list[tuple[bytes, ...]]:
        """Return the commands that settle it."""
        if self.everything:
            return [(b"FLUSHDB",)]
        return [
            (b"CACHE.INVALIDATE", word, b"%d" % len(part), *part)
            for word, names in ((b"KEYS", self.keys), (b"TAGS", self.tags))
            for part in key_batches(names)
        ]

    def deletions(self) -> list[tuple[bytes, ...]]:
        """Return commands that do the same for a user who may not invalidate; none if there are tags."""
        return [] if self.everything or self.tags else [(b"DEL", *part) for part in key_batches(self.keys)]


class Owed:
    """Keys and tags that one server has yet to be told, from all threads and loops of the process."""

    def __init__(self, most: int = MOST_OWED) -> None:
        self.serial = 0
        self.generation = 1
        self._most = most
        self._keys: dict[bytes, int] = {}
        self._tags: dict[bytes, int] = {}
        self._everything = 0
        self._lock = threading.Lock()

    def add(self, keys: Iterable[bytes] = (), tags: Iterable[bytes] = (), *, sent: bool) -> None:
        """Remember these. `sent`: bytes may still be on their way, so connections of now must not be read any more."""
        with self._lock:
            self.serial += 1
            self.generation += sent
            self._keys.update(dict.fromkeys(keys, self.serial))
            self._tags.update(dict.fromkeys(tags, self.serial))
            if len(self._keys) + len(self._tags) > self._most:
                self._keys.clear()
                self._tags.clear()
                self._everything = self.serial

    def bill(self) -> Bill:
        """Return what is owed now."""
        with self._lock:
            return Bill(self.serial, self.generation, list(self._keys), list(self._tags), bool(self._everything))

    def settle(self, bill: Bill) -> None:
        """Forget what the server has acknowledged, but nothing that was added since."""
        with self._lock:
            for names in (self._keys, self._tags):
                for name in [name for name, serial in names.items() if serial <= bill.serial]:
                    del names[name]
            if bill.everything and self._everything <= bill.serial:
                self._everything = 0

    def after_fork(self) -> None:
        """Have a lock of one's own: another thread of the parent may have held it."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys) + len(self._tags) + bool(self._everything)

    @property
    def text(self) -> str:
        """The number of writes and invalidations that the server has not acknowledged, as a sentence begins."""
        if self._everything:
            return f"more than {self._most:,} writes and invalidations were"
        return "1 write or invalidation was" if len(self) == 1 else f"{len(self):,} writes and invalidations were"

    def __repr__(self) -> str:
        return f"Owed({len(self._keys)} keys, {len(self._tags)} tags{', everything' if self._everything else ''})"


class Breaker:
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
