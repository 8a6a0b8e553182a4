"""The cache as its users see it: keys, options, values, and what happens when there is no server.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
Knows servers by their calls
(get, get_many, fetch, fetch_many, call, call_many), whatever is behind them.
"""

from __future__ import annotations

import functools
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from globalcache.client.batches import rows_of
from globalcache.client.core import Core
from globalcache.client.entry import Entry
from globalcache.client.failures import is_lost
from globalcache.client.functions import Functions
from globalcache.client.guard import Absent, Guard, cause_of, text_of
from globalcache.client.values import UNREADABLE
from globalcache.client.wire import translate
from globalcache.client.work import Failed, loading
from globalcache.errors import (
    CacheError,
    ConfigError,
    DeadlineError,
    KeyFormatError,
    LoadError,
    UnavailableError,
)
from globalcache.policy import Duration, Policy, millis, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from globalcache.client._async.cache import AsyncCache
    from globalcache.client.functions import Loader

T = TypeVar("T")
D = TypeVar("D")

_LONGEST_KEY = 65_535
# What a bulk read gives for text without flags, and for nothing.
_PLAIN = {bytes, None.__class__}
_class_of = type
_AWAY = (UnavailableError, DeadlineError)
# Tags of one item, those of its namespaces among them.
_MOST_TAGS = 17
# Keys that one error names.
_NAMED = 10


class _Want(NamedTuple):
    """What a caller of get_or_load wants."""

    load: Callable[[], Any]
    policy: Policy
    type: Any
    wait: float
    guard: Guard


class _Lease(NamedTuple):
    """A load that is this caller's."""

    server: Any
    name: bytes
    token: int
    key: str


