"""Functions whose results are cached, as they are called.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

import msgspec

from globalcache.client.cached_function import BaseCachedFunction, FunctionSpec
from globalcache.client.fork import lazy

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from globalcache.policy import Policy

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
V = TypeVar("V")


class FunctionLoad(msgspec.Struct, eq=False):
    """One load, with an exception that says "no such row" as an Absent.

    Made for every call, so it does nothing before it is asked, and is made without Python code: most calls are hits.
    """

    spec: FunctionSpec
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        args, kwargs = self._arguments()
        try:
            return self.spec.function(*args, **kwargs)
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


def no_row() -> None:
    """Load a row that does not exist."""


class CachedFunction(BaseCachedFunction[P, R]):
    """A function whose results are cached."""

    @lazy
    def _get_or_load(self) -> Callable[..., Any]:
        return self._cache.sync.get_or_load

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or load it: one caller among all nodes does."""
        spec = self._spec
        given = self._receiver + args
        key = self._key_of(given, kwargs)
        load = FunctionLoad(spec, given, kwargs)
        policy = load.policy if self._has_own_tags else spec.policy
        value = self._get_or_load(key, load.run, policy=policy, type=self._type, wait=spec.wait, guard=spec.guard)
        result: R = value if value is not None else load.result(key, value)
        return result

    @property
    def uncached(self) -> Callable[P, R]:
        """The function itself."""
        return functools.partial(self._spec.function, *self._receiver) if self._receiver else self._spec.function

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of a call, on every node."""
        self._cache.sync.invalidate(self.key(*args, **kwargs))

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Forget the result of a call and load it anew."""
        self.invalidate(*args, **kwargs)
        return self(*args, **kwargs)

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Put a value in place of the result of a call. None, where it is a result, is a row that does not exist."""
        key, policy = self._written(args, kwargs)
        cache, spec = self._cache.sync, self._spec
        if value is not None or not spec.gives_none:
            cache.set(key, value, policy=policy, type=spec.type)
            return
        cache.invalidate(key)
        cache.get_or_load(key, no_row, policy=policy, type=spec.type, wait=spec.wait)

    @overload
    def __get__(self, receiver: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], V], receiver: object, owner: type
    ) -> CachedFunction[Q, V]: ...
    def __get__(self, receiver: Any, owner: type) -> Any:
        """Bind it to an object, as a method."""
        return self._bound(receiver)
