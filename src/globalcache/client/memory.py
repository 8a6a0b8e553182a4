"""A server inside the process: the same commands and meanings as over a socket, without one. For tests and small tools.

`MemoryStore` is one step per call under one lock, with the time as a function that tests may replace; `BlockingMemory`
is its face for threads, memory_tasks.py has that for tasks. Leases, tags, freshness, grace, absence, versions.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.leases import ThreadLeases
from globalcache.errors import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Reply: TypeAlias = Any
_FOREVER = float("inf")
# Items, and tags of which the last invalidation is known; beyond them the oldest go.
_MOST_ITEMS, _MOST_TAGS = 100_000, 100_000
# Seconds: a lease, the longest one, and the hold-off after a failed load, which doubles.
_LEASE, _LONGEST_LEASE, _HOLD_OFF, _LONGEST_HOLD_OFF = 3.0, 60.0, 0.1, 1.0
_TOKENS = 3


class _Item:
    __slots__ = (
        "absent",
        "clock",
        "error_until",
        "expires_at",
        "flags",
        "fresh_until",
        "tags",
        "value",
        "version",
        "written_at",
    )

    value: bytes
    flags: int
    version: int
    written_at: float
    fresh_until: float
    expires_at: float
    error_until: float
    tags: tuple[bytes, ...]
    clock: int
    absent: bool


class _Lease:
    __slots__ = ("deadline", "tokens", "waiters")

    def __init__(self) -> None:
        self.deadline = 0.0
        # Token -> the tag clock at its grant: a load that lasted longer than its lease may still be stored.
        self.tokens: dict[int, int] = {}
        self.waiters: deque[Waiter] = deque()


class Waiter:
    """Somebody who waits for a load of `key`; `notify` is called once `reply` is there."""

    __slots__ = ("key", "lease_ms", "notify", "reply")

    def __init__(self, key: bytes, lease_ms: int, notify: Callable[[], object]) -> None:
        self.key = key
        self.lease_ms = lease_ms
        self.notify = notify
        self.reply: Reply = None


class MemoryStore:
    """The items and leases. Calls are named like the commands; every one is one step for all threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.RLock()
        self._items: OrderedDict[bytes, _Item] = OrderedDict()
        self._leases: dict[bytes, _Lease] = {}
        self._held_off: dict[bytes, tuple[float, float, str]] = {}
        self._tags: OrderedDict[bytes, int] = OrderedDict()
        self._floor = 0
        self._tag_clock = 0
        self._version = int(time.time() * 1000) << 10

    # Reading

    def _living(self, key: bytes, now: float) -> _Item | None:
        """Return the item unless it is past its time or one of its tags was invalidated."""
        item = self._items.get(key)
        if item is None:
            return None
        if item.tags and self._dead(item.tags, item.clock):
            del self._items[key]
            return None
        if item.expires_at <= now:
            if item.error_until <= now:
                del self._items[key]
            return None
        return item

    def _dead(self, tags: tuple[bytes, ...], clock: int) -> bool:
        return bool(tags) and (clock < self._floor or any(self._tags.get(tag, 0) > clock for tag in tags))

    def get(self, key: bytes) -> Reply:
        """CACHE.GET."""
        with self._lock:
            item = self._living(key, self.clock())
            if item is None or item.absent:
                return None
            return [item.value, item.flags] if item.flags else item.value

    def entry(self, key: bytes) -> list[Any]:
        """CACHE.ENTRY."""
        with self._lock:
            now = self.clock()
            item = self._living(key, now)
            if item is None:
                return [b"miss", None, 0, 0, -2, 0, -1]
            return [*self._shown(item, now), round((now - item.written_at) * 1000)]

    @staticmethod
    def _shown(item: _Item, now: float, token: int = 0) -> list[Any]:
        state = b"absent" if item.absent else b"hit" if now < item.fresh_until else b"stale"
        ttl = -1 if item.expires_at == _FOREVER else max(0, round((item.expires_at - now) * 1000))
        return [state, (item.value or None) if item.absent else item.value, token, item.version, ttl, item.flags]

    # Leases

    def fetch(  # noqa: PLR0911 - a state each
        self, key: bytes, lease_ms: int | None, notify: Callable[[], object] | None
    ) -> Reply | Waiter:
        """CACHE.FETCH; returns a Waiter if the outcome follows, which takes `notify`."""
        with self._lock:
            now = self.clock()
            item = self._items.get(key)
            # What most calls find, with nothing asked twice: a fresh value without tags that nobody loads.
            if (
                item is not None
                and now < item.fresh_until
                and now < item.expires_at
                and not item.tags
                and not item.absent
                and key not in self._leases
            ):
                ttl = -1 if item.expires_at == _FOREVER else int((item.expires_at - now) * 1000)
                return [b"hit", item.value, 0, item.version, ttl, item.flags]
            item = self._living(key, now)
            if item is not None and now < item.fresh_until and not item.absent and key not in self._leases:
                return self._shown(item, now)
            length = int(_LEASE * 1000) if lease_ms is None else lease_ms
            self._expire(key, now)
            if item is not None:
                stale = not item.absent and now >= item.fresh_until
                may = stale and length and key not in self._leases and not self._is_held_off(key, now)
                return self._shown(item, now, self._grant(key, length, now) if may else 0)
            if self._is_held_off(key, now):
                return self._failed(key, now, self._held_off[key][2])
            if key in self._leases:
                if notify is None:
                    return [b"waiting", None, 0, 0, -2, 0]
                waiter = Waiter(key, length, notify)
                self._leases[key].waiters.append(waiter)
                return waiter
            return [b"miss", None, self._grant(key, length, now) if length else 0, 0, -2, 0]

    def _grant(self, key: bytes, lease_ms: int, now: float) -> int:
        lease = self._leases.setdefault(key, _Lease())
        self._version += 1
        lease.tokens[self._version] = self._tag_clock
        while len(lease.tokens) > _TOKENS:
            del lease.tokens[next(iter(lease.tokens))]
        lease.deadline = now + min(lease_ms / 1000, _LONGEST_LEASE)
        return self._version

    def _expire(self, key: bytes, now: float) -> None:
        """Pass a lease on whose deadline has passed."""
        lease = self._leases.get(key)
        if lease is not None and lease.deadline <= now:
            self._pass_on(key, lease, now)

    def _pass_on(self, key: bytes, lease: _Lease, now: float) -> None:
        while lease.waiters:
            waiter = lease.waiters.popleft()
            if waiter.lease_ms:
                self._answer(waiter, [b"miss", None, self._grant(key, waiter.lease_ms, now), 0, -2, 0])
                return
            self._answer(waiter, [b"miss", None, 0, 0, -2, 0])
        del self._leases[key]

    @staticmethod
    def _answer(waiter: Waiter, reply: Reply) -> None:
        waiter.reply = reply
        waiter.notify()

    def poll(self, waiter: Waiter, *, give_up: bool) -> float:
        """Return after how many seconds to look again; 0 if the outcome is there. `give_up` ends the wait."""
        with self._lock:
            now = self.clock()
            if waiter.reply is None:
                self._expire(waiter.key, now)
            if waiter.reply is not None:
                return 0
            lease = self._leases[waiter.key]
            if give_up:
                lease.waiters.remove(waiter)
                waiter.reply = [b"timeout", None, 0, 0, -2, 0]
                return 0
            return max(0.001, lease.deadline - now)

    def _is_held_off(self, key: bytes, now: float) -> bool:
        held = self._held_off.get(key)
        return held is not None and now < held[0]

    def _failed(self, key: bytes, now: float, cause: str) -> Reply:
        item = self._items.get(key)
        good = item is not None and not item.absent and now < item.error_until
        if item is not None and good and not self._dead(item.tags, item.clock):
            return [b"stale", item.value, 0, item.version, 0, item.flags]
        return ReplyError(f"LOADFAILED {key.decode(errors='replace')}: {cause}")

    def fill(self, key: bytes, token: int, value: bytes, options: dict[bytes, Any]) -> int:
        """CACHE.FILL."""
        with self._lock:
            now = self.clock()
            lease = self._leases.get(key)
            if lease is None or token not in lease.tokens:
                return 0
            clock = lease.tokens[token]
            if self._dead(options.get(b"TAGS", ()), clock):
                lease.tokens.clear()
                self._pass_on(key, lease, now)
                return 0
            item = self._write(key, value, options, now, clock)
            self._end(key, self._shown(item, now))
            return item.version

    def _end(self, key: bytes, reply: Reply) -> None:
        self._held_off.pop(key, None)
        lease = self._leases.pop(key, None)
        for waiter in lease.waiters if lease else ():
            self._answer(waiter, reply)

    def fail(self, key: bytes, token: int, cause: str, retry_ms: int | None = None) -> int:
        """CACHE.FAIL."""
        with self._lock:
            now = self.clock()
            lease = self._leases.get(key)
            if lease is None or token not in lease.tokens:
                return 0
            length = max(_HOLD_OFF, self._held_off.get(key, (0.0, 0.0, ""))[1] * 2)
            length = min(length, _LONGEST_HOLD_OFF) if retry_ms is None else retry_ms / 1000
            if len(self._held_off) >= _MOST_TAGS:
                self._held_off.clear()
            self._end(key, self._failed(key, now, cause))
            self._held_off[key] = (now + length, length, cause)
            return 1

    def renew(self, key: bytes, token: int, ms: int) -> int:
        """CACHE.RENEW."""
        with self._lock:
            lease = self._leases.get(key)
            if lease is None or token not in lease.tokens:
                return 0
            lease.deadline = self.clock() + min(ms / 1000, _LONGEST_LEASE)
            return 1

    def release(self, key: bytes, token: int) -> int:
        """CACHE.RELEASE."""
        with self._lock:
            lease = self._leases.get(key)
            if lease is None or token not in lease.tokens:
                return 0
            del lease.tokens[token]
            self._pass_on(key, lease, self.clock())
            return 1

    # Writing

    def _write(self, key: bytes, value: bytes, options: dict[bytes, Any], now: float, clock: int) -> _Item:
        item = _Item()
        self._version += 1
        item.value, item.version, item.written_at, item.clock = value, self._version, now, clock
        item.flags, item.tags, item.absent = options.get(b"FLAGS", 0), options.get(b"TAGS", ()), b"ABSENT" in options
        ttl, refresh, grace = (options.get(name) for name in (b"TTL", b"REFRESH", b"GRACE"))
        item.expires_at = _FOREVER if ttl is None else now + ttl / 1000
        item.fresh_until = _FOREVER if refresh is None else now + refresh / 1000
        item.error_until = item.expires_at + (grace or 0) / 1000
        self._items[key] = item
        self._items.move_to_end(key)
        if len(self._items) > _MOST_ITEMS:
            self._items.popitem(last=False)
        return item

    def set(self, key: bytes, value: bytes, options: dict[bytes, Any]) -> int:
        """CACHE.SET."""
        with self._lock:
            now = self.clock()
            old = self._living(key, now)
            if old is not None and old.absent:
                old = None
            wanted = options.get(b"IFVERSION")
            if (b"NX" in options and old is not None) or (
                wanted is not None and (old is None or old.version != wanted)
            ):
                return 0
            item = self._write(key, value, options, now, self._tag_clock)
            self._end(key, self._shown(item, now))
            return item.version

    def incr(self, key: bytes, delta: int, options: dict[bytes, Any]) -> int:
        """CACHE.INCR."""
        with self._lock:
            now = self.clock()
            item = self._living(key, now)
            if item is None or item.absent:
                item = self._write(key, b"0", options, now, self._tag_clock)
            try:
                number = int(item.value) + delta
            except ValueError:
                raise ReplyError("ERR value is not an integer or out of range") from None
            self._version += 1
            item.value, item.version = b"%d" % number, self._version
            self._end(key, self._shown(item, now))
            return number

    def touch(self, key: bytes, ms: int | None) -> int:
        """PEXPIRE, or PERSIST for None."""
        with self._lock:
            now = self.clock()
            item = self._living(key, now)
            if item is None or item.absent:
                return 0
            item.expires_at = item.error_until = _FOREVER if ms is None else now + ms / 1000
            return 1

    def delete(self, keys: Sequence[bytes]) -> int:
        """DEL, and CACHE.INVALIDATE KEYS."""
        with self._lock:
            now, removed = self.clock(), 0
            for key in keys:
                item = self._living(key, now)
                removed += item is not None and not item.absent
                self._items.pop(key, None)
                self._void(key, now)
            return removed

    def _void(self, key: bytes, now: float) -> None:
        lease = self._leases.get(key)
        if lease is not None:
            lease.tokens.clear()
            self._pass_on(key, lease, now)

    def invalidate(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> int:
        """CACHE.INVALIDATE."""
        with self._lock:
            if tags:
                self._tag_clock += 1
                for tag in tags:
                    self._tags[tag] = self._tag_clock
                    self._tags.move_to_end(tag)
                while len(self._tags) > _MOST_TAGS:
                    self._floor = max(self._floor, self._tags.popitem(last=False)[1])
            return self.delete(keys) + len(tags)

    def flush(self) -> None:
        """FLUSHDB."""
        with self._lock:
            now = self.clock()
            self._items.clear()
            for key in list(self._leases):
                self._void(key, now)

    # Commands as words

    def run(self, words: Sequence[Any]) -> Reply:
        """Run a command that never waits, given as words. Raises ReplyError."""
        name, *rest = words
        return _COMMANDS[name](self, *rest)


def _options(words: Sequence[Any]) -> dict[bytes, Any]:
    options: dict[bytes, Any] = {}
    place = 0
    while place < len(words):
        word = words[place]
        if word in {b"ABSENT", b"NX"}:
            options[word] = True
            place += 1
        elif word in {b"TAGS", b"KEYS"}:
            count = int(words[place + 1])
            options[word] = tuple(words[place + 2 : place + 2 + count])
            place += 2 + count
        else:
            options[word] = int(words[place + 1])
            place += 2
    return options


def _invalidate(store: MemoryStore, *words: Any) -> int:
    options = _options(words)
    return store.invalidate(options.get(b"KEYS", ()), options.get(b"TAGS", ()))


def _entry(store: MemoryStore, key: bytes) -> int:
    return int(store.entry(key)[0] in {b"hit", b"stale"})


def _inspect(store: MemoryStore, key: bytes) -> dict[bytes, Any]:
    state, value, _, version, ttl, flags, age = store.entry(key)
    return {
        b"state": state,
        b"version": version,
        b"age_ms": age,
        b"ttl_ms": ttl,
        b"flags": flags,
        b"size": len(value or b""),
    }


_COMMANDS: dict[bytes, Callable[..., Reply]] = {
    b"CACHE.ENTRY": MemoryStore.entry,
    b"CACHE.FILL": lambda store, key, token, value, *words: store.fill(key, int(token), value, _options(words)),
    b"CACHE.FAIL": lambda store, key, token, cause, *retry: store.fail(key, int(token), cause, *retry[1:]),
    b"CACHE.RENEW": lambda store, key, token, ms: store.renew(key, int(token), int(ms)),
    b"CACHE.RELEASE": lambda store, key, token: store.release(key, int(token)),
    b"CACHE.SET": lambda store, key, value, *words: store.set(key, value, _options(words)),
    b"CACHE.INCR": lambda store, key, delta, *words: store.incr(key, int(delta), _options(words)),
    b"CACHE.INVALIDATE": _invalidate,
    b"CACHE.INSPECT": _inspect,
    b"DEL": lambda store, *keys: store.delete(keys),
    b"EXISTS": _entry,
    b"PEXPIRE": lambda store, key, ms: store.touch(key, int(ms)),
    b"PERSIST": lambda store, key: store.touch(key, None),
    b"PING": lambda store: b"PONG",  # noqa: ARG005
    b"INFO": lambda store: f"# Memory\r\nitems:{len(store._items)}\r\n".encode(),  # noqa: SLF001
    b"FLUSHDB": lambda store: store.flush(),
}

# The stores of memory://NAME, which all caches of the process share.
_shared: dict[str, MemoryStore] = {}
_shared_lock = threading.Lock()


def memory_store(name: str) -> MemoryStore:
    """Return the store of that name; without a name a new one."""
    if not name:
        return MemoryStore()
    with _shared_lock:
        return _shared.setdefault(name, MemoryStore())


class BlockingMemory:
    """A MemoryStore for threads, called as a BlockingServer is."""

    max_value = None

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._leases = ThreadLeases(self)
        self.get = store.get

    def get_many(self, keys: Sequence[bytes]) -> list[Reply]:
        """CACHE.MGET."""
        return [self._store.get(key) for key in keys]

    def fetch(self, key: bytes, wait: float, lease_ms: int | None = None) -> Reply:
        """CACHE.FETCH, with the outcome of a wait of at most `wait` seconds."""
        reply = self._store.fetch(key, lease_ms, None)
        if not wait or type(reply) is not list or reply[0] != b"waiting":
            return self._leases.own(key, reply)
        event = threading.Event()
        waiter = self._store.fetch(key, lease_ms, event.set)
        if type(waiter) is not Waiter:
            return self._leases.own(key, waiter)
        end = time.monotonic() + wait
        try:
            while pause := self._store.poll(waiter, give_up=time.monotonic() >= end):
                event.wait(min(pause, max(0.0, end - time.monotonic())))
        except BaseException:
            leave(self._store, waiter)
            raise
        return self._leases.own(key, waiter.reply)

    def fetch_many(self, keys: Sequence[bytes], wait: float, lease_ms: int | None = None) -> list[Reply]:
        """Fetch several."""
        end = time.monotonic() + wait
        return [self.fetch(key, wait and max(0.001, end - time.monotonic()), lease_ms) for key in keys]

    def call(self, *words: Any, keys: tuple[bytes, ...] = (), tags: tuple[bytes, ...] = ()) -> Reply:  # noqa: ARG002
        """Ask for a command. Nothing is ever lost on the way."""
        return self._store.run(words)

    def call_many(self, commands: Sequence[tuple[Any, ...]], keys: tuple[bytes, ...] = ()) -> list[Reply]:  # noqa: ARG002
        """Ask for several commands; an element may be an exception."""
        return [run_quietly(self._store, words) for words in commands]

    def close(self) -> None:
        """Nothing is open."""


def run_quietly(store: MemoryStore, words: tuple[Any, ...]) -> Reply:
    """Run a command; an error is returned, not raised."""
    try:
        return store.run(words)
    except ReplyError as error:
        return error


def leave(store: MemoryStore, waiter: Waiter) -> None:
    """End a wait that was interrupted; a lease that came meanwhile is handed on."""
    store.poll(waiter, give_up=True)
    if type(waiter.reply) is list and waiter.reply[2]:
        store.release(waiter.key, waiter.reply[2])