class _Sorted:
    """What a batch of fetches gave: values, loads and refreshes that are ours, and what is to be waited for."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.mine: list[_Lease] = []
        self.stale: list[_Lease] = []
        self.later: list[str] = []


class Cache(Functions):
    """A cache shared by all nodes of an application.

    `url` is a server, a list of them, or nothing for $GLOBALCACHE_URL. Making one connects to nothing and needs no
    event loop. Options:

    timeout        of one call to the cache, connecting and retrying included; 1 s
    wait           for somebody else's load in get_or_load; 30 s
    namespace      goes before every key and tag
    default_ttl    where no ttl is given; none
    on_error       "miss": without a server reads find nothing and loads run here; "raise": UnavailableError
    codec          "json", "msgpack", or "pickle" with secret=
    compress_over  bytes from which zstd is tried; never
    local_loads    loads that run at a time in this process while the server is away; 32
    on_event       function(event, facts) that is told "load", "load_error", "away" and "back"
    tell_text      let the text of an exception reach other processes in LoadError, not only the name of its class
    tls            for globalcaches://: the path of a file with authorities, or an ssl.SSLContext

    Reads and loads go on without a server. incr, add, has and set(if_version=) raise, for their answer cannot be made
    up; `set` and `invalidate` are remembered and made good before the server is read again.
    """

    def __init__(self, url: str | Sequence[str] | None = None, *, namespace: str | None = None, **options: Any) -> None:
        core = Core(url, **options)
        names = [name for name in (core.addresses[0].namespace, namespace) if name]
        self._set_up(core, names)

    def _set_up(self, core: Core, names: Sequence[str]) -> None:
        self._core = core
        self._names = tuple(names)
        self._prefix = "".join(f"{name}:" for name in names)
        # Every level of names is a tag of all that is written under it, so that each can be cleared.
        self._own_tags = tuple(
            f"ns:{''.join(f'{name}:' for name in names[: level + 1])}".encode() for level in range(len(names))
        )
        self._servers = core.blocking
        self._only = self._servers[0] if len(self._servers) == 1 else None
        self._work = core.work
        self._values = core.values
        self._decode = core.values.decode
        self._stats = core.stats
        self._failures = core.failures
        self._other: AsyncCache | None = None

    @classmethod
    def _of(cls, core: Core, names: Sequence[str]) -> Self:
        cache = cls.__new__(cls)
        cache._set_up(core, names)  # noqa: SLF001 - its own
        return cache

    @functools.cached_property
    def loaders(self) -> dict[str, Loader]:
        """The loaders by the patterns of their keys; `serve` and `worker` run those of all namespaces of a cache."""
        return self._core.loaders.setdefault(self._names, {})

    @property
    def aio(self) -> AsyncCache:
        """The same cache for async functions."""
        if self._other is None:
            from globalcache.client._async.cache import AsyncCache  # noqa: PLC0415 - the two know each other

            self._other = AsyncCache._of(self._core, self._names)  # noqa: SLF001 - the same, seen otherwise
            self._other._other = self  # noqa: SLF001
        return self._other

    @property
    def async_door(self) -> Any:
        """The face for async functions."""
        return self.aio

    @property
    def sync_door(self) -> Any:
        """The face for plain functions."""
        return self

    @property
    def default_ttl(self) -> Duration | None:
        """How long values live that are given no ttl."""
        return self._core.default_ttl

    def namespace(self, name: str) -> Self:
        """Return a cache whose keys and tags are all under `name`; its `clear()` is one step however much is there."""
        if not name:
            raise ConfigError("namespace: should not be empty")
        return self._of(self._core, (*self._names, name))

    # Reading

    @overload
    def get(self, key: str, default: None = None) -> Any: ...
    @overload
    def get(self, key: str, default: D) -> Any: ...
    @overload
    def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """Return the value, read as `type` if given; `default` if there is none."""
        name = self._name(key)
        server = self._only or self._server(name)
        try:
            try:
                reply = server.get(name)
            except UnavailableError:
                reply = server.get(name)
        except _AWAY as error:
            self._without(error)
            return default
        if type is bytes and reply.__class__ is bytes:
            self._stats.hits += 1
            return reply
        return self._value(reply, default, type)

    def _value(self, reply: Any, default: Any, type: Any) -> Any:
        kind = reply.__class__
        if kind is bytes:
            value = self._decode(reply, 0, type)
        elif kind is list:
            value = self._decode(reply[0], reply[1], type)
        elif reply is None:
            self._stats.misses += 1
            return default
        else:
            raise translate(reply)
        if value is UNREADABLE:
            self._stats.unreadable += 1
            self._stats.misses += 1
            return default
        self._stats.hits += 1
        return value

    def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        """Return what there is of these keys, by key."""
        found: dict[str, Any] = {}
        for server, part, names in self._spread(keys if keys.__class__ is list else list(keys)):
            try:
                try:
                    replies = server.get_many(names)
                except UnavailableError:
                    replies = server.get_many(names)
            except _AWAY as error:
                self._without(error)
                continue
            if isinstance(replies, Exception):
                raise translate(replies)
            classes = set(map(_class_of, replies))
            if classes <= _PLAIN:
                # All is JSON text, or nothing: as one, because a call for each would cost more than all the rest.
                present, texts = part, replies
                if len(classes) > 1 or bytes not in classes:
                    present = [key for key, reply in zip(part, replies, strict=True) if reply is not None]
                    texts = [reply for reply in replies if reply is not None]
                values = self._values.decode_many(texts, type)
                if values is not None:
                    self._stats.hits += len(values)
                    self._stats.misses += len(part) - len(values)
                    # A key that was named twice was asked for twice, and is there once.
                    found.update(zip(present, values, strict=True))
                    continue
            for key, reply in zip(part, replies, strict=True):
                value = self._value(reply, UNREADABLE, type)
                if value is not UNREADABLE:
                    found[key] = value
        return found

    def get_entry(self, key: str, *, type: Any = None) -> Entry | None:
        """Return value, version, age, ttl and staleness; None if there is nothing."""
        name = self._name(key)
        try:
            reply = self._server(name).call(b"CACHE.ENTRY", name)
        except _AWAY as error:
            self._without(error)
            return None
        state, data, _, version, ttl, flags, age = reply
        if state == b"miss":
            return None
        value = None if data is None else self._decode(data, flags, type)
        if value is UNREADABLE:
            return None
        return Entry(
            value,
            version,
            None if age < 0 else age / 1000,
            None if ttl < 0 else ttl / 1000,
            state == b"stale",
            state == b"absent",
        )

    def has(self, key: str) -> bool:
        """Tell whether there is a value. Raises UnavailableError without a server."""
        name = self._name(key)
        return bool(self._server(name).call(b"EXISTS", name))

    def inspect(self, key: str) -> dict[str, Any]:
        """Return all that the server knows of a key: state, age, freshness, size, tags, lease, waiters."""
        name = self._name(key)
        known = self._server(name).call(b"CACHE.INSPECT", name)
        items = known.items() if isinstance(known, dict) else zip(known[::2], known[1::2], strict=True)
        return {_text(word): _text(value) for word, value in items}

    # Writing

    def set(  # noqa: PLR0913 - an option each
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        tags: str | Iterable[str] = (),
        if_version: int | None = None,
        type: Any = None,
        policy: Policy | None = None,
    ) -> bool:
        """Write a value; tells whether it was written.

        With `if_version` only over that version, as get_entry gave it. False without a server: what was there is then
        invalidated before the server is read again.
        """
        if policy is None:
            policy = self._policy(ttl, refresh_after, stale_if_error, None, tags)
        words: tuple[bytes, ...] = ()
        if if_version is not None:
            words = (b"IFVERSION", b"%d" % if_version)
        return bool(self._set(key, value, policy, type, words))

    def add(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: str | Iterable[str] = (), type: Any = None
    ) -> bool:
        """Write a value only if there is none; tells whether it was written. Raises UnavailableError."""
        return bool(self._set(key, value, self._policy(ttl, None, None, None, tags), type, (b"NX",)))

    def _set(self, key: str, value: Any, policy: Policy, type: Any, condition: tuple[bytes, ...]) -> int:
        name = self._name(key)
        data, flags = self._values.encode(value, type, by_class=True)
        words = policy.words(flags=flags, tags=self._tags(policy.tags))
        self._work.detach((name,))
        try:
            written = self._server(name).call(b"CACHE.SET", name, data, *words, *condition, keys=(name,))
        except _AWAY as error:
            if condition:
                raise
            self._without(error)
            return 0
        return int(written)

    def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: str | Iterable[str] = (),
        type: Any = None,
    ) -> int:
        """Write several values; returns how many were written."""
        policy = self._policy(ttl, None, None, None, tags)
        shared = self._tags(policy.tags)
        written = 0
        encoded = {key: self._values.encode(value, type, by_class=True) for key, value in values.items()}
        self._work.detach([self._name(key) for key in values])
        for server, part, names in self._spread(list(values)):
            commands = []
            for key, name in zip(part, names, strict=True):
                data, flags = encoded[key]
                commands.append((b"CACHE.SET", name, data, *policy.words(flags=flags, tags=shared)))
            try:
                replies = server.call_many(commands, keys=tuple(names))
            except _AWAY as error:
                self._without(error)
                continue
            for reply in replies:
                if isinstance(reply, Exception):
                    raise translate(reply)
                written += bool(reply)
        return written

    def incr(self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()) -> int:
        """Add to a number, which counts from 0; ttl and tags hold when it is made. Raises UnavailableError."""
        name = self._name(key)
        words: list[bytes] = []
        if ttl is not None:
            words += b"TTL", b"%d" % millis(seconds("ttl", ttl, least=0.001))
        own = self._tags((tags,) if isinstance(tags, str) else tuple(tags))
        if own:
            words += b"TAGS", b"%d" % len(own), *own
        self._work.detach((name,))
        return int(self._server(name).call(b"CACHE.INCR", name, b"%d" % delta, *words, keys=(name,)))

    def decr(self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()) -> int:
        """Take from a number, as incr adds to it."""
        return self.incr(key, -delta, ttl=ttl, tags=tags)

    def touch(self, key: str, ttl: Duration | None = None) -> bool:
        """Give a value another time to live; None: it stays. Tells whether there is one."""
        name = self._name(key)
        if ttl is None:
            command: tuple[bytes, ...] = (b"PERSIST", name)
        else:
            command = (b"PEXPIRE", name, b"%d" % millis(seconds("ttl", ttl, least=0.001)))
        try:
            return bool(self._server(name).call(*command))
        except _AWAY as error:
            self._without(error)
            return False

    def delete(self, key: str) -> bool:
        """Remove a value; tells whether there was one."""
        return bool(self.delete_many((key,)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several values; returns how many there were."""
        keys = list(dict.fromkeys(keys))
        removed = 0
        for server, _, names in self._spread(keys):
            self._work.detach(names)
            try:
                removed += server.call(b"DEL", *names, keys=tuple(names))
            except _AWAY as error:
                self._without(error)
        return removed

    def invalidate(self, *keys: str, tags: str | Iterable[str] = ()) -> int:
        """Forget keys, and everything that has one of these tags, on every node; loads on their way are not stored.

        Returns how many keys and tags that were. Without a server it is made good before the server is read again.
        """
        marks = [self._tag(tag) for tag in ((tags,) if isinstance(tags, str) else tags)]
        return self._invalidate(list(dict.fromkeys(keys)), marks)

    def clear(self) -> int:
        """Forget everything in this namespace, in one step."""
        if not self._own_tags:
            raise ConfigError("clear: only a namespace can be cleared")
        return self._invalidate([], [self._own_tags[-1]])

    def _invalidate(self, keys: list[str], marks: list[bytes]) -> int:
        spread = {id(server): (server, tuple(names)) for server, _, names in self._spread(keys)}
        servers = self._servers if marks else [server for server, _ in spread.values()]
        count = 0
        errors: list[CacheError] = []
        for server in servers:
            names = spread.get(id(server), (server, ()))[1]
            # Whoever joined a load in this process before this may have its value; nobody after it.
            self._work.detach(None if marks else names)
            words: list[bytes] = [b"CACHE.INVALIDATE"]
            if names:
                words += b"KEYS", b"%d" % len(names), *names
            if marks:
                words += b"TAGS", b"%d" % len(marks), *marks
            try:
                count += server.call(*words, keys=names, tags=tuple(marks))
            except _AWAY as error:
                errors.append(error)
        for missed in errors:
            self._without(missed)
        return count

    # Loading

    def get_or_load(  # noqa: PLR0913 - an option each
        self,
        key: str,
        load: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Iterable[str] = (),
        type: Any = None,
        wait: Duration | None = None,
        policy: Policy | Callable[[], Policy] | None = None,
        guard: Guard | None = None,
    ) -> Any:
        """Return the value; if there is none, one caller among all nodes loads it and the others wait for that.

        `load` returns a value, or None for a row that does not exist. A stale value (refresh_after) is returned at
        once and refreshed in the background. A value that was loaded before an invalidation is returned to its caller
        and never stored. `policy` stands for the options from ttl to tags, and may be a function that is asked for it
        when something is loaded; `guard` has the options of a decorator about exceptions.

        Raises whatever `load` raises, in every caller of this process that waited for it, DeadlineError after `wait`,
        and TypeError for a value that would not come back the same. After a failure in another process `load` runs
        here, at most once in 100 ms for a key and 20 times a second for a function, and its value is not stored; beyond
        that LoadError is raised.
        """
        name = self._name(key)
        server = self._only or self._server(name)
        chain = loading.get()
        if chain and name in chain:
            raise LoadError(f"{key}: its load asks for itself: {_path(chain, name)}", key=key)
        limit = self._core.wait if wait is None else seconds("wait", wait)
        try:
            try:
                reply = server.fetch(name, limit)
            except UnavailableError:
                reply = server.fetch(name, limit)
        except _AWAY as error:
            self._without(error)
            reply = None  # what the load raises is raised outside of this block, as it would be without a cache
        if reply.__class__ is list and reply[0] == b"hit":
            flags = reply[5]
            value = reply[1] if type is bytes and not flags else self._decode(reply[1], flags, type)
            if value is not UNREADABLE:
                self._stats.hits += 1
                return value
        kept = self._kept(policy) or self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
        want = _Want(load, kept, type, limit, guard or self._failures.guard_of(load))
        if reply is None:
            return self._shown(key, self._load_here(name, want), guard)
        return self._shown(key, self._not_hit(server, name, reply, want), guard)

    @staticmethod
    def _shown(key: str, value: Any, guard: Guard | None) -> Any:
        """Return a value, or None for a row that does not exist; raise the exception that the function has for that."""
        if value.__class__ is not Absent:
            return value
        if guard is None or not guard.absent:
            return None
        raise value.error or guard.missing(key, value.name)

    def _not_hit(self, server: Any, name: bytes, reply: Any, want: _Want) -> Any:
        if isinstance(reply, Exception):
            return self._failed_elsewhere(name, reply, want)
        value = self._served(reply, want)
        token = reply[2]
        if value is not UNREADABLE:
            if token:
                self._work.background(self._load, server, name, token, want)
            return value
        if not token and reply[1] is not None:
            # It was written by other code, as another type: make room for one that can be read.
            self._invalidate([self._key(name)], [])
            reply = server.fetch(name, want.wait)
            if isinstance(reply, Exception):
                return self._failed_elsewhere(name, reply, want)
            value = self._served(reply, want)
            token = reply[2]
            if value is not UNREADABLE:
                return value
        self._stats.misses += 1
        if token:
            return self._load(server, name, token, want)
        return self._load_here(name, want)

    def _served(self, reply: Any, want: _Want) -> Any:
        """Return what a fetch gave; UNREADABLE if that is nothing, or nothing of this type."""
        state, data, _, _, _, flags = reply
        if state == b"absent":
            self._stats.hits += 1
            return Absent(_text(data)) if data else None
        if state in {b"timeout", b"waiting"}:
            raise DeadlineError(f"somebody else loads it, and not within {want.wait:g} s")
        if data is None:
            return UNREADABLE
        value = self._decode(data, flags, want.type)
        if value is UNREADABLE:
            self._stats.unreadable += 1
        elif state == b"stale":
            self._stats.stale += 1
        else:
            self._stats.hits += 1
        return value

    def _load(self, server: Any, name: bytes, token: int, want: _Want) -> Any:
        begun = time.monotonic()
        ran = False
        try:
            self._failures.check(self._key(name), want.guard)
            self._stats.loads += 1
            value = self._run(((server, name, token),), want.load)
            ran = True
            data, flags, shown = self._form(value, want.type)
        except Exception as error:
            stand_in = self._load_failed(server, name, token, error, want, ran=ran)
            if stand_in is UNREADABLE:
                raise
            return stand_in
        except BaseException as error:
            self._work.background(server.call, *self._ended(name, token, error))
            raise
        self._failures.succeeded(want.guard)
        cost = time.monotonic() - begun
        words = self._filling(want.policy, flags, cost, absent=shown is None or shown.__class__ is Absent)
        try:
            stored = server.call(b"CACHE.FILL", name, token, data, *words)
        except CacheError as error:
            self._stats.errors += 1
            self._core.events("fill_error", key=_text(name), error=str(error))
        else:
            self._stats.refused_fills += not stored
        self._core.events("load", key=_text(name), seconds=cost)
        return shown

    def _ended(self, name: bytes, token: int, error: BaseException) -> tuple[Any, ...]:
        """Return the command that ends the lease of a load that neither returned nor raised an Exception.

        A caller that was cancelled or interrupted hands the lease on. What the load raised by itself is a failure: the
        next holder would meet it too, and SystemExit would end one process after another.
        """
        if self._work.is_own(error):
            return b"CACHE.FAIL", name, token, self._failures.message(error)
        return b"CACHE.RELEASE", name, token

    def _form(self, value: Any, type: Any) -> tuple[bytes, int, Any]:
        if value.__class__ is Absent:
            return value.name.encode(), 0, value
        return (b"", 0, None) if value is None else self._values.fill_form(value, type)

    def _filling(self, policy: Policy, flags: int, cost: float, *, absent: bool) -> list[bytes]:
        return policy.words(
            draw=random.random(),  # noqa: S311 - spreads the ends of values
            absent=absent,
            cost=cost,
            flags=flags,
            tags=self._tags(policy.tags),
        )

    def _run(self, leases: Sequence[tuple[Any, bytes, int]], load: Callable[[], Any]) -> Any:
        before = loading.set((*loading.get(), *(name for _, name, _ in leases)))
        try:
            with self._work.renewing(leases):
                return self._work.call(load)
        finally:
            loading.reset(before)

    def _load_failed(  # noqa: PLR0913 - the load, and how it ended
        self, server: Any, name: bytes, token: int, error: Exception, want: _Want, *, ran: bool
    ) -> Any:
        """Tell the server; return a stale value that may stand in, UNREADABLE if there is none.

        The exception is kept before the server hears of the failure, so that whoever waits here finds it.
        """
        self._stats.load_errors += 1
        self._core.events("load_error", key=_text(name), error=cause_of(error))
        words = self._failures.failed((name,), error, want.guard, ran=ran)
        try:
            server.call(b"CACHE.FAIL", name, token, *words)
            if want.policy.stale_if_error and not ran and not isinstance(error, want.guard.pass_through):
                reply = server.fetch(name, 0, 0)
                if reply.__class__ is list and reply[1] is not None and reply[0] != b"absent":
                    value = self._decode(reply[1], reply[5], want.type)
                    self._stats.stale += value is not UNREADABLE
                    return value
        except CacheError:
            self._stats.errors += 1
        return UNREADABLE

    def _failed_elsewhere(self, name: bytes, reply: Exception, want: _Want) -> Any:
        """Raise the exception of this process if its load failed; else run the function before believing another's."""
        failure = translate(reply, name, self._prefix)
        try:
            if failure.__class__ is not LoadError or is_lost(failure):
                raise failure
            return self._load_here(name, want, self._failures.elsewhere(name, failure))
        finally:
            # A traceback holds this frame, which must not hold what the traceback belongs to.
            del failure

    def _load_here(self, name: bytes, want: _Want, failure: LoadError | None = None) -> Any:
        """Load without a lease: one thread of this process for a key, and so many at a time. Nothing is stored.

        `failure` is that of another process, None if there is no server.
        """
        self._tags(want.policy.tags)  # what is wrong with them is told now as well

        def run() -> Any:
            self._failures.try_alone(name, self._key(name), want.guard, failure)
            self._stats.local_loads += 1
            ran = False
            try:
                value = self._run(((None, name, 0),), want.load)
                ran = True
                shown = self._form(value, want.type)[2]
            except Exception as error:
                self._failures.failed((name,), error, want.guard, ran=ran)
                raise
            self._failures.succeeded(want.guard)
            return shown

        return self._work.alone(name, run, want.wait)

    def get_or_load_many(  # noqa: PLR0913 - an option each
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Any],
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Iterable[str] = (),
        type: Any = None,
        wait: Duration | None = None,
        policy: Policy | None = None,
        guard: Guard | None = None,
    ) -> dict[str, Any]:
        """Return values by key, None for rows that do not exist; `load_many` is given the keys nobody else loads.

        It takes a list of keys and returns a dict. All that this caller has to load is loaded in one call, and only
        then are others' loads waited for, all of them for `wait` together: two callers would otherwise wait for each
        other. When some of them fail, the rest is finished first, and then LoadError names them.
        """
        if policy is None:
            policy = self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
        limit = self._core.wait if wait is None else seconds("wait", wait)
        keys = list(dict.fromkeys(keys))
        guard = guard or self._failures.guard_of(load_many)  # type: ignore[arg-type]  # it is not called
        batch = _Sorted()
        for server, part, names in self._spread(keys):
            self._fetch_many(server, part, names, type, batch)
        found = batch.found
        if batch.mine:
            found |= self._load_many(batch.mine, load_many, policy, type, guard)
        if batch.stale:
            self._work.background(self._load_many, batch.stale, load_many, policy, type, guard)
        if batch.later:
            end = time.monotonic() + limit

            def wait_for(key: str) -> Any:
                load, left = self._one_of(load_many, key, guard), max(0.001, end - time.monotonic())
                return self.get_or_load(key, load, policy=policy, type=type, wait=left, guard=guard)

            came = dict(zip(batch.later, self._work.each(wait_for, batch.later), strict=True))
            failed = {key: value.error for key, value in came.items() if value.__class__ is Failed}
            if failed:
                _raise_all(failed)
            found |= came
        return {key: found[key] for key in keys}

    def _fetch_many(self, server: Any, part: list[str], names: list[bytes], type: Any, batch: _Sorted) -> None:
        chain = loading.get()
        for name in names:
            if chain and name in chain:
                key = self._key(name)
                raise LoadError(f"{key}: its load asks for itself: {_path(chain, name)}", key=key)
        try:
            try:
                replies = server.fetch_many(names, 0)
            except UnavailableError:
                replies = server.fetch_many(names, 0)
        except _AWAY as error:
            self._without(error)
            batch.later.extend(part)
            return
        for key, name, reply in zip(part, names, replies, strict=True):
            if reply.__class__ is not list or reply[0] == b"waiting":
                batch.later.append(key)
                continue
            state, data, token, _, _, flags = reply
            value = UNREADABLE if data is None else self._decode(data, flags, type)
            if state == b"absent" or value is not UNREADABLE:
                batch.found[key] = None if state == b"absent" else value
                self._stats.hits += 1
                if token:
                    batch.stale.append(_Lease(server, name, token, key))
            elif token:
                self._stats.misses += 1
                batch.mine.append(_Lease(server, name, token, key))
            else:
                batch.later.append(key)

    def _one_of(self, load_many: Callable[[list[str]], Any], key: str, guard: Guard) -> Callable[[], Any]:
        def load() -> Any:
            return rows_of(guard.name, [key], self._work.settle(load_many([key])))[0]

        return load

    def _load_many(
        self, leases: list[_Lease], load_many: Callable[[list[str]], Any], policy: Policy, type: Any, guard: Guard
    ) -> dict[str, Any]:
        begun = time.monotonic()
        ran = False
        shown: dict[str, Any] = {}
        fills: list[tuple[_Lease, tuple[Any, ...]]] = []
        try:
            self._failures.check(leases[0].key, guard)
            self._stats.loads += 1
            held = tuple((lease.server, lease.name, lease.token) for lease in leases)
            keys = [lease.key for lease in leases]
            loaded = self._run(held, lambda: load_many(list(keys)))
            ran = True
            cost = time.monotonic() - begun
            for lease, value in zip(leases, rows_of(guard.name, keys, loaded), strict=True):
                data, flags, shown[lease.key] = self._form(value, type)
                options = self._filling(policy, flags, cost, absent=value is None)
                fills.append((lease, (b"CACHE.FILL", lease.name, lease.token, data, *options)))
        except Exception as error:
            self._stats.load_errors += 1
            words = self._failures.failed([lease.name for lease in leases], error, guard, ran=ran)
            self._tell([(lease, (b"CACHE.FAIL", lease.name, lease.token, *words)) for lease in leases])
            raise
        except BaseException as error:
            for lease in leases:
                self._work.background(lease.server.call, *self._ended(lease.name, lease.token, error))
            raise
        self._failures.succeeded(guard)
        self._stats.refused_fills += (self._tell(fills)).count(0)
        self._core.events("load", keys=len(leases), seconds=time.monotonic() - begun)
        return shown

    def _tell(self, commands: list[tuple[_Lease, tuple[Any, ...]]]) -> list[Any]:
        """Send commands to the servers of their leases; what they answer."""
        replies: list[Any] = []
        for server in {id(lease.server): lease.server for lease, _ in commands}.values():
            try:
                replies += server.call_many([words for lease, words in commands if lease.server is server])
            except CacheError:
                self._stats.errors += 1
        return replies

    # The cache itself

    def ping(self) -> bool:
        """Ask every server for a sign of life. Raises UnavailableError or DeadlineError."""
        for server in self._servers:
            server.call(b"PING")
        return True

    def command(self, *words: str | bytes | int) -> Any:
        """Send a command as it is, whatever the namespace, and return its reply. For a cache of one server."""
        if self._only is None:
            raise ConfigError("command: which of the servers?")
        words_sent = (words[0].upper().encode() if isinstance(words[0], str) else words[0], *words[1:])
        return self._only.call(*words_sent)

    def server_info(self) -> list[dict[str, str]]:
        """Return what every server tells of itself (INFO)."""
        told = []
        for server in self._servers:
            lines = _text(server.call(b"INFO")).splitlines()
            told.append(dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#")))
        return told

    def stats(self) -> dict[str, Any]:
        """Return what was counted since this cache was made: hits, misses, loads, errors, seconds away."""
        return self._core.counts()

    def close(self) -> None:
        """Close the connections. A cache that is used again connects again."""
        for server in self._servers:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        names = f", namespace={':'.join(self._names)!r}" if self._names else ""
        return f"{self.__class__.__name__}({self._core}{names})"

    # Small things

    def _name(self, key: str) -> bytes:
        if key.__class__ is not str or not key:
            raise KeyFormatError(f"a key is a str that is not empty, not {key!r}")
        try:
            name = (self._prefix + key).encode()
        except UnicodeEncodeError:
            raise KeyFormatError(f"{key!r}: a key is UTF-8") from None
        if len(name) > _LONGEST_KEY:
            raise KeyFormatError(f"{key[:40]!r}...: {len(name)} bytes; a key has at most {_LONGEST_KEY}")
        return name

    def _names_of(self, keys: Sequence[str]) -> list[bytes]:
        """Return keys as they are sent; checked and made together, for each alone costs more."""
        prefix = self._prefix
        try:
            joined = (prefix + f"\0{prefix}".join(keys)).encode()
        except (TypeError, UnicodeEncodeError):
            joined = b""  # one of them is no key: which one is told below
        if all(keys) and 0 < len(joined) <= _LONGEST_KEY:
            names = joined.split(b"\0")
            # More, if a key has a zero itself.
            if len(names) == len(keys):
                return names
        return [self._name(key) for key in keys]

    def _key(self, name: bytes) -> str:
        return name.decode()[len(self._prefix) :]

    def _tag(self, tag: str) -> bytes:
        if tag.__class__ is not str or not tag:
            raise KeyFormatError(f"a tag is a str that is not empty, not {tag!r}")
        return (self._prefix + tag).encode()

    def _tags(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        marks = (*self._own_tags, *(self._tag(tag) for tag in tags))
        if len(marks) > _MOST_TAGS:
            raise ConfigError(f"tags: {len(marks)}; at most {_MOST_TAGS}, namespaces among them")
        return marks

    def _policy(
        self,
        ttl: Duration | None,
        refresh_after: Duration | None,
        stale_if_error: Duration | None,
        negative_ttl: Duration | None,
        tags: str | Iterable[str],
    ) -> Policy:
        own = (tags,) if isinstance(tags, str) else tuple(tags)
        return Policy(self._lives(ttl), refresh_after, stale_if_error, negative_ttl, own)

    @staticmethod
    def _kept(policy: Policy | Callable[[], Policy] | None) -> Policy | None:
        return policy() if callable(policy) else policy

    def _server(self, name: bytes) -> Any:
        return self._only or self._servers[self._core.home_of(name)]

    def _spread(self, keys: list[str]) -> list[tuple[Any, list[str], list[bytes]]]:
        """Return the servers of these keys, each with its keys as they were given and as they are sent."""
        if not keys:
            return []
        names = self._names_of(keys)
        if self._only is not None:
            return [(self._only, keys, names)]
        parts: dict[int, tuple[Any, list[str], list[bytes]]] = {}
        for key, name in zip(keys, names, strict=True):
            place = self._core.home_of(name)
            part = parts.setdefault(place, (self._servers[place], [], []))
            part[1].append(key)
            part[2].append(name)
        return list(parts.values())

    def _without(self, error: CacheError) -> None:
        """Go on without the server, or raise, as the cache was told."""
        self._stats.errors += 1
        if self._core.raises:
            raise error


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple | set):
        return [_text(item) for item in value]
    return value


def _path(chain: Sequence[bytes], name: bytes) -> str:
    return " -> ".join(map(_text, (*chain, name)))


def _raise_all(errors: Mapping[str, Exception]) -> None:
    """Raise an error that is that of all keys as it is; different ones as one that names them."""
    first = next(iter(errors.values()))
    if all(error is first for error in errors.values()):
        raise first
    named = "; ".join(f"{key}: {text_of(error)}" for key, error in list(errors.items())[:_NAMED])
    raise LoadError(f"{len(errors)} keys could not be loaded: {named}", key=next(iter(errors))) from first
