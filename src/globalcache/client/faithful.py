"""Whether a value came back from the cache as it was: the same type at every place, and the same leaves.

Stricter than `==`: 1 is not True, 0.0 is not -0.0, Decimal("1.0") is not Decimal("1.00"), and nan is nan. Objects are
compared by their fields, those that their own `==` leaves out included, because `==` says what a class chose to
compare and a hit must equal a miss. Times are equal if they have the same offset at every date, so one with a zone such
as Europe/Berlin, which comes back with the offset of its day, is not.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import math
import sys
from collections import deque
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from globalcache.errors import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEAVES = frozenset({str, int, bool, bytes, type(None)})
_MISSING = object()
_OF_PYDANTIC = ("__pydantic_extra__", "__pydantic_private__")
# Which fields of a model were given, not what they are: everything is given to a model that is read.
_NOT_COMPARED = frozenset({"__dict__", "__weakref__", "__pydantic_fields_set__"})
_LONGEST = 60
_NAME_IT = "name that type in the annotation (a dataclass, dict[str, Decimal]), or give type="
_IN_UTC = "write it in UTC, by .astimezone(datetime.UTC)"
_OTHERWISE = "its class writes something else than it reads, so leave it out of the value"


# The place of a difference as a path, such as `.price` or `[0]`, and what differs there.
_Found: TypeAlias = "tuple[str, str] | None"


def difference(one: Any, other: Any) -> str | None:
    """Return where and how `other` differs from `one`, and what to write instead; None if it is the same."""
    found = _find(one, other)
    return None if found is None else f"value{found[0]} {found[1]}"


def _find(one: Any, other: Any) -> _Found:
    kind: Any = type(one)
    if kind is not type(other):
        return "", _changed(one, other)
    if kind in _LEAVES:
        return None if one == other else ("", _changed(one, other))
    return _comparison(kind)(one, other)  # type: ignore[arg-type]  # mypy doubts that classes are hashable


@functools.lru_cache(maxsize=1000)
def _comparison(kind: type) -> Callable[[Any, Any], _Found]:
    """Return how two objects of a class are compared."""
    for kinds, how in _COMPARISONS:
        if issubclass(kind, kinds):
            return how
    return _of_fields if is_record(kind) else _of_others


def shown(value: Any) -> str:
    """Write the type and the value, if that is short."""
    try:
        text = str(value) if isinstance(value, dt.datetime | dt.date | dt.time) else repr(value)
    except Exception:  # noqa: BLE001 - whatever a class of the user raises
        text = ""
    kind = type(value).__qualname__
    return f"{kind} {text}" if 0 < len(text) <= _LONGEST and not text.startswith(kind) else text[:_LONGEST] or kind


def is_pydantic(value: Any) -> bool:
    """Tell whether this is a pydantic model, or the class of one."""
    return hasattr(value, "model_dump") and hasattr(value, "model_validate")


def is_record(value: Any) -> bool:
    """Tell whether a value, or a class, has fields and says which."""
    kind = value if isinstance(value, type) else type(value)
    return issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(value) or is_pydantic(value)


def place_of(value: Any, culprit: object, place: str = "value") -> str | None:
    """Return the path to an object within a value; None if it is not there."""
    if value is culprit:
        return place
    found = (place_of(inner, culprit, where) for where, inner in _inside(value, place))
    return next((where for where in found if where is not None), None)


def _inside(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"the key {shown(key)} of {place}", key
            yield f"{place}[{written(key)}]", item
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"{place}[{index}]", item) for index, item in enumerate(value))
    elif is_record(value):
        yield from ((f"{place}.{name}", item) for name, item in _fields(value).items())


def _changed(one: Any, other: Any) -> str:
    before, after = shown(one), shown(other)
    how = f"is {before} and would come back " + (f"as {after}" if before != after else "changed")
    if type(one) is not type(other):
        return f"{how}; {_NAME_IT}"
    is_moved = isinstance(one, dt.datetime | dt.time) and (one.tzinfo is not None or one == other)
    return f"{how}; {_IN_UTC if is_moved else _OTHERWISE}"


def _of_dicts(one: dict[Any, Any], other: dict[Any, Any]) -> _Found:
    if len(one) != len(other):
        return "", f"has {len(one)} keys and would come back with {len(other)}; {_NAME_IT}"
    for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
        if found := _find(key, other_key):
            return "", f"has a key that {found[1]}"
        if found := _find(value, other_value):
            return f"[{written(key)}]{found[0]}", found[1]
    return None


def _of_sequences(one: Any, other: Any) -> _Found:
    if len(one) != len(other):
        return "", f"has {len(one)} items and would come back with {len(other)}; {_NAME_IT}"
    for index, (item, other_item) in enumerate(zip(one, other, strict=True)):
        if found := _find(item, other_item):
            names = getattr(one, "_fields", None)  # of a NamedTuple
            return (f".{names[index]}" if names else f"[{index}]") + found[0], found[1]
    return None


def _of_sets(one: Any, other: Any) -> _Found:
    came = {item: item for item in other}
    for item in one:
        if item not in came:
            return "", f"has an item that is {shown(item)} and would not come back; {_NAME_IT}"
        if found := _find(item, came[item]):
            return "", f"has an item that {found[1]}"
    return None if len(one) == len(other) else ("", f"would come back with {len(other)} items; {_NAME_IT}")


def _of_fields(one: Any, other: Any) -> _Found:
    before, after = _fields(one), _fields(other)
    for name, value in before.items():
        came = after.get(name, _MISSING)
        if came is _MISSING and value is not _MISSING:
            return f".{name}", f"would be lost; make it a field of {type(one).__qualname__}"
        if found := _find(value, came):
            return f".{name}{found[0]}", found[1]
    added = [name for name, value in after.items() if before.get(name, _MISSING) is _MISSING and value is not _MISSING]
    return (f".{added[0]}", f"would be there only after it was stored; {_OTHERWISE}") if added else None


def _fields(value: Any) -> dict[str, Any]:
    """Return what an object consists of: its fields, its slots, and what else was set; not what it computes."""
    kind: Any = type(value)
    names, computed = _layout(kind)
    found: dict[str, Any] = {name: getattr(value, name, _MISSING) for name in names}
    found |= getattr(value, "__dict__", {})
    for more in _OF_PYDANTIC:
        if more in found:
            found |= found.pop(more) or {}
    for name in computed:
        found.pop(name, None)
    return found


@functools.lru_cache(maxsize=1000)
def _layout(kind: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields of a class that stand in no `__dict__`, and those in it that are computed from others."""
    names: dict[str, None] = dict.fromkeys(getattr(kind, "__struct_fields__", ()))
    computed = {
        n for base in kind.__mro__ for n, item in vars(base).items() if isinstance(item, functools.cached_property)
    }
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            is_mangled = name.startswith("__") and not name.endswith("__")
            names[f"_{base.__name__.lstrip('_')}{name}" if is_mangled else name] = None
    fields = getattr(kind, "__dataclass_fields__", ())  # one may have the name of what a base class computes
    return tuple(name for name in names if name not in _NOT_COMPARED), tuple(computed.difference(fields))


