"""What values are read as: the types that return annotations tell."""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec
from msgspec.structs import force_setattr

from globalcache.keys import hints, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class LaterType(msgspec.Struct, frozen=True):
    """A return annotation that could not be resolved at decoration, and what is made of it then."""

    function: Callable[..., Any]
    taken: Callable[[Any], Any]

    def resolve(self) -> Any:
        """Return the type. Raises TypeError for an annotation that cannot be resolved now either."""
        known = hints(self.function)
        if "return" in known:
            return _type_or_none(self.taken(known["return"]))
        raise TypeError(
            f"{name_of(self.function)}: the return annotation {self.function.__annotations__['return']!r} cannot be "
            "resolved: import what it names at run time, or give type="
        )


def resolve(owner: msgspec.Struct, later: LaterType) -> Any:
    """Return the type, and keep it as the `kind` of its owner."""
    kind = later.resolve()
    force_setattr(owner, "kind", kind)
    return kind


def returned_type(function: Callable[..., Any], names: Mapping[str, Any] | None, taken: Callable[[Any], Any]) -> Any:
    """Return the type that a function's values are read as; a LaterType if that is not known yet."""
    known = hints(function, names)
    if "return" not in known and "return" in getattr(function, "__annotations__", {}):
        return LaterType(function, taken)
    return _type_or_none(taken(known.get("return")))


def type_of_rows(kind: Any) -> Any:
    """Return the type of the values of a mapping."""
    inner = typing.get_args(without_none(kind))
    return inner[1] if len(inner) == 2 else None


def without_none(kind: Any) -> Any:
    """Return what is in the cache if anything is: absence is kept apart from values."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0] if len(members) == 1 else kind
    return kind


def allows_none(annotation: Any) -> bool:
    """Tell whether a return annotation allows None; none that is known does."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(map(allows_none, typing.get_args(annotation)))
    return annotation in (None, type(None), Any, object) or isinstance(annotation, TypeVar)


def _type_or_none(annotation: Any) -> Any:
    """Return the type that values are read as; None if the annotation tells nothing."""
    kind = without_none(annotation)
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
