"""Functions whose results are cached: `@cache.cached`, `@cache.loader`, `@cache.batch_loader`.

A decorated function is called as before, and is awaited exactly if it was written with `async def`. It has besides:

    f.key(*args)          the key of a call             f.invalidate(*args)   forget it, on every node
    f.set(value, *args)   put a value in its place      f.refresh(*args)      forget it and load it anew
    f.uncached(*args)     the function as it was        f.loader              how a worker calls it, if it is a loader

A loader is a cached function that a worker may call too: then the server loads what any client misses. So its key
must give back its arguments. Knows caches by what `Door` asks of them.

Keys belong to the function that was decorated first (see claims.py).
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import sys
import types
import typing
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Union, overload

import msgspec
from msgspec.structs import force_setattr, replace

from globalcache.client.batches import check_apart, listed, rows_of, values_of
from globalcache.client.claims import Claim, Claims
from globalcache.client.guard import Classes, Guard, Maker
from globalcache.client.same import Comparable, is_same, same_values
from globalcache.errors import ConfigError, KeyFormatError, written
from globalcache.keys import KeyTemplate, hints, name_of, receiver_of
from globalcache.policy import Duration, Policy, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
    from typing import Self

    from globalcache.client.rows import Rows

_log = logging.getLogger("globalcache")

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S")

# What a worker does at a time, for how long, and how much of it at once, unless it is told otherwise.
TIMEOUT = 10.0
CONCURRENCY = 32
BATCH = 500
MAX_WAIT = 0.001
NO_GUARD = Guard("")


class Door(Protocol):
    """What a cached function asks of a cache; an AsyncCache gives awaitables."""

    def get_or_load(  # noqa: PLR0913 - an option each
        self,
        key: str,
        load: Callable[[], Any],
        *,
        policy: Policy | Callable[[], Policy],
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        """Return the value, loaded by one caller alone if there is none. `policy` may be made when it is needed."""

    def get_or_load_many(  # noqa: PLR0913 - an option each
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Any],
        *,
        policy: Policy,
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        """Return values by key; `load_many` is given the keys that this caller has to load."""

    def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> Any:
        """Forget keys and everything with these tags."""

    def set(self, key: str, value: Any, *, policy: Policy, type: Any = None) -> Any:
        """Write a value."""


class Loader(msgspec.Struct, frozen=True, eq=False):
    """How a worker loads the keys of a pattern.

    `function` takes the values of the key's fields in their order, or a list of them (`batch`): plain values if the key
    has one field, tuples otherwise. It returns the value, or a mapping from what it was given to values; None, or what
    is not in the mapping, is a row that does not exist.
    """

    name: str
    template: KeyTemplate
    function: Callable[..., Any]
    is_async: bool
    policy: Policy
    kind: Any = None  # what values are read as; a _Later until `type` is asked for
    guard: Guard = NO_GUARD
    tags: tuple[KeyTemplate, ...] = ()
    batch: int = 0
    max_wait: float = 0.0
    timeout: float = TIMEOUT
    concurrency: int = CONCURRENCY
    close: Callable[[], Any] | None = None  # gives back what it holds; awaited if `is_async`

    @property
    def type(self) -> Any:
        """What values are read as; None if nothing is known. Raises TypeError for an annotation that is not there."""
        return _resolve(self, self.kind) if isinstance(self.kind, _Later) else self.kind

    def tags_of(self, values: Sequence[Any]) -> list[str]:
        """Return the tags of what is loaded for the values of a key's fields."""
        if not self.tags:
            return []
        arguments = dict(zip(self.template.field_names, values, strict=True))
        return [tag.format(arguments) for tag in self.tags]


