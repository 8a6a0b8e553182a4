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
import inspect
import math
import sys
from collections import deque
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEAVES = frozenset({str, int, bool, bytes, type(None)})
_MISSING = object()
# Which fields were given, not what they are: everything is given to a model that is read.
_NOT_COMPARED = {"__dict__", "__weakref__", "__pydantic_fields_set__"}
_LONGEST = 60


def difference(one: Any, other: Any, place: str = "value") -> str | None:
    """Return where and how `other` differs from `one`, in words; None if it is the same."""
    kind = type(one)
    if kind is not type(other):
        return _changed(one, other, place)
    if kind in _LEAVES:
        return None if one == other else _changed(one, other, place)
    compare = next((how for kinds, how in _COMPARED if isinstance(one, kinds)), None)
    if compare is None:
        compare = _of_fields if is_record(one) else _of_others
    return compare(one, other, place)


def shown(value: Any) -> str:
    """Write the type and the value, if that is short."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever a class of the user raises
        text = ""
    kind = type(value).__qualname__
    return f"{kind} {text}" if 0 < len(text) <= _LONGEST and not text.startswith(kind) else text[:_LONGEST] or kind


def is_pydantic(value: Any) -> bool:
    """Tell whether this is a pydantic model, or the class of one."""
    return hasattr(value, "model_dump") and hasattr(value, "model_validate")


def is_record(value: Any) -> bool:
    """Tell whether a value has fields and a class that says which."""
    return isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value) or is_pydantic(value)


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
            yield f"{place}[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"{place}[{index}]", item) for index, item in enumerate(value))
    elif is_record(value):
        yield from ((f"{place}.{name}", item) for name, item in _fields(value).items())


def _changed(one: Any, other: Any, place: str) -> str:
    return f"{place} is {shown(one)} and would come back as {shown(other)}"


def _of_dicts(one: dict[Any, Any], other: dict[Any, Any], place: str) -> str | None:
    if len(one) != len(other):
        return f"{place} has {len(one)} keys and would come back with {len(other)}"
    for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
        found = difference(key, other_key, f"a key of {place}")
        found = found or difference(value, other_value, f"{place}[{key!r}]")
        if found:
            return found
    return None


def _of_sequences(one: Any, other: Any, place: str) -> str | None:
    if len(one) != len(other):
        return f"{place} has {len(one)} items and would come back with {len(other)}"
    names = getattr(one, "_fields", None)  # of a NamedTuple
    for index, (item, other_item) in enumerate(zip(one, other, strict=True)):
        if type(item) is str and item == other_item and type(other_item) is str:
            continue
        found = difference(item, other_item, f"{place}.{names[index]}" if names else f"{place}[{index}]")
        if found:
            return found
    return None


def _of_sets(one: Any, other: Any, place: str) -> str | None:
    if len(one) != len(other):
        return f"{place} has {len(one)} items and would come back with {len(other)}"
    came = {item: item for item in other}
    for item in one:
        found = difference(item, came.get(item, _MISSING), f"an item of {place}")
        if found:
            return f"an item of {place} is {shown(item)} and would not come back" if item not in came else found
    return None


def _of_fields(one: Any, other: Any, place: str) -> str | None:
    before, after = _fields(one), _fields(other)
    for name in before | after:
        value, came = before.get(name, _MISSING), after.get(name, _MISSING)
        if value is _MISSING or came is _MISSING:
            return (
                f"{place}.{name} is there {'after' if value is _MISSING else 'before'} it was stored and not otherwise"
            )
        found = difference(value, came, f"{place}.{name}")
        if found:
            return found
    return None


def _fields(value: Any) -> dict[str, Any]:
    """Return what an object consists of: its fields, its slots, and what else was set; not what it computes."""
    found: dict[str, Any] = {name: getattr(value, name, _MISSING) for name in getattr(value, "__struct_fields__", ())}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            is_mangled = name.startswith("__") and not name.endswith("__")
            found.setdefault(
                name, getattr(value, f"_{kind.__name__.lstrip('_')}{name}" if is_mangled else name, _MISSING)
            )
    found |= getattr(value, "__dict__", {})
    return {name: item for name, item in found.items() if name not in _NOT_COMPARED and not _is_computed(value, name)}


def _is_computed(value: Any, name: str) -> bool:
    return isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)


def _of_others(one: Any, other: Any, place: str) -> str | None:
    """Compare leaves of other types, and objects of classes that say nothing of their fields."""
    if isinstance(one, float):
        is_same = (one == other and math.copysign(1, one) == math.copysign(1, other)) or (one != one and other != other)  # noqa: PLR0124
    elif isinstance(one, Decimal):
        is_same = one.as_tuple() == other.as_tuple()
    elif isinstance(one, dt.datetime | dt.time):
        is_same = one == other and one.fold == other.fold and _same_zone(one, other)
    elif isinstance(one, Enum) or _is_of_a_library(type(one)) or not _fields(one):
        is_same = bool(one == other)
    else:
        return _of_fields(one, other, place)
    return None if is_same else _changed(one, other, place)


def _same_zone(one: Any, other: Any) -> bool:
    if one.tzinfo is None or other.tzinfo is None:
        return one.tzinfo is other.tzinfo
    offset = one.tzinfo.utcoffset(None)  # None for a zone whose offset depends on the date
    return offset is not None and offset == other.tzinfo.utcoffset(None)


def _is_of_a_library(kind: type) -> bool:
    """Tell whether a class compares itself as it should: paths, addresses, UUIDs, URLs, secrets."""
    package = kind.__module__.partition(".")[0]
    return package in sys.stdlib_module_names or package in {"pydantic", "pydantic_core", "msgspec"}


_COMPARED: tuple[tuple[Any, Callable[[Any, Any, str], str | None]], ...] = (
    (dict, _of_dicts),
    ((list, tuple, deque), _of_sequences),
    ((set, frozenset), _of_sets),
)
