"""The cache as its users see it: keys, options, values, and what happens when there is no server.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import functools
import random
import time
import weakref
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, overload

from globalcache.client.batches import rows_of
from globalcache.client.core import Core
from globalcache.client.entry import Entry
from globalcache.client.failures import is_lost, is_private
from globalcache.client.flights import Running, keys_in_loads, loading, loads_around
from globalcache.client.functions import Functions
from globalcache.client.guard import Absent, Guard, cause_of, qualified, text_of
from globalcache.client.raised import Handled, Raised
from globalcache.client.unstored import too_long
from globalcache.client.values import UNREADABLE
from globalcache.client.wire import MOST_BYTES, MOST_KEYS, key_batches, tag_name, translate, word_of
from globalcache.client.work import Failed
from globalcache.errors import (
    CacheError,
    ConfigError,
    DeadlineError,
    KeyFormatError,
    LoadError,
    ReplyError,
    UnavailableError,
    ValueTooLargeError,
    written,
)
from globalcache.policy import Duration, Policy, millis, seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client._sync.cache import Cache
    from globalcache.client.claims import Claims
    from globalcache.client.core import LoadOptions, ManyOptions, Options
    from globalcache.client.flights import Flight
    from globalcache.client.functions import Loader
    from globalcache.client.leases import Lease
    from globalcache.client.wire import Words

T = TypeVar("T")
D = TypeVar("D")

_LONGEST_KEY = 65_535
# What a server is told of a value that it does not take. The function has not failed, so others may run it as well.
_TOO_LARGE = "too large"
# What a bulk read gives for text without flags, and for nothing.
_PLAIN = {bytes, None.__class__}
_class_of = type
_AWAY = (UnavailableError, DeadlineError)
_NO_FAILURES: Mapping[bytes, LoadError] = {}
# Stands for what came of a key whose load failed for its caller alone.
_PRIVATE: Any = object()
# Tags that may be given to one item, and those that it may have with those of its namespaces.
_MOST_GIVEN_TAGS, _MOST_TAGS = 16, 17
# Keys that one error names.
_NAMED = 10
# A server with keys as they were given and as they are sent.
_Part: TypeAlias = "tuple[AsyncTransport, list[str], list[bytes]]"
# A server with what it has to do, and the keys and tags that this changes.
_Write: TypeAlias = "tuple[AsyncTransport, Words, tuple[bytes, ...], tuple[bytes, ...]]"
_ManyWrites: TypeAlias = "tuple[AsyncTransport, list[Words], tuple[bytes, ...], tuple[()]]"

# For tasks alone.
# What get_or_load and get_or_load_many are given and return: see their overloads.
OneLoad: TypeAlias = "Callable[[], Any]"
Loaded: TypeAlias = Any
ManyLoad: TypeAlias = "Callable[[list[str]], Any]"
ManyLoaded: TypeAlias = dict[str, Any]
# For both.


class _Want(NamedTuple):
    """What a caller of get_or_load wants."""

    load: Callable[[], Any]
    policy: Policy
    type: Any
    wait: float
    guard: Guard
    # Whether a value of another type may be invalidated, to be fetched once more.
    again: bool = True
    # Whether a load without a lease is left to the caller, as a _Deferred.
    defers: bool = False


class _LocalLoad(NamedTuple):
    """A load without a lease: `run` loads keys, and `rows` gives what came of each of them in their order."""

    run: Callable[[list[str]], Any]
    rows: Callable[[list[str], Any], Sequence[Any]]
    type: Any
    guard: Guard


class _Deferred:
    """What stands for a key that is to be loaded without a lease, together with others.

    `failure` is that of another process; None if nobody has failed whom this caller would believe.
    """

    def __init__(self, failure: LoadError | None = None) -> None:
        self.failure = failure


class _Form(NamedTuple):
    """A value that was loaded: as it is stored, and as callers get it."""

    data: bytes
    flags: int
    shown: Any

    @property
    def is_absent(self) -> bool:
        return self.shown is None or self.shown.__class__ is Absent


class _Sorted:
    """What a batch of fetches gave: values, leases for loads and refreshes, keys to wait for, keys without a server."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.failed: dict[str, Raised] = {}
        self.mine: list[Lease] = []
        self.stale: list[Lease] = []
        self.later: list[str] = []
        self.away: list[str] = []
        # All replies, whose leases are this caller's.
        self.replies: list[Any] = []

    def add(self, came: Mapping[str, Any]) -> None:
        """Note what came of keys: values, None for what has no row, and Raised."""
        for key, value in came.items():
            if value.__class__ is Raised:
                self.failed[key] = value
            else:
                self.found[key] = None if value.__class__ is Absent else value

    def raise_failures(self) -> None:
        """Raise an error that is that of all keys as it is; different ones as one that names them."""
        failed, self.failed = self.failed, {}
        if not failed:
            return
        first = next(iter(failed.values()))
        try:
            if all(one.error is first.error for one in failed.values()):
                first.again()
            named = "; ".join(f"{key}: {text_of(one.error)}" for key, one in list(failed.items())[:_NAMED])
            raise LoadError(f"{len(failed)} keys could not be loaded: {named}", key=next(iter(failed))) from first.error
        finally:
            # A traceback holds this frame, which must not hold the exceptions.
            del failed, first

    def release(self) -> None:
        """Release what was neither answered nor left to a refresh."""
        for lease in filter(None, map(_lease_of, self.replies)):
            if not lease.is_handed_over:
                lease.release()


