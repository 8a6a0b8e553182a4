"""A MemoryStore for tasks; apart from memory.py, because threads need no asyncio."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from globalcache.client.leases_tasks import LoopLeases
from globalcache.client.memory import MemoryStore, Reply, Waiter, leave, run_quietly

if TYPE_CHECKING:
    from collections.abc import Sequence


class MultiplexedMemory:
    """A MemoryStore for tasks, called as a MultiplexedServer is."""

    max_value = None

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._leases: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLeases] = weakref.WeakKeyDictionary()

    def _own(self, key: bytes, reply: Reply) -> Reply:
        loop = asyncio.get_running_loop()
        leases = self._leases.get(loop)
        if leases is None:
            leases = self._leases[loop] = LoopLeases(self, self._send_now)
        return leases.own(key, reply)

    def _send_now(self, commands: list[tuple[Any, ...]]) -> bool:
        for words in commands:
            run_quietly(self._store, words)
        return True

    async def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        return self._store.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[Reply]:
        """CACHE.MGET."""
        return [self._store.get(key) for key in keys]

    async def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        reply = self._store.fetch(key, lease_ms, None)
        if not wait or type(reply) is not list or reply[0] != b"waiting":
            return self._own(key, reply)
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        # Whoever ends the load may be a thread or another loop.
        waiter = self._store.fetch(key, lease_ms, lambda: loop.call_soon_threadsafe(event.set))
        if type(waiter) is not Waiter:
            return self._own(key, waiter)
        end = time.monotonic() + wait
        try:
            while pause := self._store.poll(waiter, give_up=time.monotonic() >= end):
                try:
                    async with asyncio.timeout(min(pause, max(0.0, end - time.monotonic()))):
                        await event.wait()
                except TimeoutError:
                    pass
        except BaseException:
            leave(self._store, waiter)
            raise
        return self._own(key, waiter.reply)

    async def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Reply]:
        """Fetch several."""
        end = time.monotonic() + wait
        return [await self.fetch(key, wait and max(0.001, end - time.monotonic()), lease_ms) for key in keys]

    async def call(self, *words: Any, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Reply:  # noqa: ARG002
        """Ask for a command. Nothing is ever lost on the way."""
        return self._store.run(words)

    async def call_many(self, commands: Sequence[tuple[Any, ...]], keys: tuple[bytes, ...] = ()) -> list[Reply]:  # noqa: ARG002
        """Ask for several commands; an element may be an exception."""
        return [run_quietly(self._store, words) for words in commands]

    async def close(self) -> None:
        """Nothing is open."""
