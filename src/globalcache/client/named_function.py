"""What takes the place of a function: it has its name, and is pickled and copied as functions are."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from globalcache.client.annotations import LaterType
from globalcache.client.same import Comparable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from globalcache.client.cached_function import FunctionSpec
    from globalcache.client.decorators import Decorators
    from globalcache.client.loader import Loader
    from globalcache.client.same import Comparison, Made


def wrap(cached: NamedFunction, function: Callable[..., Any]) -> None:
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


class NamedFunction(Comparable):
    """A function that is pickled by its name and not copied, as any function; a bound one as its object is."""

    _cache: Decorators
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

    def _source(self) -> FunctionSpec | Loader:
        """Return what it was made of."""
        raise NotImplementedError

    def _is_same(self, other: NamedFunction, comparison: Comparison, made: Made) -> bool:
        one, its = self._source(), other._source()
        # An annotation that is not resolved yet is compared with the function.
        kinds = (None, None) if LaterType in map(type, (one.kind, its.kind)) else (one.kind, its.kind)
        return (
            has_same_keys(self._cache, other._cache)
            and one.template.template == its.template.template
            and comparison.same(
                (self._receiver, one.function, kinds[0], one.guard.parts, self._given()),
                (other._receiver, its.function, kinds[1], its.guard.parts, other._given()),
                made,
            )
        )


def has_same_keys(one: Decorators, other: Decorators) -> bool:
    """Tell whether two caches, or namespaces of them, have the same values under the same names."""
    return one.claims.has_store_of(other.claims) and one.key_prefix == other.key_prefix