def _of_others(one: Any, other: Any) -> _Found:
    """Compare leaves of other types, and objects of classes that say nothing of their fields."""
    if isinstance(one, Decimal):
        is_same = one.as_tuple() == other.as_tuple()
    elif isinstance(one, dt.datetime | dt.time):
        is_same = one == other and one.fold == other.fold and _same_zone(one, other)
    elif isinstance(one, Enum) or _is_of_a_library(type(one)) or not _fields(one):
        is_same = bool(one == other)
    else:
        return _of_fields(one, other)
    return None if is_same else ("", _changed(one, other))


def _of_floats(one: float, other: float) -> _Found:
    is_same = math.copysign(1, one) == math.copysign(1, other) if one == other else one != one and other != other  # noqa: PLR0124
    return None if is_same else ("", _changed(one, other))


def _same_zone(one: Any, other: Any) -> bool:
    if one.tzinfo is None or other.tzinfo is None:
        return one.tzinfo is other.tzinfo
    offset = one.tzinfo.utcoffset(None)  # None for a zone whose offset depends on the date
    return offset is not None and offset == other.tzinfo.utcoffset(None)


def _is_of_a_library(kind: type) -> bool:
    """Tell whether a class compares itself as it should: paths, addresses, UUIDs, URLs, secrets."""
    package = kind.__module__.partition(".")[0]
    return package in sys.stdlib_module_names or package in {"pydantic", "pydantic_core", "msgspec"}


_COMPARISONS: tuple[tuple[Any, Callable[[Any, Any], _Found]], ...] = (
    (dict, _of_dicts),
    ((list, tuple, deque), _of_sequences),
    ((set, frozenset), _of_sets),
    (float, _of_floats),
)
