"""Types that must not be handed to msgspec: reading as one of them ends the process (msgspec 0.22 and before).

What a union says of a fixed tuple, and the pattern of a text beside a list or dict, is looked up in the wrong place of
the decoder's memory. So such unions are refused before there is a decoder, also within fields and items.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec

from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
_CONTAINERS = (list, set, frozenset, tuple, dict)
# A type, and the types that stand for the variables of the generic class that it is a field of.
_Place = tuple[Any, tuple[Any, ...]]


@functools.lru_cache(maxsize=1000)
def check_type(kind: Any) -> None:
    """Raise ConfigError for a type that has a union in it which msgspec cannot hold, and dies of.

    Raises what typing does for a field whose annotation names something that is not there, or not yet.
    """
    seen: list[_Place] = []
    left: list[_Place] = [(kind, ())]
    while left:
        place = left.pop()
        if place in seen:
            continue
        seen.append(place)
        members = list(_members(*place))
        if len(members) > 1:
            _check_union(place[0], members)
        left += [inner for member in members for inner in _inside(*member)]


def _check_union(kind: Any, members: list[_Place]) -> None:
    limits = {name for member, _ in members for name in _limits(member)}
    containers = [base for member, _ in members if (base := _container(_base(member))) is not None]
    is_fixed = any(_is_fixed_tuple(_base(member)) for member, _ in members)
    if (is_fixed and limits) or ("pattern" in limits and containers):
        what = "a tuple of fixed length" if is_fixed else f"a {containers[0].__name__}"
        raise ConfigError(
            f"{kind}: msgspec cannot read a union of {what} and a type with {', '.join(sorted(limits))}: leave that "
            "out, or put one of the two into a class of its own"
        )


def _members(kind: Any, given: tuple[Any, ...]) -> Iterator[_Place]:
    """Return the members of a union, those of unions within it too; a type that is none is its only member."""
    if isinstance(kind, TypeVar):
        # Any of those that are given may stand for it.
        for each in given or (kind.__bound__ or Any, *kind.__constraints__):
            yield from _members(each, ())
    elif isinstance(kind, typing.NewType):
        yield from _members(kind.__supertype__, given)
    elif type(kind).__name__ == "TypeAliasType":
        yield from _members(kind.__value__, given)
    elif typing.get_origin(kind) in (Union, types.UnionType):
        for member in typing.get_args(kind):
            yield from _members(member, given)
    elif typing.get_origin(kind) is typing.Annotated and not list(_limits(kind)):
        yield from _members(typing.get_args(kind)[0], given)
    else:
        yield kind, given


def _limits(kind: Any) -> Iterator[str]:
    if typing.get_origin(kind) is typing.Annotated:
        for note in typing.get_args(kind)[1:]:
            if isinstance(note, msgspec.Meta):
                yield from (name for name in _LIMITS if getattr(note, name) is not None)


def _base(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _container(kind: Any) -> Any:
    """Return the class of a type that is written as a list or object of items, such as list; None for any other."""
    base = typing.get_origin(kind) or kind
    is_one = base in _CONTAINERS or getattr(base, "__module__", "") in {"collections.abc", "collections"}
    return base if isinstance(base, type) and is_one else None


def _is_fixed_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)


def _inside(kind: Any, given: tuple[Any, ...]) -> Iterator[_Place]:
    """Return the types of items and fields."""
    arguments = tuple(each for each in typing.get_args(kind) if each is not Ellipsis)
    base = typing.get_origin(kind) or kind
    if base is typing.Annotated:
        yield arguments[0], given
    elif base is not typing.Literal:
        yield from ((each, given) for each in arguments)
        if isinstance(base, type) and _has_fields(base):
            hints = typing.get_type_hints(base, include_extras=True)
            yield from ((each, arguments) for each in hints.values())


def _has_fields(kind: type) -> bool:
    return (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or any(hasattr(kind, name) for name in ("__attrs_attrs__", "__required_keys__", "_field_defaults"))
    )
