"""What the two kinds of cached functions share, the plain and the async: their keys, types and bound methods.

_async/cached_function.py has how they are called.
"""

from __future__ import annotations

import logging
import types
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import msgspec
from msgspec.structs import replace

from globalcache.client.annotations import LaterType, allows_none, resolve
from globalcache.client.fork import lazy
from globalcache.client.named_function import NamedFunction, wrap
from globalcache.keys import hints, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from globalcache.client.claims import Claim
    from globalcache.client.decorators import Decorators
    from globalcache.client.guard import Guard
    from globalcache.client.loader import Loader
    from globalcache.keys import KeyTemplate
    from globalcache.policy import Policy

_log = logging.getLogger("globalcache")

P = ParamSpec("P")
R = TypeVar("R")

_SESSION = (
    "%s: its argument %r is a %s of the caller and not in the key: a load reads what that session still holds or its "
    "transaction sees, and stores it for everybody; a refresh in the background uses it while the caller does, or "
    "after it was closed. Open a session inside the function instead"
)


class FunctionSpec(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What the decorator was told, ready for calls."""

    function: Callable[..., Any]
    template: KeyTemplate
    policy: Policy
    kind: Any  # what values are read as; a LaterType until it was resolved
    guard: Guard
    tags: tuple[KeyTemplate, ...]
    wait: float | None
    is_async: bool
    unwatched: list[str]  # parameters that are in no key, and not yet known to be a database session

    @lazy
    def gives_none(self) -> bool:
        """Whether None is a value that the function returns: its annotation says so, or says nothing."""
        return allows_none(hints(self.function).get("return"))

    def policy_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Policy:
        """Return the policy of a call, with its tags."""
        arguments = self.template.bind(args, kwargs)
        return replace(self.policy, tags=[tag.format(arguments) for tag in self.tags])

    @lazy
    def has_tags_with_fields(self) -> bool:
        """Whether the tags depend on the arguments."""
        return not all(tag.is_constant for tag in self.tags)

    @property
    def type(self) -> Any:
        """What values are read as; None if nothing is known. Raises TypeError for an annotation that is not there."""
        return resolve(self, self.kind) if isinstance(self.kind, LaterType) else self.kind

    def check_ignored(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Log one warning if an argument that is in no key is a session or connection of the caller's."""
        arguments = self.template.bind(args, kwargs)
        for name in self.unwatched:
            kind = _session_class(arguments.get(name))
            if kind is not None:
                self.unwatched.clear()
                _log.warning(_SESSION, name_of(self.function), name, kind)
                return


class BaseCachedFunction(NamedFunction, Generic[P, R]):
    """What sync and async cached functions share."""

    loader: Loader | None = None
    __wrapped__: Callable[P, Any]

    def __init__(self, cache: Decorators, spec: FunctionSpec, claim: Claim) -> None:
        self._cache = cache
        self._spec = spec
        self._claim = claim
        self._receiver = ()
        self._has_own_tags = spec.has_tags_with_fields
        self._take_type()
        wrap(self, spec.function)

    def _take_type(self) -> None:
        spec = self._spec
        is_later = isinstance(spec.kind, LaterType)
        self._type = None if is_later else spec.kind
        self._key_of = spec.template.key if self._claim.is_settled and not is_later else self._first_key

    def _first_key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of the first call, before which not all was known: the type of values, the variables."""
        self._cache.claims.use(self._claim)
        self._type = self._spec.type
        self._key_of = self._spec.template.key
        return self._key_of(args, kwargs)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call."""
        return self._spec.template.key((*self._receiver, *args), kwargs)

    def _written(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, Policy]:
        """Return the key and the policy of what is set in place of a result."""
        self._cache.claims.use(self._claim)
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

    def _source(self) -> FunctionSpec:
        return self._spec

    def __repr__(self) -> str:
        return f"<cached {self._spec.function.__qualname__} {self._spec.template.template!r}>"


def _session_class(value: object) -> str | None:
    """Return the class of a session or connection to a database, by what all of them have; None for anything else."""
    kind = type(value)
    has_transactions = hasattr(kind, "commit") and hasattr(kind, "rollback")
    is_of_asyncpg = hasattr(kind, "fetchrow") and hasattr(kind, "transaction")  # its pool has no transactions
    return kind.__name__ if has_transactions or is_of_asyncpg else None
