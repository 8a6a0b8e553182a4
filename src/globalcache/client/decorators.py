"""Functions whose results are cached: `@cache.cached`, `@cache.loader`, `@cache.batch_loader`.

A decorated function is called as before, and is awaited exactly if it was written with `async def`. It has besides:

    f.key(*args)          the key of a call             f.invalidate(*args)   forget it, on every node
    f.set(value, *args)   put a value in its place      f.refresh(*args)      forget it and load it anew
    f.uncached(*args)     the function as it was        f.loader              how a worker calls it, if it is a loader

A loader is a cached function that a worker may call too: then the server loads what any client misses. So its key
must give back its arguments. Knows caches by what `CacheMethods` asks of them.

Keys belong to the function that was decorated first (see claims.py).
"""

from __future__ import annotations

import inspect
import sys
import typing
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from globalcache.client._async.batch_loader import AsyncBatchLoader
from globalcache.client._async.cached_function import AsyncCachedFunction
from globalcache.client._sync.batch_loader import BatchLoader
from globalcache.client._sync.cached_function import CachedFunction
from globalcache.client.annotations import returned_type, type_of_rows, without_none
from globalcache.client.cached_function import FunctionSpec
from globalcache.client.claims import Claim, Claims
from globalcache.client.fork import lazy
from globalcache.client.guard import Classes, Guard, Maker
from globalcache.client.loader import BATCH, CONCURRENCY, MAX_WAIT, TIMEOUT, Loader
from globalcache.client.named_function import has_same_keys
from globalcache.client.same import Comparable
from globalcache.errors import ConfigError, KeyFormatError, written
from globalcache.keys import KeyTemplate, hints, name_of, receiver_of
from globalcache.policy import Duration, Policy, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence

    from globalcache.client.rows import Rows
    from globalcache.client.same import Comparison, Made

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class CacheMethods(Protocol):
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


class Decorators(Comparable):
    """The decorators of a cache; `Cache` and `AsyncCache` are made of it."""

    @lazy
    def loaders(self) -> dict[str, Loader]:
        """The loaders by the patterns of their keys."""
        return {}

    @property
    def sync(self) -> CacheMethods:
        """The cache that functions without `async` use."""
        raise NotImplementedError

    @property
    def aio(self) -> CacheMethods:
        """The cache that async functions use."""
        raise NotImplementedError

    @property
    def default_ttl(self) -> Duration | None:
        """How long values live that are given no ttl: for ever, unless the cache says otherwise."""
        return None

    def _ttl_or_default(self, ttl: Duration | None) -> Duration | None:
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
        policy = Policy(self._ttl_or_default(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            keys = KeyTemplate(template, function, ignore=ignore)
            names = sys._getframe(1).f_locals  # noqa: SLF001 - classes defined beside the function, which may be local
            guard = Guard(name_of(function), absent, pass_through)
            spec = _spec(function, keys, policy, guard=guard, kind=type, wait=wait, ignore=ignore, names=names)
            claim = self._claim(keys, function, guard, shared=shared)
            return (AsyncCachedFunction if spec.is_async else CachedFunction)(self, spec, claim)

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
        policy = Policy(self._ttl_or_default(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            receiver = receiver_of(function)
            keys = KeyTemplate(template, function, ignore=(receiver,) if receiver else (), longest=None)
            names = sys._getframe(1).f_locals  # noqa: SLF001 - as above
            guard = Guard(name_of(function), absent, pass_through)
            spec = _spec(function, keys, policy, guard=guard, kind=type, wait=wait, names=names)
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
            claim = self._claim(keys, function, guard, shared=shared)
            self.register(loader)
            cached: Any = (AsyncCachedFunction if spec.is_async else CachedFunction)(self, spec, claim)
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
        policy = Policy(self._ttl_or_default(ttl), refresh_after, stale_if_error, negative_ttl, tags)

        def decorate(function: Callable[..., Any]) -> Any:
            names = sys._getframe(1).f_locals  # noqa: SLF001 - as above
            keys = KeyTemplate(template, _shape_of(template, function, hints(function, names)), longest=None)
            guard = Guard(name_of(function), (), pass_through)
            loader = Loader(
                name_of(function),
                keys,
                function,
                _is_async(function),
                policy,
                kind=type if type is not None else returned_type(function, names, type_of_rows),
                guard=guard,
                tags=tuple(_tag(tag, lambda: None) for tag in policy.tags),
                batch=_at_least_one("max_batch_size", max_batch_size),
                max_wait=seconds("max_wait", max_wait),
                timeout=seconds("timeout", timeout, least=0.001),
                concurrency=_at_least_one("concurrency", concurrency),
            )
            claim = self._claim(keys, function, guard, shared=shared)
            self.register(loader)
            return (AsyncBatchLoader if loader.is_async else BatchLoader)(self, loader, claim, _seconds(wait))

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
        from globalcache.client.sql import sql_function  # noqa: PLC0415 - an extra

        policy = Policy(self._ttl_or_default(ttl), refresh_after, stale_if_error, negative_ttl, tags)
        concurrency = _at_least_one("concurrency", concurrency)
        sql = sql_function(template, url=url, query=query, key=key, rows=rows, kind=type, connections=concurrency)
        kind = list[type] if type is not None and rows == "all" else type
        spec = _spec(sql.single, sql.keys, policy, guard=Guard(name_of(sql.single)), kind=kind, wait=wait)
        loader = Loader(
            sql.name,
            sql.keys,
            sql.many or sql.single,
            sql.query.is_async,
            policy,
            kind=kind,
            guard=spec.guard,
            tags=spec.tags,
            batch=_at_least_one("max_batch_size", max_batch_size) if sql.many else 0,
            max_wait=seconds("max_wait", max_wait),
            timeout=seconds("timeout", timeout, least=0.001),
            concurrency=concurrency,
            close=sql.close,
        )
        claim = self._claim(
            sql.keys, (name_of(sql.single), url, query, sql.columns, rows, kind), spec.guard, shared=False
        )
        self.register(loader)
        cached: Any = (AsyncCachedFunction if sql.query.is_async else CachedFunction)(self, spec, claim)
        cached.loader = loader
        return cached

    @lazy
    def claims(self) -> Claims:
        """Which function has which keys."""
        return Claims()

    @property
    def key_prefix(self) -> str:
        """What stands before every key: the namespaces."""
        return ""

    def _claim(self, keys: KeyTemplate, function: Any, guard: Guard, *, shared: bool) -> Claim:
        """Give keys to a function; raises KeyFormatError if another one has some of them and they are not shared."""
        claim = Claim(self.key_prefix, keys, function, guard.parts, is_shared=shared)
        self.claims.add(claim)
        return claim

    def _is_same(self, other: Decorators, comparison: Comparison, made: Made) -> bool:
        is_known = type(self).__module__.startswith("globalcache.")  # a class of the application may do more
        return is_known and has_same_keys(self, other) and comparison.same(self._given(), other._given(), made)

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
) -> FunctionSpec:
    return FunctionSpec(
        function,
        keys,
        policy,
        kind if kind is not None else returned_type(function, names, without_none),
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


def _tag(text: str, function: Callable[..., Any]) -> KeyTemplate:
    return KeyTemplate(text, function, is_tag=True, longest=None)


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
