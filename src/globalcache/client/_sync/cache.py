"""The cache as its users see it: keys, options, values, and what happens when there is no server.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from globalcache.client._sync.batch_loading import BatchLoading
from globalcache.client._sync.loading import Loading, LoadSpec
from globalcache.client._sync.transport import NO_SERVER, read_again
from globalcache.client._sync.writer import Writer, send_one
from globalcache.client.cache_state import CacheState
from globalcache.client.decorators import Decorators
from globalcache.client.entry import Entry
from globalcache.client.flights import loading
from globalcache.client.fork import lazy
from globalcache.client.guard import Guard, value_or_absence
from globalcache.client.keyspace import Keyspace
from globalcache.client.unstored import too_long
from globalcache.client.values import UNREADABLE
from globalcache.client.wire import Fetched, as_text, translate, word_of
from globalcache.errors import AWAY, ConfigError, ValueTooLargeError, written
from globalcache.policy import Duration, Policy, millis, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from globalcache.client._async.cache import AsyncCache
    from globalcache.client._sync.writer import ManyWrites, Write
    from globalcache.client.claims import Claims
    from globalcache.client.leases import Lease
    from globalcache.client.loader import Loader
    from globalcache.client.options import CacheOptions
    from globalcache.client.wire import Words

T = TypeVar("T")
D = TypeVar("D")

# What a bulk read gives for text without flags, and for nothing.
_PLAIN = {bytes, None.__class__}
_class_of = type


class Cache(Decorators):
    """A cache shared by all nodes of an application.

    `url` is a server, a list of them, or nothing for $GLOBALCACHE_URL. Making one connects to nothing and needs no
    event loop. Options:

    timeout        of one call to the cache, connecting and retrying included, at most a day; 1 s
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
        self, url: str | Sequence[str] | None = None, *, namespace: str | None = None, **options: Unpack[CacheOptions]
    ) -> None:
        state = CacheState(url, **options)
        names = [name for name in (state.servers.addresses[0].namespace, namespace) if name]
        self._set_up(state, names)

    def _set_up(self, state: CacheState, names: Sequence[str]) -> None:
        self._state = state
        self._names = tuple(names)
        self._servers = state.servers.transports
        keyspace = self._keyspace = Keyspace(names, self._servers, state.servers.place_of)
        self._only = keyspace.only
        self._writer = Writer(state, keyspace)
        self._loading = Loading(state, keyspace, self._writer)
        self._batch_loading = BatchLoading(state, keyspace, self._loading)
        # What every call needs, without a look-up.
        self._name, self._server_of, self._by_server = keyspace.name, keyspace.server_of, keyspace.by_server
        self._decode = state.values.decode
        self._stats = state.stats
        self._failures = state.failures
        self._other: AsyncCache | None = None

    @classmethod
    def _of(cls, state: CacheState, names: Sequence[str]) -> Self:
        cache = cls.__new__(cls)
        cache._set_up(state, names)  # noqa: SLF001 - its own
        return cache

    @lazy
    def loaders(self) -> dict[str, Loader]:
        """The loaders by the patterns of their keys; `serve` and `worker` run those of all namespaces of a cache."""
        return self._state.loaders.setdefault(self._names, {})

    @property
    def claims(self) -> Claims:
        """Which function has which keys, in all namespaces of a cache."""
        return self._state.claims

    @property
    def key_prefix(self) -> str:
        """What stands before every key."""
        return self._keyspace.prefix

    @property
    def aio(self) -> AsyncCache:
        """The same cache for async functions."""
        if self._other is None:
            from globalcache.client._async.cache import AsyncCache  # noqa: PLC0415 - the two know each other

            self._other = AsyncCache._of(self._state, self._names)  # noqa: SLF001 - the same, seen otherwise
            self._other._other = self  # noqa: SLF001
        return self._other

    @property
    def sync(self) -> Self:
        """The same cache for plain functions: this one."""
        return self

    @property
    def default_ttl(self) -> Duration | None:
        """How long values live that are given no ttl."""
        return self._state.default_ttl

    def namespace(self, name: str) -> Self:
        """Return a cache whose keys and tags are all under `name`; its `clear()` is one step however much is there."""
        if not name:
            raise ConfigError("namespace: should not be empty")
        return self._of(self._state, (*self._names, name))

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
        server = self._only or self._server_of(name)
        try:
            reply = server.get(name)
        except AWAY as error:
            reply = read_again(self._state, error, server.get, name)
            if reply is NO_SERVER:
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
    def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]: ...
    def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        """Return what there is of these keys, by key."""
        found: dict[str, Any] = {}
        for server, part, names in self._by_server(keys if keys.__class__ is list else list(keys)):
            try:
                replies = server.get_many(names)
            except AWAY as error:
                replies = read_again(self._state, error, server.get_many, names)
                if replies is NO_SERVER:
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
                values = self._state.values.decode_many(texts, type)
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
    def get_entry(self, key: str, *, type: type[T]) -> Entry[T] | None: ...
    @overload
    def get_entry(self, key: str, *, type: Any = None) -> Entry[Any] | None: ...
    def get_entry(self, key: str, *, type: Any = None) -> Entry[Any] | None:
        """Return value, version, age, ttl and staleness; None if there is nothing."""
        name = self._name(key)
        try:
            reply = self._server_of(name).call(b"CACHE.ENTRY", name)
        except AWAY as error:
            self._state.on_unavailable(error)
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
        return bool(self._server_of(name).call(b"EXISTS", name))

    def inspect(self, key: str) -> dict[str, Any]:
        """Return all that the server knows of a key: state, age, freshness, size, tags, lease, waiters."""
        name = self._name(key)
        known = self._server_of(name).call(b"CACHE.INSPECT", name)
        items = known.items() if isinstance(known, dict) else zip(known[::2], known[1::2], strict=True)
        return {as_text(word): as_text(value) for word, value in items}

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
            words = (b"IFVERSION", b"%d" % _integer("if_version", if_version))
        return bool(self._set(key, value, policy, type, words))

    def add(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: str | Iterable[str] = (), type: Any = None
    ) -> bool:
        """Write a value only if there is none; tells whether it was written. Raises UnavailableError."""
        return bool(self._set(key, value, self._policy(ttl, None, None, None, tags), type, (b"NX",)))

    def _set(self, key: str, value: Any, policy: Policy, type: Any, condition: tuple[bytes, ...]) -> int:
        name = self._name(key)
        server = self._only or self._server_of(name)
        data, flags = self._encode(key, value, type)
        most = server.max_value
        if most is not None and len(data) > most:
            raise ValueTooLargeError(too_long(key, len(data), most))
        words = policy.words(flags=flags, tags=self._keyspace.tag_names(policy.tags))
        self._state.forget_loads((name,))
        try:
            written = server.call(b"CACHE.SET", name, data, *words, *condition, keys=(name,))
        except AWAY as error:
            if condition:
                raise
            self._state.on_unavailable(error)
            return 0
        return int(written)

    def _encode(self, key: str, value: Any, type: Any) -> tuple[bytes, int]:
        try:
            return self._state.values.encode(value, type, by_class=True)
        except TypeError as error:
            raise TypeError(f"{key}: {error}") from None

    def set_many(
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
        shared = self._keyspace.tag_names(policy.tags)
        encoded = {key: self._encode(key, value, type) for key, value in values.items()}
        self._state.forget_loads([self._name(key) for key in values])
        writes: list[ManyWrites] = []
        for server, part, names in self._by_server(list(values)):
            commands: list[Words] = []
            for key, name in zip(part, names, strict=True):
                data, flags = encoded[key]
                if not self._state.is_too_long(server.max_value, "set_many", key, data):
                    commands.append((b"CACHE.SET", name, data, *policy.words(flags=flags, tags=shared)))
            writes.append((server, commands, tuple(names), ()))
        return self._writer.write_many(writes)

    def incr(self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()) -> int:
        """Add to a whole number, which counts from 0; ttl and tags hold when it is made.

        Raises UnavailableError, and TypeError for a fraction.
        """
        name, number = self._name(key), _integer("delta", delta)
        words: list[bytes] = []
        if ttl is not None:
            words += b"TTL", b"%d" % millis(seconds("ttl", ttl, least=0.001))
        own = self._keyspace.tag_names((tags,) if isinstance(tags, str) else tuple(tags))
        if own:
            words += b"TAGS", b"%d" % len(own), *own
        self._state.forget_loads((name,))
        return int(self._server_of(name).call(b"CACHE.INCR", name, b"%d" % number, *words, keys=(name,)))

    def decr(self, key: str, delta: int = 1, *, ttl: Duration | None = None, tags: str | Iterable[str] = ()) -> int:
        """Take from a number, as incr adds to it."""
        return self.incr(key, -delta, ttl=ttl, tags=tags)

    def touch(self, key: str, ttl: Duration | None = None) -> bool:
        """Give a value another time to live; None: it stays. Tells whether there is one."""
        name = self._name(key)
        server = self._server_of(name)
        try:
            if ttl is None:
                # PERSIST says no of what has no time to live, and of what is not there. Not sent together: EXISTS may
                # wait for a load.
                return bool(server.call(b"PERSIST", name) or server.call(b"EXISTS", name))
            return bool(server.call(b"PEXPIRE", name, b"%d" % millis(seconds("ttl", ttl, least=0.001))))
        except AWAY as error:
            self._state.on_unavailable(error)
            return False

    def delete(self, key: str) -> bool:
        """Remove a value; tells whether there was one."""
        return bool(self.delete_many((key,)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several values; returns how many there were."""
        parts = self._by_server(list(dict.fromkeys(keys)))
        for _, _, names in parts:
            self._state.forget_loads(names)
        writes: list[Write] = [(server, (b"DEL", *names), tuple(names), ()) for server, _, names in parts]
        return sum(self._writer.deliver(send_one, writes))

    def invalidate(self, *keys: str, tags: str | Iterable[str] = ()) -> int:
        """Forget keys, and everything that has one of these tags, on every node; loads on their way are not stored.

        Returns how many keys and tags that were. Without a server it is made good before the server is read again.
        """
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"invalidate takes keys one by one, invalidate(*keys), not a {key.__class__.__name__}")
        given = [self._keyspace.tag_name(tag) for tag in ((tags,) if isinstance(tags, str) else tags)]
        return self._writer.invalidate(list(dict.fromkeys(keys)), given)

    def clear(self) -> int:
        """Forget everything in this namespace, in one step."""
        if not self._keyspace.own_tags:
            raise ConfigError("clear: only a namespace can be cleared")
        return self._writer.invalidate([], [self._keyspace.own_tags[-1]])

    # Loading

    def get_or_load(  # noqa: PLR0913 - an option each
        self,
        key: str,
        load: Callable[[], T],
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
    ) -> T:
        """Return the value; if there is none, one caller among all nodes loads it and the others wait for that.

        `load` returns a value, or None for a row that does not exist. With `refresh_after` a stale value is returned at
        once and refreshed in the background, and now and then so is one whose end is near: `load` runs after the call
        then. The variables that it reads itself are those of the call; functions and objects that it uses must not read
        any that change meanwhile, such as that of a loop. Without `refresh_after` one caller loads such a value within
        its call, and has the value that there is if that fails. A value that was loaded before an invalidation is
        returned to its caller and never stored. `policy` stands for the options from ttl to tags, and may be a function
        that is asked for it when something is loaded; `guard` has the options of a decorator about exceptions.

        Raises whatever `load` raises, in every caller of this process that waited for it, DeadlineError after `wait`,
        and TypeError for a value that would not come back the same. After a failure in another process `load` runs
        here, at most once in 100 ms for a key and 20 times a second for a function, and its value is not stored; beyond
        that LoadError is raised.
        """
        name = self._name(key)
        server = self._only or self._server_of(name)
        if loading.get():
            self._loading.check_recursion((name,))
        limit = self._state.wait if wait is None else seconds("wait", wait)
        try:
            reply = server.fetch(name, limit)
        except AWAY as error:
            # What the load raises is raised outside of this block, as it would be without a cache.
            reply = read_again(self._state, error, server.fetch, name, limit)
        if reply.__class__ is list and reply[0] == b"hit":
            _, data, _, _, _, flags = reply
            found: T = data if type is bytes and not flags else self._decode(data, flags, type)
            if found is not UNREADABLE:
                self._stats.hits += 1
                return found
        # No call comes between, which could be interrupted: from here on this call answers for the lease.
        lease: Lease | None = reply.lease if reply.__class__ is Fetched else None
        if lease is not None:
            lease.taken = True
        try:
            kept = self._resolve_policy(policy) or self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
            spec = LoadSpec(load, kept, type, limit, guard or self._failures.guard_of(load))
            value = self._loading.resolve(server, name, reply, spec)
        finally:
            # Whatever ended the call: what was neither answered nor handed over goes to the next who asks.
            if lease is not None and not lease.is_handed_over:
                lease.release()
        loaded: T = value_or_absence(key, value, guard)
        return loaded

    def get_or_load_many(  # noqa: PLR0913 - an option each
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Mapping[str, T]],
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
    ) -> dict[str, T | None]:
        """Return values by key, None for rows that do not exist; `load_many` is given the keys nobody else loads.

        It takes a list of keys and returns a dict. All that this caller has to load is loaded in one call, also without
        a server, and only then are others' loads waited for, all of them for `wait` together: two callers would
        otherwise wait for each other. A server lets a connection load 16,384 keys at a time, and fewer if its memory is
        small: the next ones are loaded by the next call. When some of them fail, the rest is finished first, and then
        LoadError names them.
        """
        if policy is None:
            policy = self._policy(ttl, refresh_after, stale_if_error, negative_ttl, tags)
        limit = self._state.wait if wait is None else seconds("wait", wait)
        keys = list(dict.fromkeys(keys))
        guard = guard or self._failures.guard_of(load_many)  # type: ignore[arg-type]  # it is not called
        return self._batch_loading.load(keys, load_many, policy, type, limit, guard)

    # The cache itself

    def ping(self) -> bool:
        """Ask every server for a sign of life. Raises UnavailableError or DeadlineError."""
        for server in self._servers:
            server.call(b"PING")
        return True

    def command(self, *words: str | bytes | float) -> Any:
        """Send a command as it is, whatever the namespace, and return its reply. For a cache of one server."""
        if self._only is None:
            raise ConfigError("command: which of the servers?")
        name, *given = map(word_of, words)
        return self._only.call(name.upper(), *given)

    def server_info(self) -> list[dict[str, str]]:
        """Return what every server tells of itself (INFO)."""
        told = []
        for server in self._servers:
            lines = as_text(server.call(b"INFO")).splitlines()
            told.append(dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#")))
        return told

    def stats(self) -> dict[str, Any]:
        """Return what was counted since this cache was made: hits, misses, loads, errors, seconds away."""
        return self._state.counts()

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
        return f"{self.__class__.__name__}({self._state}{names})"

    def _policy(
        self,
        ttl: Duration | None,
        refresh_after: Duration | None,
        stale_if_error: Duration | None,
        negative_ttl: Duration | None,
        tags: str | Iterable[str],
    ) -> Policy:
        own = (tags,) if isinstance(tags, str) else tuple(tags)
        return Policy(self._ttl_or_default(ttl), refresh_after, stale_if_error, negative_ttl, own)

    @staticmethod
    def _resolve_policy(policy: Policy | Callable[[], Policy] | None) -> Policy | None:
        return policy() if callable(policy) else policy


def _integer(name: str, number: int) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{name}: {written(number)}: should be a whole number")
    return number
