"""Invalidations that a server has yet to acknowledge. Pure: no sockets, no clock.

A write or invalidation that was not sent, or was sent and not answered, is *pending*: it is sent to the server as an
invalidation before anything is read there again. A connection may be used while its `synced_serial` equals
`PendingInvalidations.serial`, so all of this costs a read one comparison.

    A: SET K v1, no answer in time        -> pending: K; the generation grows
    A: a new connection, SESSION id 2     -> the server closes what is left of generation 1, its unread input and all
    A: INVALIDATE K, acknowledged         -> nothing is pending; only now is anything read
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from globalcache.client.wire import is_denied, key_batches

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names remembered for a server; beyond them it is flushed. Some megabytes at most for names of the usual length.
MOST_PENDING = 10_000


class Snapshot(msgspec.Struct):
    """What was pending at one moment, and the generation of connections that may replay it."""

    serial: int
    generation: int
    keys: list[bytes] = msgspec.field(default_factory=list)
    tags: list[bytes] = msgspec.field(default_factory=list)
    everything: bool = False

    def commands(self) -> list[tuple[bytes, ...]]:
        """Return the commands that replay it."""
        if self.everything:
            return [(b"FLUSHDB",)]
        return [
            (b"CACHE.INVALIDATE", word, b"%d" % len(part), *part)
            for word, names in ((b"KEYS", self.keys), (b"TAGS", self.tags))
            for part in key_batches(names)
        ]

    def deletions(self, replies: list[Any]) -> list[tuple[bytes, ...]]:
        """Return commands that do the same if replies say that this user may not invalidate; none if there are tags."""
        if self.everything or self.tags or not any(map(is_denied, replies)):
            return []
        return [(b"DEL", *part) for part in key_batches(self.keys)]


class PendingInvalidations:
    """Keys and tags that one server has yet to invalidate, from all threads and loops of the process."""

    def __init__(self, most: int = MOST_PENDING) -> None:
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

    def snapshot(self) -> Snapshot:
        """Return what is pending now."""
        with self._lock:
            return Snapshot(self.serial, self.generation, list(self._keys), list(self._tags), bool(self._everything))

    def acknowledge(self, snapshot: Snapshot) -> None:
        """Forget what the server has acknowledged, but nothing that was added since."""
        with self._lock:
            for names in (self._keys, self._tags):
                for name in [name for name, serial in names.items() if serial <= snapshot.serial]:
                    del names[name]
            if snapshot.everything and self._everything <= snapshot.serial:
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
        more = ", everything" if self._everything else ""
        return f"PendingInvalidations({len(self._keys)} keys, {len(self._tags)} tags{more})"
