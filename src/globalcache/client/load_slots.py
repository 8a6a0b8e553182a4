"""The slots for loads without a lease: so many run at a time in a process."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from globalcache.client.holder import Holder

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def is_in_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    asyncio = sys.modules.get("asyncio")  # where nobody has imported it there is none
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - meant for this


class LoadSlot(weakref.ref[Holder]):
    """A slot among the loads that run. It is free again when its Holder, which the frame of a load has, is gone.

    `loop` is that of a task: when a loop is closed, the frames of its tasks may live on.
    """

    __slots__ = ("loop",)

    loop: asyncio.AbstractEventLoop | None


def slot_of(holder: Holder, slots: LoadSlots, loop: asyncio.AbstractEventLoop | None = None) -> LoadSlot:
    """Return a slot that is not taken yet."""
    slot = LoadSlot(holder, slots.taken.discard)
    slot.loop = loop
    hash(slot)  # while it can be
    return slot


class LoadSlots:
    """So many loads run at a time. Who finds no free slot waits in line."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: set[LoadSlot] = set()
        self._lock = threading.Lock()
        self._line: dict[LoadSlot, Callable[[], object]] = {}

    def enter(self, slot: LoadSlot, wake: Callable[[], object]) -> bool:
        """Take a slot if one is free and nobody waits before; else stand in line, and have `wake` called in turn."""
        with self._lock:
            first = self._first()
            has_entered = (self._has_free() and first in (None, slot)) or self._would_hold_up(slot)
            if has_entered:
                self.taken.add(slot)
                self._line.pop(slot, None)
            else:
                self._line.setdefault(slot, wake)
        if has_entered:
            self._call_next()
        return has_entered

    def leave(self, slot: LoadSlot) -> None:
        """Note that nothing has the slot any more, and wake who is next."""
        with self._lock:
            self._line.pop(slot, None)
        self._call_next()

    def _call_next(self) -> None:
        if not self._line:
            return
        with self._lock:
            first = self._first()
            wake = self._line[first] if first is not None and self._has_free() else None
        if wake is not None:
            with contextlib.suppress(RuntimeError):  # it was woken already, or its loop was closed
                wake()

    def _first(self) -> LoadSlot | None:
        while self._line:
            slot = next(iter(self._line))
            if slot() is not None and not _is_closed(slot):
                return slot
            del self._line[slot]  # it was interrupted
        return None

    def _has_free(self) -> bool:
        if len(self.taken) >= self.most:
            self.taken.difference_update([slot for slot in self.taken.copy() if _is_closed(slot)])
        return len(self.taken) < self.most

    def _would_hold_up(self, slot: LoadSlot) -> bool:
        """Tell whether a plain call within a loop would wait for tasks, which it may hold up: it needs no slot."""
        return slot.loop is None and is_in_loop() and any(other.loop is not None for other in self.taken.copy())


def _is_closed(slot: LoadSlot) -> bool:
    return slot.loop is not None and slot.loop.is_closed()