class AsyncCache(Functions):
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

    def __init__(
        self, url: str | Sequence[str] | None = None, *, namespace: str | None = None, **options: Unpack[Options]
    ) -> None:
        core = Core(url, **options)
        names = [name for name in (core.addresses[0].namespace, namespace) if name]
        self._set_up(core, names)

    def _set_up(self, core: Core, names: Sequence[str]) -> None:
        self._core = core
        self._names = tuple(names)
        # A colon in a name is escaped: "a:b" is another namespace than "b" within "a".
        levels = [name.replace("%", "%25").replace(":", "%3A") + ":" for name in names]
        self._prefix = "".join(levels)
        # Every level of names is a tag of all that is written under it, so that each can be cleared. No tag of a user
        # is one (`tag_name`). Clients of the version before write and clear the same.
        self._own_tags = tuple(b"ns:" + "".join(levels[: level + 1]).encode() for level in range(len(levels)))
        self._servers = core.async_transports
        self._only = self._servers[0] if len(self._servers) == 1 else None
        self._work = core.async_work
        self._detach = core.detach
        self._values = core.values
        self._decode = core.values.decode
        self._stats = core.stats
        self._failures = core.failures
        self._other: Cache | None = None

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
    def claims(self) -> Claims:
        """Which function has which keys, in all namespaces of a cache."""
        return self._core.claims

    @property
    def key_prefix(self) -> str:
        """What stands before every key."""
        return self._prefix

    @property
    def sync(self) -> Cache:
        """The same cache for plain functions."""
        if self._other is None:
            from globalcache.client._sync.cache import Cache  # noqa: PLC0415 - the two know each other

            self._other = Cache._of(self._core, self._names)  # noqa: SLF001 - the same, seen otherwise
            self._other._other = self  # noqa: SLF001
        return self._other

    @property
    def sync_door(self) -> Any:
        """The face for plain functions."""
        return self.sync

    @property
    def async_door(self) -> Any:
        """The face for async functions."""
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
    async def get(self, key: str, default: None = None) -> Any: ...
    @overload
    async def get(self, key: str, default: D) -> Any: ...
    @overload
    async def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """Return the value, read as `type` if given; `default` if there is none."""
        name = self._name(key)
        server = self._only or self._server(name)
        try:
            try:
                reply = await server.get(name)
            except UnavailableError:
                reply = await server.get(name)
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

    @overload
    async def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]: ...
    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        """Return what there is of these keys, by key."""
        found: dict[str, Any] = {}
        for server, part, names in self._spread(keys if keys.__class__ is list else list(keys)):
            try:
                try:
                    replies = await server.get_many(names)
                except UnavailableError:
                    replies = await server.get_many(names)
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

    @overload
    async def get_entry(self, key: str, *, type: type[T]) -> Entry[T] | None: ...
    @overload
    async def get_entry(self, key: str, *, type: Any = None) -> Entry[Any] | None: ...
    async def get_entry(self, key: str, *, type: Any = None) -> Entry[Any] | None:
        """Return value, version, age, ttl and staleness; None if there is nothing."""
        name = self._name(key)
        try:
            reply = await self._server(name).call(b"CACHE.ENTRY", name)
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

    async def has(self, key: str) -> bool:
        """Tell whether there is a value. Raises UnavailableError without a server."""
        name = self._name(key)
        return bool(await self._server(name).call(b"EXISTS", name))

    async def inspect(self, key: str) -> dict[str, Any]:
        """Return all that the server knows of a key: state, age, freshness, size, tags, lease, waiters."""
        name = self._name(key)
        known = await self._server(name).call(b"CACHE.INSPECT", name)
        items = known.items() if isinstance(known, dict) else zip(known[::2], known[1::2], strict=True)
        return {_text(word): _text(value) for word, value in items}

    # Writing

    async def set(  # noqa: PLR0913 - an option each
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
            words = (b"IFVERSION", b"%d" % _whole("if_version", if_version))
        return bool(await self._set(key, value, policy, type, words))

    async def add(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: str | Iterable[str] = (), type: Any = None
    ) -> bool:
        """Write a value only if there is none; tells whether it was written. Raises UnavailableError."""
        return bool(await self._set(key, value, self._policy(ttl, None, None, None, tags), type, (b"NX",)))

    async def _set(self, key: str, value: Any, policy: Policy, type: Any, condition: tuple[bytes, ...]) -> int:
        name = self._name(key)
        server = self._only or self._server(name)
        data, flags = self._encoded(key, value, type)
        most = server.max_value
        if most is not None and len(data) > most:
            raise ValueTooLargeError(too_long(key, len(data), most))
        words = policy.words(flags=flags, tags=self._tags(policy.tags))
        self._detach((name,))
        try:
            written = await server.call(b"CACHE.SET", name, data, *words, *condition, keys=(name,))
        except _AWAY as error:
            if condition:
                raise
            self._without(error)
            return 0
        return int(written)

    def _encoded(self, key: str, value: Any, type: Any) -> tuple[bytes, int]:
        try:
            return self._values.encode(value, type, by_class=True)
        except TypeError as error:
            raise TypeError(f"{key}: {error}") from None

    async def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: str | Iterable[str] = (),
        type: Any = None,
    ) -> int:
        """Write several values; returns how many were written.

        A value that is longer than the server takes is left out, with a warning.
        """
        policy = self._policy(ttl, None, None, None, tags)
        shared = self._tags(policy.tags)
        written = 0
        encoded = {key: self._encoded(key, value, type) for key, value in values.items()}
        self._detach([self._name(key) for key in values])
        writes: list[_ManyWrites] = []
        for server, part, names in self._spread(list(values)):
            commands: list[Words] = []
            for key, name in zip(part, names, strict=True):
                data, flags = encoded[key]
                if not self._is_too_long(server, "set_many", key, data):
                    commands.append((b"CACHE.SET", name, data, *policy.words(flags=flags, tags=shared)))
            writes.append((server, commands, tuple(names), ()))
        written = 0
        refused: Exception | None = None
        for replies in await self._deliver(self._send_many, writes):
            for reply in replies:
                error = translate(reply) if isinstance(reply, Exception) else None
                if error is None:
                    written += bool(reply)
                elif isinstance(error, ValueTooLargeError):
                    self._stats.errors += 1
                else:
                    refused = refused or error
        if refused is not None:
            raise refused
        return written

    @staticmethod
    async def _send_many(write: _ManyWrites) -> Any:
        server, commands, keys, _ = write
        return await server.call_many(commands, keys=keys)

    @staticmethod
    async def _send_one(write: _Write) -> Any:
        server, words, keys, tags = write
        return await server.call(*words, keys=keys, tags=tags)

    async def _deliver(self, send: Callable[[Any], Any], writes: Sequence[_Write | _ManyWrites]) -> list[Any]:
        """Send each write to its server; returns what they gave. Every server has its turn before anything is raised.

        An invalidation that ended at the first server would leave old values at the others, and none of them would
        hear of it later.
        """
        if len(writes) == 1:
            # Nearly always, so without what several need.
            try:
                return [await send(writes[0])]
            except _AWAY as error:
                self._without(error)
                return []

        async def attempt(write: Any) -> Any:
            try:
                return await send(write)
            except Exception as error:  # noqa: BLE001 - raised when all had their turn
                return Failed(error)

        results = await self._work.deliver(attempt, writes, _note_missed)
        self._raise_first([result.error for result in results if result.__class__ is Failed])
        return [result for result in results if result.__class__ is not Failed]

    def _raise_first(self, errors: Sequence[Exception]) -> None:
        """Go on without servers that are away, as the cache was told; raise what one has refused."""
        away = [error for error in errors if isinstance(error, _AWAY)]
        self._stats.errors += len(away)
        for error in errors:
            if self._core.raises or not isinstance(error, _AWAY):
                raise error

    def _is_too_long(self, server: AsyncTransport, function: str, key: str, data: bytes) -> bool:
        """Tell whether the server would not take a value, and warn if so."""
        most = server.max_value
        if most is None or len(data) <= most:
            return False
        self._core.unstored.warn(function, key, len(data), most, time.monotonic())
        return True

    async def incr(
        self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()
    ) -> int:
        """Add to a whole number, which counts from 0; ttl and tags hold when it is made.

        Raises UnavailableError, and TypeError for a fraction.
        """
        name, number = self._name(key), _whole("delta", delta)
        words: list[bytes] = []
        if ttl is not None:
            words += b"TTL", b"%d" % millis(seconds("ttl", ttl, least=0.001))
        own = self._tags((tags,) if isinstance(tags, str) else tuple(tags))
        if own:
            words += b"TAGS", b"%d" % len(own), *own
        self._detach((name,))
        return int(await self._server(name).call(b"CACHE.INCR", name, b"%d" % number, *words, keys=(name,)))

    async def decr(
        self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()
    ) -> int:
        """Take from a number, as incr adds to it."""
        return await self.incr(key, -delta, ttl=ttl, tags=tags)

    async def touch(self, key: str, ttl: Duration | None = None) -> bool:
        """Give a value another time to live; None: it stays. Tells whether there is one."""
        name = self._name(key)
        server = self._server(name)
        try:
            if ttl is None:
                # PERSIST says no of what has no time to live, and of what is not there. Not sent together: EXISTS may
                # wait for a load.
                return bool(await server.call(b"PERSIST", name) or await server.call(b"EXISTS", name))
            return bool(await server.call(b"PEXPIRE", name, b"%d" % millis(seconds("ttl", ttl, least=0.001))))
        except _AWAY as error:
            self._without(error)
            return False

    async def delete(self, key: str) -> bool:
        """Remove a value; tells whether there was one."""
        return bool(await self.delete_many((key,)))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several values; returns how many there were."""
        parts = self._spread(list(dict.fromkeys(keys)))
        for _, _, names in parts:
            self._detach(names)
        writes: list[_Write] = [(server, (b"DEL", *names), tuple(names), ()) for server, _, names in parts]
        return sum(await self._deliver(self._send_one, writes))

    async def invalidate(self, *keys: str, tags: str | Iterable[str] = ()) -> int:
        """Forget keys, and everything that has one of these tags, on every node; loads on their way are not stored.

        Returns how many keys and tags that were. Without a server it is made good before the server is read again.
        """
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"invalidate takes keys one by one, invalidate(*keys), not a {key.__class__.__name__}")
        marks = [self._tag(tag) for tag in ((tags,) if isinstance(tags, str) else tags)]
        return await self._invalidate(list(dict.fromkeys(keys)), marks)

    async def clear(self) -> int:
        """Forget everything in this namespace, in one step."""
        if not self._own_tags:
            raise ConfigError("clear: only a namespace can be cleared")
        return await self._invalidate([], [self._own_tags[-1]])

    async def _invalidate(self, keys: list[str], marks: list[bytes]) -> int:
        parts = [(server, tuple(names)) for server, _, names in self._spread(keys)]
        writes: list[_Write] = []
        for server in self._servers if marks else ():
            # In one step with the first of the keys, which are nearly always all.
            first = next((part for part in parts if part[0] is server), (server, ()))
            parts = [part for part in parts if part is not first]
            writes.append(_invalidation(*first, tuple(marks)))
        writes += [_invalidation(server, names, ()) for server, names in parts]
        # Who joined a load in this process before this may have its value; nobody after it.
        for _, _, names, tags in writes:
            self._detach(None if tags else names)
        return sum(await self._deliver(self._send_one, writes))

    # Loading

    # For tasks alone.
    @overload
    async def get_or_load(self, key: str, load: Callable[[], Awaitable[T]], **options: Unpack[LoadOptions]) -> T: ...
    @overload
    async def get_or_load(self, key: str, load: Callable[[], T], **options: Unpack[LoadOptions]) -> T: ...
    # For both.
    async def get_or_load(  # noqa: PLR0913 - an option each
        self,
        key: str,
        load: OneLoad,
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
    ) -> Loaded:
        """Return the value; if there is none, one caller among all nodes loads it and the others wait for that.

        `load` returns a value, or None for a row that does not exist. A stale value (refresh_after) is returned at once
        and refreshed in the background, and now and then so is one whose end is near: `load` may run after the call, so
        it must not use variables that change meanwhile, such as that of a loop. A value that was loaded before an
        invalidation is returned to its caller and never stored. `policy` stands for the options from ttl to tags, and
        may be a function that is asked for it when something is loaded; `guard` has the options of a decorator about
        exceptions.

        Raises whatever `load` raises, in every caller of this process that waited for it, DeadlineError after `wait`,
        and TypeError for a value that would not come back the same. After a failure in another process `load` runs
        here, at most once in 100 ms for a key and 20 times a second for a function, and its value is not stored; beyond
        that LoadError is raised.
        """
        name = self._name(key)
        server = self._only or self._server(name)
        if loading.get():
            self._check_chain((name,))
        limit = self._core.wait if wait is None else seconds("wait", wait)
        try:
            try:
                reply = await server.fetch(name, limit)
            except UnavailableError:
                reply = await server.fetch(name, limit)
        except _AWAY as error:
            self._without(error)
            reply = None  # what the load raises is raised outside of this block, as it would be without a cache
        if reply.__class__ is list and reply[0] == b"hit" and not reply[2]:
            flags = reply[5]
            found: Loaded = reply[1] if type is bytes and not flags else self._decode(reply[1], flags, type)
            if found is not UNREADABLE:
                self._stats.hits += 1
                return found
        # No call comes between, which could be interrupted: from here on this call answers for the lease.
        lease: Lease | None = (reply[2] or None) if reply.__class__ is list else None
        if lease is not None:
            lease.taken = True
        try:
            kept = self._kept(policy) or self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
            want = _Want(load, kept, type, limit, guard or self._failures.guard_of(load))
            value = await self._not_hit(server, name, reply, want)
        finally:
            # Whatever ended the call: what was neither answered nor handed over goes to the next who asks.
            if lease is not None and not lease.is_handed_over:
                lease.release()
        shown: Loaded = self._shown(key, value, guard)
        return shown

    @staticmethod
    def _shown(key: str, value: Any, guard: Guard | None) -> Any:
        """Return a value, or None for a row that does not exist; raise the exception that the function has for that."""
        if value.__class__ is not Absent:
            return value
        if guard is None or not guard.absent:
            return None
        raise value.error or guard.missing(key, value.name)

    async def _not_hit(self, server: AsyncTransport, name: bytes, reply: Any, want: _Want) -> Any:
        """Return what a fetch gave, or load it; `reply` is None without a server.

        The lease of `reply`, if any, is released by the caller.
        """
        if reply is None:
            return await self._load_here(name, want, joins=True)
        if isinstance(reply, Exception):
            return await self._failed_before(server, name, reply, want)
        value = self._served(reply, want)
        lease = reply[2] or None
        if value is not UNREADABLE:
            if lease is not None:
                lease.is_handed_over = self._work.refresh((lease,), self._refreshing(want))
            return value
        if lease is None and reply[1] is not None and want.again:
            # It was written by other code, as another type: make room for one that can be read.
            await self._invalidate([self._key(name)], [])
            return await self._once_more(server, name, want._replace(again=False), want.wait)
        self._stats.misses += 1
        if lease is not None:
            return await self._load(lease, want)
        return await self._load_here(name, want)

    async def _once_more(
        self, server: AsyncTransport, name: bytes, want: _Want, wait: float, *, alone: bool = False
    ) -> Any:
        """Ask again, after an invalidation: somebody has a value, or it is this caller's turn to load.

        `alone`: a load has failed for its caller alone, and all who waited for it ask at the same moment. One of them
        is granted the lease; the others load without one, since others may fail so as well.
        """
        lease: Lease | None = None
        try:
            reply = await self._fetched(server, name, wait)
            # As in `get_or_load`.
            lease = (reply[2] or None) if reply.__class__ is list else None
            if lease is not None:
                lease.taken = True
            elif alone and (is_private(reply) or (reply.__class__ is list and reply[0] in {b"waiting", b"timeout"})):
                self._stats.misses += 1
                if want.defers:
                    return _Deferred()
                return _given(await self._by_themselves([name], _one_local(want), want.wait), name)
            return await self._not_hit(server, name, reply, want)
        finally:
            if lease is not None and not lease.is_handed_over:
                lease.release()

    async def _fetched(self, server: AsyncTransport, name: bytes, wait: float) -> Any:
        """Return what a fetch gives; None without a server."""
        try:
            try:
                return await server.fetch(name, wait)
            except UnavailableError:
                return await server.fetch(name, wait)
        except _AWAY as error:
            self._without(error)
        return None

    def _refreshing(self, want: _Want) -> Callable[[Sequence[Lease]], Any]:
        async def refresh(leases: Sequence[Lease]) -> None:
            for lease in leases:
                await self._load(lease, want)

        return refresh

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

    async def _load(self, lease: Lease, want: _Want) -> Any:
        """Load with a lease in hand, and fill in what came. Whoever gave the lease releases it if that fails."""
        begun = time.monotonic()
        handled = Handled()
        ran = False
        try:
            self._failures.check(self._key(lease.name), want.guard)
            self._stats.loads += 1
            value = await self._run((lease.name,), want.load)
            ran = True
            form = self._form(lease.name, value, want.type, want.guard)
        except Exception as error:
            stand_in = await self._load_failed(lease, error, want, handled, ran=ran)
            if stand_in is UNREADABLE:
                raise
            return stand_in
        except BaseException as error:
            await self._interrupted((lease,), error)
            raise
        self._failures.succeeded(want.guard)
        cost = time.monotonic() - begun
        await self._fill(lease, form, cost, want)
        self._core.events("load", key=_text(lease.name), seconds=cost)
        return form.shown

    async def _fill(self, lease: Lease, form: _Form, cost: float, want: _Want) -> None:
        """Store a value that was loaded; a server that does not take it is told that the load is over."""
        words = self._filling(lease.server, want.policy, form, cost)
        try:
            if self._is_too_long(lease.server, want.guard.name, self._key(lease.name), form.data):
                await self._refused(lease, form, _TOO_LARGE, want.policy)
                return
            self._stats.refused_fills += not await self._answer(lease, b"CACHE.FILL", form.data, *words)
        except CacheError as error:
            self._stats.errors += 1
            self._core.events("fill_error", key=_text(lease.name), error=str(error))
            if isinstance(error, ReplyError | ValueTooLargeError):
                await self._refused(lease, form, f"it could not be stored: {error}"[:200], want.policy)

    async def _refused(self, lease: Lease, form: _Form, cause: str, policy: Policy) -> None:
        """End a lease whose value is not stored, with a pause, for the next would not be either.

        Those who wait for it in this process get a value nevertheless.
        """
        cause = self._kept_as(lease, form, cause, policy)
        try:
            await self._answer(lease, b"CACHE.FAIL", _sent(cause))
        except CacheError:
            self._stats.errors += 1

    def _kept_as(self, lease: Lease, form: _Form, cause: str, policy: Policy) -> str:
        """Keep a value that is not stored for those who wait here; returns the cause, which names its load.

        A server that was not given the tags of a value cannot know when they are invalidated, so one that has tags is
        not kept: whoever waits for it loads it again.
        """
        cause = f"{cause} (load {lease.token})"
        if not form.is_absent and not self._own_tags and not policy.tags:
            self._core.unstored.keep(lease.name, form.data, form.flags, cause, time.monotonic())
        return cause

    async def _answer(self, lease: Lease, command: bytes, *words: bytes) -> Any:
        """Answer for a lease; 0 if it is not this process's any more, as in a child that was forked since."""
        if not lease.is_open:
            return 0
        reply = await lease.server.call(command, *lease.words, *words)
        lease.close()
        return reply

    async def _interrupted(self, leases: Sequence[Lease], error: BaseException) -> None:
        """Fail a load that ended by no Exception, if it raised that by itself.

        The next holder would meet it too, and SystemExit would end one process after another. A caller that was
        cancelled or interrupted hands its leases on.
        """
        if self._work.is_own(error):
            cause = self._failures.message(error)
            await self._answer_all([(lease, (b"CACHE.FAIL", _sent(cause))) for lease in leases])

    def _form(self, name: bytes, value: Any, type: Any, guard: Guard) -> _Form:
        if value is None:
            return _Form(b"", 0, None)
        if value.__class__ is Absent:
            return _Form(value.name.encode(), 0, value)
        try:
            return _Form(*self._values.encode(value, type), value)
        except TypeError as error:
            raise TypeError(f"{guard.name}: {self._key(name)}: {error}") from error.__cause__
        except Exception as error:  # whatever a class raises that is pickled
            raise TypeError(f"{guard.name}: {self._key(name)}: value cannot be stored: {text_of(error)}") from error

    def _filling(self, server: Any, policy: Policy, form: _Form, cost: float) -> list[bytes]:
        return policy.words(
            draw=random.random(),  # noqa: S311 - spreads the ends of values
            absent=form.is_absent,
            least_absence=server.home.least_absence if server.home else 0,
            cost=cost,
            flags=form.flags,
            tags=self._tags(policy.tags),
        )

    async def _run(self, names: tuple[bytes, ...], load: Callable[[], Any]) -> Any:
        running, around = Running(names), loads_around()
        try:
            loading.set((*around, weakref.ref(running)))
            result = await self._work.call(load)
        finally:
            # First what calls nothing, so that nothing can interrupt it: the load is over, whatever comes next.
            del running
            loading.set(around)
        return result

    async def _load_failed(self, lease: Lease, error: Exception, want: _Want, handled: Handled, *, ran: bool) -> Any:
        """Tell the server; return a stale value that may stand in, UNREADABLE if there is none.

        The exception is kept before the server hears of the failure, so that whoever waits here finds it.
        """
        self._stats.load_errors += 1
        self._core.events("load_error", key=_text(lease.name), error=cause_of(error))
        words = self._failures.failed((lease.name,), error, want.guard, handled, ran=ran)
        try:
            await self._answer(lease, b"CACHE.FAIL", *words)
            if want.policy.stale_if_error and not ran and not isinstance(error, want.guard.pass_through):
                return self._standing_in(await lease.server.fetch(lease.name, 0, 0), want.type)
        except CacheError:
            self._stats.errors += 1
        return UNREADABLE

    async def _failed_before(self, server: AsyncTransport, name: bytes, reply: Exception, want: _Want) -> Any:
        """Return what came of a load that failed: what this process has of it, else what its own function gives.

        That is the value if it was too long to be stored, or the exception of this process; another process's failure
        is believed only beyond so many tries of one's own, and one that concerned its caller alone not at all.
        """
        if is_private(reply):
            return await self._once_more(server, name, want, 0, alone=True)
        kept = self._core.unstored.find(name, str(reply), time.monotonic())
        value = UNREADABLE if kept is None else self._decode(*kept, want.type)
        if value is not UNREADABLE:
            return value
        failure = translate(reply, name, self._prefix)
        try:
            if failure.__class__ is not LoadError or is_lost(failure):
                raise failure
            failed = None
            if f"{_text(name)}: {_TOO_LARGE}" not in str(reply):
                failed = self._failures.elsewhere(name, failure)
            return await self._load_here(name, want, failed)
        finally:
            # A traceback holds this frame, which must not hold what the traceback belongs to.
            failure = failed = None  # type: ignore[assignment]

    async def _load_here(
        self, name: bytes, want: _Want, failure: LoadError | None = None, *, joins: bool = False
    ) -> Any:
        """Load without a lease: one task of this process for a key, and so many at a time. Nothing is stored.

        `failure` is that of another process. `joins`: there is no server, so a load that runs already is as good as a
        new one.
        """
        if want.defers:
            return _Deferred(failure)
        self._tags(want.policy.tags)  # what is wrong with them is told now as well
        failures = {} if failure is None else {name: failure}
        return _given(await self._alone([name], _one_local(want), want.wait, failures, joins=joins), name)

    async def _alone(
        self,
        names: Sequence[bytes],
        load: _LocalLoad,
        wait: float,
        failures: Mapping[bytes, LoadError] = _NO_FAILURES,
        *,
        joins: bool,
    ) -> dict[bytes, Any]:
        """Return what loads without a lease give for these keys: values of this caller's own, and Raised.

        What nobody loads is loaded in one call, and only then are the loads of others waited for. Raises what the own
        call raises.
        """
        arrived = time.monotonic()
        end, since = arrived + wait, 0.0 if joins else arrived
        found: dict[bytes, Any] = {}
        left: Sequence[bytes] = names
        while left:
            run = functools.partial(self._run_here, load, failures)
            mine, others = await self._work.alone(left, load.guard, run, end)
            try:
                if mine.raised is not None:
                    mine.raised.again()
                found |= {name: _shown_of(mine.outcome(name)) for name in mine.names}
                came = {
                    name: self._joined(name, flight, load, since) if flight.is_over else self._too_late(name, wait)
                    for name, flight in others.items()
                }
            finally:
                # A traceback holds this frame, which must not hold the exception.
                del mine, others
            left = [name for name, value in came.items() if value is UNREADABLE]
            alone = [name for name, value in came.items() if value is _PRIVATE]
            found |= {name: value for name, value in came.items() if value is not UNREADABLE}
            if alone:
                found |= await self._by_themselves(alone, load, end - time.monotonic())
        return found

    def _joined(self, name: bytes, flight: Flight, load: _LocalLoad, since: float) -> Any:
        """Return what a caller has of another one's load; _PRIVATE if that failed for the other alone.

        UNREADABLE if there is nothing: none has begun after `since`, it was interrupted, it gave a value of another
        type, or another function than that of the caller has failed.
        """
        outcome = flight.outcome(name) if flight.begun > since else None
        if outcome is None:
            return UNREADABLE
        if outcome.__class__ is not Raised:
            return self._copied(outcome, load.type)
        if flight.guard is not load.guard:
            return UNREADABLE
        if not isinstance(outcome.error, Exception):
            # It would end this caller as well, or look as if that had been cancelled.
            key, cause = self._key(name), qualified(type(outcome.error))
            return Raised(LoadError(f"{key}: {cause}", key=key, cause_class=cause))
        return _PRIVATE if isinstance(outcome.error, load.guard.pass_through) else outcome

    def _too_late(self, name: bytes, wait: float) -> Raised:
        return Raised(DeadlineError(f"{self._key(name)}: its load took longer than {wait:g} s"))

    async def _by_themselves(self, names: Sequence[bytes], load: _LocalLoad, wait: float) -> dict[bytes, Any]:
        """Load without a lease, whoever else does, as soon as there is room. Raises what the call raises."""
        outcomes: dict[bytes, Any] = {}
        await self._work.limited(lambda: self._run_here(load, _NO_FAILURES, names, outcomes), wait)
        return {name: _shown_of(outcome) for name, outcome in outcomes.items()}

    async def _run_here(
        self, load: _LocalLoad, failures: Mapping[bytes, LoadError], names: Iterable[bytes], outcomes: dict[bytes, Any]
    ) -> None:
        """Load those of these keys that may be tried, in one call; what came of each is put into `outcomes`."""
        guard = load.guard
        outcomes |= self._failures.refused(names, guard, failures)
        tried = tuple(name for name in names if name not in outcomes)
        if not tried:
            return
        keys = list(map(self._key, tried))
        self._failures.check(keys[0], guard)
        self._stats.local_loads += 1
        handled = Handled()
        ran = False
        try:
            loaded = await self._run(tried, lambda: load.run(list(keys)))
            ran = True
            rows = zip(tried, load.rows(keys, loaded), strict=True)
            forms = {name: self._form(name, row, load.type, guard) for name, row in rows}
        except Exception as error:
            self._failures.failed(tried, error, guard, handled, ran=ran)
            raise
        self._failures.succeeded(guard)
        outcomes |= forms

    def _copied(self, form: _Form, type: Any) -> Any:
        """Return what another caller's load gave as one's own, as a server would: callers may change what they get."""
        if form.shown is None:
            return None
        if form.shown.__class__ is Absent:
            return Absent(form.shown.name)
        return self._decode(form.data, form.flags, type)

    # For tasks alone.
    @overload
    async def get_or_load_many(
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Awaitable[Mapping[str, T]]],
        **options: Unpack[ManyOptions],
    ) -> dict[str, T | None]: ...
    @overload
    async def get_or_load_many(
        self, keys: Iterable[str], load_many: Callable[[list[str]], Mapping[str, T]], **options: Unpack[ManyOptions]
    ) -> dict[str, T | None]: ...
    # For both.
    async def get_or_load_many(  # noqa: PLR0913 - an option each
        self,
        keys: Iterable[str],
        load_many: ManyLoad,
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
    ) -> ManyLoaded:
        """Return values by key, None for rows that do not exist; `load_many` is given the keys nobody else loads.

        It takes a list of keys and returns a dict. All that this caller has to load is loaded in one call, also without
        a server, and only then are others' loads waited for, all of them for `wait` together: two callers would
        otherwise wait for each other. When some of them fail, the rest is finished first, and then LoadError names
        them.
        """
        if policy is None:
            policy = self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
        limit = self._core.wait if wait is None else seconds("wait", wait)
        keys = list(dict.fromkeys(keys))
        guard = guard or self._failures.guard_of(load_many)  # type: ignore[arg-type]  # it is not called
        batch = _Sorted()
        try:
            for server, part, names in self._spread(keys):
                await self._fetch_many(server, part, names, type, batch)
            await self._load_batch(batch, load_many, policy, type, guard)
        finally:
            batch.release()
        end = time.monotonic() + limit
        load = _LocalLoad(load_many, functools.partial(rows_of, guard.name), type, guard)
        if batch.away:
            self._tags(policy.tags)  # what is wrong with them is told now as well
            batch.add(await self._many_here(batch.away, load, limit, joins=True))
        if batch.later:
            batch.add(await self._waited_for(batch.later, load, policy, end))
        batch.raise_failures()
        return {key: batch.found[key] for key in keys}

    async def _waited_for(self, keys: list[str], load: _LocalLoad, policy: Policy, end: float) -> dict[str, Any]:
        """Return what others load, and Raised; what nobody has a lease of after that is loaded here in one call."""

        async def wait_for(key: str) -> Any:
            left = max(0.001, end - time.monotonic())
            want = _Want(self._one_of(load, key), policy, load.type, left, load.guard, defers=True)
            name = self._name(key)
            server = self._server(name)
            return await self._once_more(server, name, want, left)

        came = dict(zip(keys, await self._work.each(wait_for, keys), strict=True))
        deferred = {key: value.failure for key, value in came.items() if value.__class__ is _Deferred}
        if deferred:
            failures = {self._name(key): failure for key, failure in deferred.items() if failure is not None}
            left = max(0.0, end - time.monotonic())
            came |= await self._many_here(list(deferred), load, left, failures, joins=False)
        return {key: Raised(value.error) if value.__class__ is Failed else value for key, value in came.items()}

    async def _load_batch(
        self, batch: _Sorted, load_many: Callable[[list[str]], Any], policy: Policy, type: Any, guard: Guard
    ) -> None:
        """Load what is this caller's, and have what is stale refreshed meanwhile."""
        if batch.stale:

            async def refresh(leases: Sequence[Lease]) -> None:
                await self._load_many(leases, load_many, policy, type, guard)

            if self._work.refresh(batch.stale, refresh):
                for lease in batch.stale:
                    lease.is_handed_over = True
        if batch.mine:
            batch.found |= await self._load_many(batch.mine, load_many, policy, type, guard)

    async def _fetch_many(
        self, server: AsyncTransport, part: list[str], names: list[bytes], type: Any, batch: _Sorted
    ) -> None:
        if loading.get():
            self._check_chain(names)
        try:
            try:
                replies = await server.fetch_many(names, 0)
            except UnavailableError:
                replies = await server.fetch_many(names, 0)
        except _AWAY as error:
            self._without(error)
            batch.away.extend(part)
            return
        # No call comes between, which could be interrupted: from here on the batch answers for the leases.
        batch.replies += replies
        for key, reply in zip(part, replies, strict=True):
            if reply.__class__ is not list or reply[0] == b"waiting":
                batch.later.append(key)
                continue
            state, data, lease, _, _, flags = reply
            value = UNREADABLE if data is None else self._decode(data, flags, type)
            if state == b"absent" or value is not UNREADABLE:
                batch.found[key] = None if state == b"absent" else value
                self._stats.hits += 1
                if lease:
                    batch.stale.append(lease)
            elif lease:
                self._stats.misses += 1
                batch.mine.append(lease)
            else:
                batch.later.append(key)

    async def _many_here(
        self,
        keys: list[str],
        load: _LocalLoad,
        wait: float,
        failures: Mapping[bytes, LoadError] = _NO_FAILURES,
        *,
        joins: bool,
    ) -> dict[str, Any]:
        """Load without leases, in one call, what nobody loads in this process; nothing is stored."""
        names = list(map(self._name, keys))
        found = await self._alone(names, load, wait, failures, joins=joins)
        return {key: found[name] for key, name in zip(keys, names, strict=True)}

    def _one_of(self, load: _LocalLoad, key: str) -> Callable[[], Any]:
        async def run() -> Any:
            return load.rows([key], await self._work.settle(load.run([key])))[0]

        return run

    async def _load_many(
        self, leases: Sequence[Lease], load_many: Callable[[list[str]], Any], policy: Policy, type: Any, guard: Guard
    ) -> dict[str, Any]:
        """Load with leases in hand. Whoever gave them releases those that are not answered here."""
        begun = time.monotonic()
        handled = Handled()
        ran = False
        keys = [self._key(lease.name) for lease in leases]
        shown: dict[str, Any] = {}
        answers: list[tuple[Lease, Words]] = []
        try:
            self._failures.check(keys[0], guard)
            self._stats.loads += 1
            loaded = await self._run(tuple(lease.name for lease in leases), lambda: load_many(list(keys)))
            ran = True
            cost = time.monotonic() - begun
            for key, lease, value in zip(keys, leases, rows_of(guard.name, keys, loaded), strict=True):
                form = self._form(lease.name, value, type, guard)
                shown[key] = form.shown
                options = self._filling(lease.server, policy, form, cost)
                if self._is_too_long(lease.server, guard.name, key, form.data):
                    answers.append((lease, (b"CACHE.FAIL", _sent(self._kept_as(lease, form, _TOO_LARGE, policy)))))
                else:
                    answers.append((lease, (b"CACHE.FILL", form.data, *options)))
        except Exception as error:
            self._stats.load_errors += 1
            words = self._failures.failed([lease.name for lease in leases], error, guard, handled, ran=ran)
            await self._answer_all([(lease, (b"CACHE.FAIL", *words)) for lease in leases])
            if policy.stale_if_error and not ran and not isinstance(error, guard.pass_through):
                shown = await self._stale(leases, type)
            if len(shown) < len(leases):
                raise
            return shown
        except BaseException as error:
            await self._interrupted(leases, error)
            raise
        self._failures.succeeded(guard)
        await self._answer_all(answers)
        self._core.events("load", keys=len(leases), seconds=time.monotonic() - begun)
        return shown

    async def _stale(self, leases: Sequence[Lease], type: Any) -> dict[str, Any]:
        """Return the stale values that stand in for loads that failed, by key; each server is asked once."""
        found: dict[str, Any] = {}
        for server in {id(lease.server): lease.server for lease in leases}.values():
            names = [lease.name for lease in leases if lease.server is server]
            try:
                replies = await server.fetch_many(names, 0, 0)
            except CacheError:
                self._stats.errors += 1
                continue
            values = {name: self._standing_in(reply, type) for name, reply in zip(names, replies, strict=True)}
            found |= {self._key(name): value for name, value in values.items() if value is not UNREADABLE}
        return found

    def _standing_in(self, reply: Any, type: Any) -> Any:
        """Return the value in a reply after a load that failed; UNREADABLE if there is none."""
        if reply.__class__ is not list or reply[1] is None or reply[0] == b"absent":
            return UNREADABLE
        value = self._decode(reply[1], reply[5], type)
        self._stats.stale += value is not UNREADABLE
        return value

    async def _answer_all(self, answers: list[tuple[Lease, Words]]) -> None:
        """Answer for leases, each at its server; what a server does not store is failed there."""
        failures: list[tuple[Lease, Words]] = []
        answers = [(lease, words) for lease, words in answers if lease.is_open]
        for server in {id(lease.server): lease.server for lease, _ in answers}.values():
            part = [(lease, words) for lease, words in answers if lease.server is server]
            commands = [(words[0], *lease.words, *words[1:]) for lease, words in part]
            try:
                replies = await server.call_many(commands)
            except CacheError:
                self._stats.errors += 1
                continue
            for (lease, words), reply in zip(part, replies, strict=True):
                if not isinstance(reply, Exception):
                    self._stats.refused_fills += words[0] == b"CACHE.FILL" and not reply
                    lease.close()
                elif words[0] == b"CACHE.FILL":
                    self._stats.errors += 1
                    failures.append((lease, (b"CACHE.FAIL", _sent(f"it could not be stored: {reply}"[:200]))))
        if failures:
            await self._answer_all(failures)

    # The cache itself

    async def ping(self) -> bool:
        """Ask every server for a sign of life. Raises UnavailableError or DeadlineError."""
        for server in self._servers:
            await server.call(b"PING")
        return True

    async def command(self, *words: str | bytes | float) -> Any:
        """Send a command as it is, whatever the namespace, and return its reply. For a cache of one server."""
        if self._only is None:
            raise ConfigError("command: which of the servers?")
        name, *given = map(word_of, words)
        return await self._only.call(name.upper(), *given)

    async def server_info(self) -> list[dict[str, str]]:
        """Return what every server tells of itself (INFO)."""
        told = []
        for server in self._servers:
            lines = _text(await server.call(b"INFO")).splitlines()
            told.append(dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#")))
        return told

    def stats(self) -> dict[str, Any]:
        """Return what was counted since this cache was made: hits, misses, loads, errors, seconds away."""
        return self._core.counts()

    async def aclose(self) -> None:
        """Close the connections. A cache that is used again connects again."""
        for server in self._servers:
            await server.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        names = f", namespace={':'.join(self._names)!r}" if self._names else ""
        return f"{self.__class__.__name__}({self._core}{names})"

    # Small things

    def _check_chain(self, names: Iterable[bytes]) -> None:
        """Raise LoadError if one of these keys is asked for by its own load, which would wait for itself."""
        around = keys_in_loads()
        for name in names:
            if any(name in load for load in around):
                key = self._key(name)
                raise LoadError(f"{key}: its load asks for itself: {_path(chain(*around), name)}", key=key)

    def _name(self, key: str) -> bytes:
        if key.__class__ is not str or not key:
            raise KeyFormatError(f"a key is a str that is not empty, not {written(key)}")
        try:
            name = (self._prefix + key).encode()
        except UnicodeEncodeError:
            raise KeyFormatError(f"{written(key)}: a key is UTF-8") from None
        if len(name) > _LONGEST_KEY:
            raise KeyFormatError(f"{key[:40]!r}...: {len(name)} bytes; a key has at most {_LONGEST_KEY}")
        return name

    def _names_of(self, keys: Sequence[str]) -> tuple[list[bytes], int]:
        """Return keys as they are sent, and their bytes at most; made together, for each alone costs more."""
        prefix = self._prefix
        try:
            joined = (prefix + f"\0{prefix}".join(keys)).encode()
        except (TypeError, UnicodeEncodeError):
            joined = b""  # one of them is no key: which one is told below
        if all(keys) and 0 < len(joined) <= _LONGEST_KEY:
            names = joined.split(b"\0")
            # More, if a key has a zero itself.
            if len(names) == len(keys):
                return names, len(joined)
        names = [self._name(key) for key in keys]
        return names, sum(map(len, names))

    def _key(self, name: bytes) -> str:
        return name.decode()[len(self._prefix) :]

    def _tag(self, tag: str) -> bytes:
        if tag.__class__ is not str or not tag:
            raise KeyFormatError(f"a tag is a str that is not empty, not {written(tag)}")
        return tag_name(self._prefix + tag)

    def _tags(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        if not tags:
            return self._own_tags
        given = tuple(map(self._tag, tags))
        most = min(_MOST_GIVEN_TAGS, _MOST_TAGS - len(self._own_tags))
        if len(given) > most:
            raise ConfigError(f"tags: {len(given)}: at most {most} here, for each level of namespaces is one as well")
        return (*self._own_tags, *given)

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

    def _server(self, name: bytes) -> AsyncTransport:
        return self._only or self._servers[self._core.home_of(name)]

    def _spread(self, keys: list[str]) -> list[_Part]:
        """Return the servers of these keys, each with keys as they were given and as they are sent, in batches."""
        if not keys:
            return []
        names, size = self._names_of(keys)
        if self._only is not None:
            if len(names) <= MOST_KEYS and size <= MOST_BYTES:
                return [(self._only, keys, names)]
            return _in_batches(self._only, keys, names)
        parts: dict[int, _Part] = {}
        for key, name in zip(keys, names, strict=True):
            place = self._core.home_of(name)
            part = parts.setdefault(place, (self._servers[place], [], []))
            part[1].append(key)
            part[2].append(name)
        return [batch for part in parts.values() for batch in _in_batches(*part)]

    def _without(self, error: CacheError) -> None:
        """Go on without the server, or raise, as the cache was told."""
        self._stats.errors += 1
        if self._core.raises:
            raise error


def _one_local(want: _Want) -> _LocalLoad:
    return _LocalLoad(lambda _: want.load(), lambda _, value: (value,), want.type, want.guard)


def _shown_of(outcome: _Form | Raised) -> Any:
    return outcome if isinstance(outcome, Raised) else outcome.shown


def _given(outcomes: Mapping[bytes, Any], name: bytes) -> Any:
    """Return the value of a key, or raise what its load raised."""
    value = outcomes[name]
    try:
        if value.__class__ is Raised:
            value.again()
        return value
    finally:
        # A traceback holds this frame, which must not hold the exception.
        del outcomes, value


def _invalidation(server: AsyncTransport, names: tuple[bytes, ...], tags: tuple[bytes, ...]) -> _Write:
    words: Words = (b"CACHE.INVALIDATE",)
    if names:
        words += (b"KEYS", b"%d" % len(names), *names)
    if tags:
        words += (b"TAGS", b"%d" % len(tags), *tags)
    return server, words, names, tags


def _note_missed(write: _Write | _ManyWrites) -> None:
    """Have a write that was never sent made good before its server is read again; memory:// has nothing to lose."""
    server, _, keys, tags = write
    if server.home is not None:
        server.home.undelivered(keys, tags, sent=False)


def _whole(name: str, number: int) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{name}: {written(number)}: should be a whole number")
    return number


def _in_batches(server: AsyncTransport, keys: list[str], names: list[bytes]) -> list[_Part]:
    """Return keys in parts of which each may be asked for in one request."""
    parts: list[_Part] = []
    start = 0
    for part in key_batches(names):
        parts.append((server, keys[start : start + len(part)], list(part)))
        start += len(part)
    return parts


def _lease_of(reply: Any) -> Lease | None:
    """Return the lease that a reply brought."""
    return (reply[2] or None) if reply.__class__ is list else None


def _sent(cause: str) -> bytes:
    """Return why a load failed as it is sent; a reply that it quotes may be no UTF-8."""
    return cause.encode(errors="backslashreplace")


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple | set):
        return [_text(item) for item in value]
    return value


def _path(chain: Iterable[bytes], name: bytes) -> str:
    return " -> ".join(map(_text, (*chain, name)))