class _Spec(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What the decorator was told, ready for calls."""

    function: Callable[..., Any]
    template: KeyTemplate
    policy: Policy
    kind: Any  # what values are read as; a _Later until it was resolved
    guard: Guard
    tags: tuple[KeyTemplate, ...]
    wait: float | None
    is_async: bool
    unwatched: list[str]  # parameters that are in no key, and not yet known to be a database session

    @functools.cached_property
    def gives_none(self) -> bool:
        """Whether None is a value that the function returns: its annotation says so, or says nothing."""
        return _allows_none(hints(self.function).get("return"))

    def policy_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Policy:
        arguments = self.template.bind(args, kwargs)
        return replace(self.policy, tags=[tag.format(arguments) for tag in self.tags])

    def is_same(self, other: _Spec) -> bool:
        """Tell whether equal keys stand for equal results."""
        return (
            is_same(self.function, other.function)
            and self.template.template == other.template.template
            and same_values(self.kind, other.kind)
            and self.guard.is_same(other.guard)
        )

    @functools.cached_property
    def has_tags_with_fields(self) -> bool:
        return not all(tag.is_constant for tag in self.tags)

    @property
    def type(self) -> Any:
        return _resolve(self, self.kind) if isinstance(self.kind, _Later) else self.kind

    def check_ignored(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Log one warning if an argument that is in no key is a session or connection of the caller's."""
        arguments = self.template.bind(args, kwargs)
        for name in self.unwatched:
            kind = _session_class(arguments.get(name))
            if kind is not None:
                self.unwatched.clear()
                _log.warning(_SESSION, name_of(self.function), name, kind)
                return


class _Load(msgspec.Struct, eq=False):
    """One load, with an exception that says "no such row" as an Absent.

    Made for every call, so it does nothing before it is asked, and is made without Python code: most calls are hits.
    """

    spec: _Spec
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        args, kwargs = self._arguments()
        try:
            return self.spec.function(*args, **kwargs)
        except self.spec.guard.absent as error:
            return self.spec.guard.absence(error)

    async def run_async(self) -> Any:
        args, kwargs = self._arguments()
        try:
            return await self.spec.function(*args, **kwargs)
        except self.spec.guard.absent as error:
            return self.spec.guard.absence(error)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.spec.unwatched:
            self.spec.check_ignored(self.args, self.kwargs)
        return self.spec.template.as_written(self.args, self.kwargs)

    def policy(self) -> Policy:
        return self.spec.policy_of(self.args, self.kwargs)

    def result(self, key: str, value: Any) -> Any:
        """Return the value, or raise what the function raises for a row that does not exist.

        None is a value where the annotation says so; elsewhere it is a row that another client did not find.
        """
        if value is None and self.spec.guard.absent and not self.spec.gives_none:
            raise self.spec.guard.missing(key)
        return value


def _no_row() -> None:
    """Load a row that does not exist."""


async def _no_row_async() -> None:
    """Load a row that does not exist."""


def _wrap(cached: _Cached[Any, Any] | _Batch[Any, Any], function: Callable[..., Any]) -> None:
    """Take over name, documentation and attributes of a function, except those that a cached function has itself.

    The attributes of a function that was decorated before may be those of another cached function.
    """
    functools.update_wrapper(cached, function, updated=())  # type: ignore[arg-type]
    own = vars(cached)
    own |= {
        name: value
        for name, value in getattr(function, "__dict__", {}).items()
        if name not in own and not hasattr(type(cached), name)
    }


class _Named(Comparable):
    """A function that is pickled by its name and not copied, as any function; a bound one as its object is."""

    _receiver: tuple[Any, ...] = ()

    def __reduce__(self) -> str | tuple[Any, ...]:
        names: Any = self  # what it has taken over from its function
        return (getattr, (*self._receiver, names.__name__)) if self._receiver else str(names.__qualname__)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._bound(copy.deepcopy(self._receiver[0], memo)) if self._receiver else self

    def _bound(self, receiver: Any) -> Self:
        raise NotImplementedError


class _Cached(_Named, Generic[P, R]):
    """What sync and async cached functions share."""

    loader: Loader | None = None
    __wrapped__: Callable[P, Any]

    def __init__(self, cache: Functions, spec: _Spec) -> None:
        self._cache = cache
        self._spec = spec
        self._receiver = ()
        self._has_own_tags = spec.has_tags_with_fields
        self._take_type()
        _wrap(self, spec.function)

    def _take_type(self) -> None:
        spec = self._spec
        self._type = None if isinstance(spec.kind, _Later) else spec.kind
        self._key_of = self._first_key if isinstance(spec.kind, _Later) else spec.template.key

    def _first_key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of the first call, before which the type of values was not known."""
        self._type = self._spec.type
        self._key_of = self._spec.template.key
        return self._key_of(args, kwargs)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call."""
        return self._spec.template.key((*self._receiver, *args), kwargs)

    def _written(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, Policy]:
        """Return the key and the policy of what is set in place of a result."""
        args, spec = (*self._receiver, *args), self._spec
        return spec.template.key(args, kwargs), spec.policy_of(args, kwargs)

    def _bound(self, receiver: Any) -> Self:
        if receiver is None:
            return self
        bound = type(self).__new__(type(self))
        vars(bound).update(vars(self))
        bound._receiver = (receiver,)  # noqa: SLF001 - its own
        bound.__wrapped__ = types.MethodType(self._spec.function, receiver)
        if self._type is None:
            bound._take_type()  # noqa: SLF001
        return bound

    def _is_same(self, other: _Cached[Any, Any]) -> bool:
        return (
            same_values(self._receiver, other._receiver)
            and _has_same_keys(self._cache, other._cache)
            and (self._spec is other._spec or self._spec.is_same(other._spec))
        )

    def __repr__(self) -> str:
        return f"<cached {self._spec.function.__qualname__} {self._spec.template.template!r}>"


class CachedFunction(_Cached[P, R]):
    """A function whose results are cached."""

    @functools.cached_property
    def _load(self) -> Callable[..., Any]:
        return self._cache.sync_door.get_or_load

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or load it: one caller among all nodes does."""
        spec = self._spec
        given = self._receiver + args
        key = self._key_of(given, kwargs)
        load = _Load(spec, given, kwargs)
        policy = load.policy if self._has_own_tags else spec.policy
        value = self._load(key, load.run, policy=policy, type=self._type, wait=spec.wait, guard=spec.guard)
        result: R = value if value is not None else load.result(key, value)
        return result

    @property
    def uncached(self) -> Callable[P, R]:
        """The function itself."""
        return functools.partial(self._spec.function, *self._receiver) if self._receiver else self._spec.function

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of a call, on every node."""
        self._cache.sync_door.invalidate(self.key(*args, **kwargs))

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Forget the result of a call and load it anew."""
        self.invalidate(*args, **kwargs)
        return self(*args, **kwargs)

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Put a value in place of the result of a call. None, where it is a result, is a row that does not exist."""
        key, policy = self._written(args, kwargs)
        door, spec = self._cache.sync_door, self._spec
        if value is not None or not spec.gives_none:
            door.set(key, value, policy=policy, type=spec.type)
            return
        door.invalidate(key)
        door.get_or_load(key, _no_row, policy=policy, type=spec.type, wait=spec.wait)

    @overload
    def __get__(self, receiver: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], V], receiver: object, owner: type
    ) -> CachedFunction[Q, V]: ...
    def __get__(self, receiver: Any, owner: type) -> Any:
        """Bind it to an object, as a method."""
        return self._bound(receiver)


class AsyncCachedFunction(_Cached[P, R]):
    """An async function whose results are cached."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or load it: one caller among all nodes does."""
        spec = self._spec
        given = self._receiver + args
        key = self._key_of(given, kwargs)
        load = _Load(spec, given, kwargs)
        policy = load.policy if self._has_own_tags else spec.policy
        door = self._cache.async_door
        value = await door.get_or_load(
            key, load.run_async, policy=policy, type=self._type, wait=spec.wait, guard=spec.guard
        )
        result: R = value if value is not None else load.result(key, value)
        return result

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, R]]:
        """The function itself."""
        return functools.partial(self._spec.function, *self._receiver) if self._receiver else self._spec.function

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of a call, on every node."""
        await self._cache.async_door.invalidate(self.key(*args, **kwargs))

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Forget the result of a call and load it anew."""
        await self.invalidate(*args, **kwargs)
        return await self(*args, **kwargs)

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Put a value in place of the result of a call. None, where it is a result, is a row that does not exist."""
        key, policy = self._written(args, kwargs)
        door, spec = self._cache.async_door, self._spec
        if value is not None or not spec.gives_none:
            await door.set(key, value, policy=policy, type=spec.type)
            return
        await door.invalidate(key)
        await door.get_or_load(key, _no_row_async, policy=policy, type=spec.type, wait=spec.wait)

    @overload
    def __get__(self, receiver: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[Any, Q], V], receiver: object, owner: type
    ) -> AsyncCachedFunction[Q, V]: ...
    def __get__(self, receiver: Any, owner: type) -> Any:
        """Bind it to an object, as a method."""
        return self._bound(receiver)


class _Batch(_Named, Generic[K, V]):
    """What sync and async batch loaders share: they take a list of what stands in the keys, and give a dict."""

    def __init__(self, cache: Functions, loader: Loader, wait: float | None) -> None:
        self._cache = cache
        self._wait = wait
        self.loader = loader
        _wrap(self, loader.function)

    def _is_same(self, other: _Batch[Any, Any]) -> bool:
        mine, its = self.loader, other.loader
        return (
            _has_same_keys(self._cache, other._cache)
            and is_same(mine.function, its.function)
            and mine.template.template == its.template.template
            and same_values(mine.kind, its.kind)
            and mine.guard.is_same(its.guard)
        )

    def key(self, item: K) -> str:
        """Return the key of one item."""
        template = self.loader.template
        return template.format_values(values_of(self.loader.name, template.field_names, item))

    def _keys(self, items: Iterable[K]) -> dict[str, K]:
        """Return items by their keys. Raises TypeError for two that are equal and have keys of their own."""
        keys = {self.key(item): item for item in items}
        check_apart(self.loader.name, keys.values())
        return keys

    def _by_key(self, keys: Mapping[str, K], loaded: Mapping[K, V | None]) -> dict[str, V | None]:
        return dict(zip(keys, rows_of(self.loader.name, list(keys.values()), loaded), strict=True))

    def _by_item(self, keys: Mapping[str, K], values: Mapping[str, V | None]) -> dict[K, V]:
        return {item: value for key, item in keys.items() if (value := values.get(key)) is not None}

    def _policy(self) -> Policy:
        return self.loader.policy

    def __repr__(self) -> str:
        return f"<batch loader {self.loader.name} {self.loader.template.template!r}>"


class BatchLoader(_Batch[K, V]):
    """A function that loads many rows at once, cached row by row."""

    def __call__(self, items: Iterable[K]) -> dict[K, V]:
        """Return what there is of these items; those that nobody has are loaded together."""
        keys = self._keys(listed(self.loader.name, items))

        def load_many(missing: list[str]) -> dict[str, V | None]:
            wanted = {key: keys[key] for key in missing}
            return self._by_key(wanted, self.loader.function(list(wanted.values())))

        values = self._cache.sync_door.get_or_load_many(
            list(keys),
            load_many,
            policy=self._policy(),
            type=self.loader.type,
            wait=self._wait,
            guard=self.loader.guard,
        )
        return self._by_item(keys, values)

    @property
    def uncached(self) -> Callable[[list[K]], Mapping[K, V]]:
        """The function itself."""
        return self.loader.function

    def invalidate(self, *items: K) -> None:
        """Forget these items, on every node."""
        self._cache.sync_door.invalidate(*map(self.key, items))

    def refresh(self, *items: K) -> dict[K, V]:
        """Forget these items and load them anew."""
        self._cache.sync_door.invalidate(*self._keys(items))
        return self(items)

    def set(self, value: V | None, item: K) -> None:
        """Put a value in place of an item. None is a row that does not exist."""
        key, door, policy, kind = self.key(item), self._cache.sync_door, self._policy(), self.loader.type
        if value is not None:
            door.set(key, value, policy=policy, type=kind)
            return
        door.invalidate(key)
        door.get_or_load(key, _no_row, policy=policy, type=kind, wait=self._wait)


class AsyncBatchLoader(_Batch[K, V]):
    """An async function that loads many rows at once, cached row by row."""

    async def __call__(self, items: Iterable[K]) -> dict[K, V]:
        """Return what there is of these items; those that nobody has are loaded together."""
        keys = self._keys(listed(self.loader.name, items))

        async def load_many(missing: list[str]) -> dict[str, V | None]:
            wanted = {key: keys[key] for key in missing}
            return self._by_key(wanted, await self.loader.function(list(wanted.values())))

        values = await self._cache.async_door.get_or_load_many(
            list(keys),
            load_many,
            policy=self._policy(),
            type=self.loader.type,
            wait=self._wait,
            guard=self.loader.guard,
        )
        return self._by_item(keys, values)

    @property
    def uncached(self) -> Callable[[list[K]], Coroutine[Any, Any, Mapping[K, V]]]:
        """The function itself."""
        return self.loader.function

    async def invalidate(self, *items: K) -> None:
        """Forget these items, on every node."""
        await self._cache.async_door.invalidate(*map(self.key, items))

    async def refresh(self, *items: K) -> dict[K, V]:
        """Forget these items and load them anew."""
        await self._cache.async_door.invalidate(*self._keys(items))
        return await self(items)

    async def set(self, value: V | None, item: K) -> None:
        """Put a value in place of an item. None is a row that does not exist."""
        key, door, policy, kind = self.key(item), self._cache.async_door, self._policy(), self.loader.type
        if value is not None:
            await door.set(key, value, policy=policy, type=kind)
            return
        await door.invalidate(key)
        await door.get_or_load(key, _no_row_async, policy=policy, type=kind, wait=self._wait)


class _Decorator(Protocol):
    @overload  # a coroutine function is any function as well, but the first that fits is taken
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class _BatchDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[[list[K]], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncBatchLoader[K, V]: ...
    @overload
    def __call__(self, function: Callable[[list[K]], Mapping[K, V]], /) -> BatchLoader[K, V]: ...


class Functions:
    """The decorators of a cache; `Cache` and `AsyncCache` are made of it."""

    @functools.cached_property
    def loaders(self) -> dict[str, Loader]:
        """The loaders by the patterns of their keys."""
        return {}

    @property
    def sync_door(self) -> Door:
        """The cache that functions without `async` use."""
        raise NotImplementedError

    @property
    def async_door(self) -> Door:
        """The cache that async functions use."""
        raise NotImplementedError

    @property
    def default_ttl(self) -> Duration | None:
        """How long values live that are given no ttl: for ever, unless the cache says otherwise."""
        return None

    def _lives(self, ttl: Duration | None) -> Duration | None:
        return self.default_ttl if ttl is None else ttl

    def cached(  # noqa: PLR0913 - an option each
        self,
        template: str | None = None,
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Sequence[str] = (),
        ignore: Collection[str] = (),
        absent: Classes | Mapping[type[BaseException], Maker] = (),
        pass_through: Classes = (),
        type: Any = None,
        wait: Duration | None = None,
        shared: bool = False,
    ) -> _Decorator:
        """Cache the results of a function under keys such as "user:{id}".

        Without a template the key is the function's name and all arguments. `tags` may have fields as well. `type` is
        what values are read as, the return annotation unless given; `wait` is how long to wait for somebody else's
        load. `shared` lets the function use keys that another one has.

        An exception among `absent` says that there is no such row: that is remembered for negative_ttl, and its class
        is raised in every process, made from the key, or by the function that a dict has for it. An exception among
        `pass_through` concerns its caller alone: the key is not held off for it.

        Raises KeyFormatError at decoration if two different calls could have one key.
        """
        _check_template("cached", template)
        ignore = (ignore,) if isinstance(ignore, str) else ignore
        policy = Policy(self._lives(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            keys = KeyTemplate(template, function, ignore=ignore)
            names = sys._getframe(1).f_locals  # noqa: SLF001 - classes defined beside the function, which may be local
            guard = Guard(name_of(function), absent, pass_through)
            spec = _spec(function, keys, policy, guard=guard, kind=type, wait=wait, ignore=ignore, names=names)
            self._claim(keys, function, shared=shared)
            return (AsyncCachedFunction if spec.is_async else CachedFunction)(self, spec)

        return decorate

    def loader(  # noqa: PLR0913 - an option each
        self,
        template: str,
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Sequence[str] = (),
        absent: Classes | Mapping[type[BaseException], Maker] = (),
        pass_through: Classes = (),
        type: Any = None,
        wait: Duration | None = None,
        timeout: Duration = TIMEOUT,
        concurrency: int = CONCURRENCY,
        shared: bool = False,
    ) -> _Decorator:
        """Cache the results of a function as `cached` does, and let workers load them for any client.

        A worker gives a load up after `timeout` and runs at most `concurrency` of them at a time.
        """
        _check_template("loader", template)
        policy = Policy(self._lives(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            receiver = receiver_of(function)
            keys = KeyTemplate(template, function, ignore=(receiver,) if receiver else (), longest=None)
            names = sys._getframe(1).f_locals  # noqa: SLF001 - as above
            guard = Guard(name_of(function), absent, pass_through)
            spec = _spec(function, keys, policy, guard=guard, kind=type, wait=wait, names=names)
            cached: Any = (AsyncCachedFunction if spec.is_async else CachedFunction)(self, spec)
            loader = Loader(
                name_of(function),
                keys,
                _by_values(function, keys),
                spec.is_async,
                policy,
                kind=spec.kind,
                guard=guard,
                tags=spec.tags,
                timeout=seconds("timeout", timeout, least=0.001),
                concurrency=_at_least_one("concurrency", concurrency),
            )
            self._claim(keys, function, shared=shared)
            self.register(loader)
            cached.loader = loader
            return cached

        return decorate

    def batch_loader(  # noqa: PLR0913 - an option each
        self,
        template: str,
        *,
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Sequence[str] = (),
        pass_through: Classes = (),
        type: Any = None,
        wait: Duration | None = None,
        max_batch_size: int = BATCH,
        max_wait: Duration = MAX_WAIT,
        timeout: Duration = TIMEOUT,
        concurrency: int = 4,
        shared: bool = False,
    ) -> _BatchDecorator:
        """Cache what a function loads many at a time: it takes a list and returns a dict.

        The list has what stands in the keys: values if the template has one field, else tuples. A worker collects up
        to `max_batch_size` of them for at most `max_wait`. `tags` have no fields.
        """
        _check_template("batch_loader", template)
        policy = Policy(self._lives(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            names = sys._getframe(1).f_locals  # noqa: SLF001 - as above
            keys = KeyTemplate(template, _shape_of(template, function, hints(function, names)), longest=None)
            loader = Loader(
                name_of(function),
                keys,
                function,
                _is_async(function),
                policy,
                kind=type if type is not None else _returned(function, names, _of_mapping),
                guard=Guard(name_of(function), (), pass_through),
                tags=tuple(_tag(tag, lambda: None) for tag in policy.tags),
                batch=_at_least_one("max_batch_size", max_batch_size),
                max_wait=seconds("max_wait", max_wait),
                timeout=seconds("timeout", timeout, least=0.001),
                concurrency=_at_least_one("concurrency", concurrency),
            )
            self._claim(keys, function, shared=shared)
            self.register(loader)
            return (AsyncBatchLoader if loader.is_async else BatchLoader)(self, loader, _seconds(wait))

        return decorate

    def sql_loader(  # noqa: PLR0913 - an option each
        self,
        template: str,
        *,
        url: str,
        query: str,
        key: str | Sequence[str] | None = None,
        rows: Rows = "one",
        ttl: Duration | None = None,
        refresh_after: Duration | None = None,
        stale_if_error: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: str | Sequence[str] = (),
        type: Any = None,
        wait: Duration | None = None,
        max_batch_size: int = BATCH,
        max_wait: Duration = MAX_WAIT,
        timeout: Duration = TIMEOUT,
        concurrency: int = 4,
    ) -> Any:
        """Load rows of a database under keys such as "order:{id:int}"; returns the loader as a function of the fields.

        `query` has one placeholder for many keys, as in `where id in :ids`, and `key` names the column that tells them
        apart (the field's name unless given); or it has a placeholder for each field, and keys are asked for one by
        one. `rows="all"` makes a list of all rows of a key. The function is async exactly if the driver of the
        SQLAlchemy `url` is.
        """
        from globalcache.client.rows import Query  # noqa: PLC0415 - an extra

        policy = Policy(self._lives(ttl), refresh_after, stale_if_error, negative_ttl, tags)
        fields = KeyTemplate.names(template)
        columns = fields if key is None else [key] if isinstance(key, str) else list(key)
        concurrency = _at_least_one("concurrency", concurrency)
        asked = Query(url, query, fields, columns=columns, rows=rows, kind=type, connections=concurrency)

        def load(*values: Any) -> Any:
            item = values[0] if len(values) == 1 else values
            return asked.load([item]).get(item)

        async def load_async(*values: Any) -> Any:
            item = values[0] if len(values) == 1 else values
            return (await asked.load_async([item])).get(item)

        single: Any = load_async if asked.is_async else load
        name = _slug(template)
        single.__module__, single.__qualname__, single.__name__ = "sql", name, name
        single.__signature__ = inspect.Signature(
            [inspect.Parameter(field, inspect.Parameter.POSITIONAL_OR_KEYWORD) for field in fields]
        )
        single.__doc__ = query
        single.__annotations__ = {}
        keys = KeyTemplate(template, single, longest=None)
        kind = list[type] if type is not None and rows == "all" else type
        spec = _spec(single, keys, policy, guard=Guard(name), kind=kind, wait=wait)
        loader = Loader(
            name,
            keys,
            (asked.load_async if asked.is_async else asked.load) if asked.is_batch else single,
            asked.is_async,
            policy,
            kind=kind,
            guard=spec.guard,
            tags=spec.tags,
            batch=_at_least_one("max_batch_size", max_batch_size) if asked.is_batch else 0,
            max_wait=seconds("max_wait", max_wait),
            timeout=seconds("timeout", timeout, least=0.001),
            concurrency=concurrency,
            close=asked.close_async if asked.is_async else asked.close,
        )
        self._claim(keys, (name_of(single), url, query, tuple(columns), rows, kind), shared=False)
        self.register(loader)
        cached: Any = (AsyncCachedFunction if asked.is_async else CachedFunction)(self, spec)
        cached.loader = loader
        return cached

    @functools.cached_property
    def claims(self) -> Claims:
        """Which function has which keys."""
        return Claims()

    @property
    def key_prefix(self) -> str:
        """What stands before every key: the namespaces."""
        return ""

    def _claim(self, keys: KeyTemplate, function: Any, *, shared: bool) -> None:
        """Give keys to a function; raises KeyFormatError if another one has some of them and they are not shared."""
        self.claims.add(Claim(self.key_prefix, keys, function), shared=shared)

    def register(self, loader: Loader) -> None:
        """Let workers load by this; raises ConfigError if another function has the pattern."""
        known = self.loaders.get(loader.template.pattern)
        if known is not None and known.name != loader.name:
            raise ConfigError(f"{loader.name}: keys {loader.template.pattern} are loaded by {known.name} already")
        self.loaders[loader.template.pattern] = loader


def _check_template(decorator: str, template: object) -> None:
    if callable(template):
        raise TypeError(f"{decorator}: write @cache.{decorator}(...) with brackets")
    if not isinstance(template, str | None):
        raise TypeError(f"{decorator}: a template is a text such as 'user:{{id}}', not {written(template)}")


def _slug(template: str) -> str:
    """Return what a loader without a function is called: what its keys begin with."""
    return template.partition("{")[0].strip(":/-_.") or "sql"


def _seconds(wait: Duration | None) -> float | None:
    return None if wait is None else seconds("wait", wait)


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise ConfigError(f"{name}: {number!r}: should be at least 1")
    return number


def _spec(  # noqa: PLR0913 - what the decorators were told
    function: Callable[..., Any],
    keys: KeyTemplate,
    policy: Policy,
    *,
    guard: Guard,
    kind: Any,
    wait: Duration | None,
    ignore: Collection[str] = (),
    names: Mapping[str, Any] | None = None,
) -> _Spec:
    return _Spec(
        function,
        keys,
        policy,
        kind if kind is not None else _returned(function, names, _without_none),
        guard,
        tuple(_tag(tag, function) for tag in policy.tags),
        _seconds(wait),
        _is_async(function),
        list(ignore),
    )


def _is_async(function: Callable[..., Any]) -> bool:
    """Tell whether a function is awaited; an object, such as a function that is cached already, by its `__call__`."""
    called = inspect.getattr_static(type(function), "__call__", None)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _has_same_keys(one: Functions, other: Functions) -> bool:
    """Tell whether two caches, or namespaces of one, write their values under the same names."""
    return one.claims is other.claims and one.key_prefix == other.key_prefix


def _tag(text: str, function: Callable[..., Any]) -> KeyTemplate:
    return KeyTemplate(text, function, is_tag=True, longest=None)


class _Later(msgspec.Struct, frozen=True):
    """A return annotation that could not be resolved at decoration, and what is made of it then."""

    function: Callable[..., Any]
    taken: Callable[[Any], Any]

    def resolve(self) -> Any:
        known = hints(self.function)
        if "return" in known:
            return _known(self.taken(known["return"]))
        raise TypeError(
            f"{name_of(self.function)}: the return annotation {self.function.__annotations__['return']!r} cannot be "
            "resolved: import what it names at run time, or give type="
        )


def _resolve(owner: msgspec.Struct, later: _Later) -> Any:
    kind = later.resolve()
    force_setattr(owner, "kind", kind)
    return kind


def _returned(function: Callable[..., Any], names: Mapping[str, Any] | None, taken: Callable[[Any], Any]) -> Any:
    """Return the type that a function's values are read as; a _Later if that is not known yet."""
    known = hints(function, names)
    if "return" not in known and "return" in getattr(function, "__annotations__", {}):
        return _Later(function, taken)
    return _known(taken(known.get("return")))


def _of_mapping(kind: Any) -> Any:
    """Return the type of the values of a mapping."""
    inner = typing.get_args(_without_none(kind))
    return inner[1] if len(inner) == 2 else None


def _without_none(kind: Any) -> Any:
    """Return what is in the cache if anything is: absence is kept apart from values."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0] if len(members) == 1 else kind
    return kind


def _allows_none(annotation: Any) -> bool:
    """Tell whether a return annotation allows None; none that is known does."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(map(_allows_none, typing.get_args(annotation)))
    return annotation in (None, type(None), Any, object) or isinstance(annotation, TypeVar)


def _known(annotation: Any) -> Any:
    """Return the type that values are read as; None if the annotation tells nothing."""
    kind = _without_none(annotation)
    return None if kind in (Any, object, type(None)) or isinstance(kind, TypeVar) else _with_ints(kind)


def _with_ints(kind: Any) -> Any:
    """Let whole numbers be results where `float` is annotated, as type checkers do: 0 comes back as 0, not as 0.0.

    Within lists, dicts, tuples and unions too; fields of classes are what they say.
    """
    if kind is float:
        return int | float
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin not in (list, dict, tuple, Union, types.UnionType):
        return kind
    with_ints = tuple(inner[:1] if origin is dict else ()) + tuple(
        map(_with_ints, inner[1:] if origin is dict else inner)
    )
    if with_ints == inner:
        return kind
    return origin[with_ints] if origin in (list, dict, tuple) else Union[with_ints]  # noqa: UP007 - made of a tuple


_SESSION = (
    "%s: its argument %r is a %s of the caller and not in the key: a load reads what that session still holds or its "
    "transaction sees, and stores it for everybody; a refresh in the background uses it while the caller does, or "
    "after it was closed. Open a session inside the function instead"
)


def _session_class(value: object) -> str | None:
    """Return the class of a session or connection to a database, by what all of them have; None for anything else."""
    kind = type(value)
    has_transactions = hasattr(kind, "commit") and hasattr(kind, "rollback")
    is_of_asyncpg = hasattr(kind, "fetchrow") and hasattr(kind, "transaction")  # its pool has no transactions
    return kind.__name__ if has_transactions or is_of_asyncpg else None


def _by_values(function: Callable[..., Any], keys: KeyTemplate) -> Callable[..., Any]:
    """Return the function as a worker calls it: with the values of the key's fields in their order."""
    parameters = list(keys.signature.parameters.values())
    names = keys.field_names
    if sorted(names) != sorted(parameter.name for parameter in parameters):
        raise KeyFormatError(
            f"{name_of(function)}: a worker has nothing but the key, so {keys.template!r} has to name each parameter "
            "once"
        )
    if names == [p.name for p in parameters] and all(p.kind is not p.KEYWORD_ONLY for p in parameters):
        return function
    # With `async def` inside or not: what it returns is passed on.
    return lambda *values: function(**dict(zip(names, values, strict=True)))


def _shape_of(template: str, function: Callable[..., Any], hints: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function with the fields of a batch loader's keys as parameters, by which its template is read."""
    parameters = list(inspect.signature(function).parameters.values())
    if len([p for p in parameters if p.default is p.empty]) != 1 or not parameters:
        raise KeyFormatError(f"{name_of(function)}: a batch loader takes one list")
    items = typing.get_args(hints.get(parameters[0].name))
    inner = items[0] if items else None
    names = list(dict.fromkeys(KeyTemplate.names(template)))
    kinds = typing.get_args(inner) if len(names) > 1 else (inner,)
    kinds = kinds if len(kinds) == len(names) else (Any,) * len(names)

    def shape() -> None: ...

    shape.__module__, shape.__qualname__ = function.__module__, function.__qualname__
    known = [kind if kind is not None else Any for kind in kinds]
    shape.__annotations__ = dict(zip(names, known, strict=True))
    shape.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
            for name, kind in zip(names, known, strict=True)
        ]
    )
    return shape
