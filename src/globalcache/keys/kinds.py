"""The types of values that may stand in keys: how they are written there, and read back."""

from __future__ import annotations

import functools
import re
import types
import typing
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Union
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_INT = re.compile(r"0|-?[1-9][0-9]*")


class Kind(msgspec.Struct, frozen=True):
    """How values of a type are written and read, and what marks them where a field takes several types."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]
    mark: str = ""


def read_int(text: str) -> int:
    """Return a whole number; raises ValueError for another spelling than Python's."""
    if _INT.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _read_bool(text: str) -> bool:
    return {"True": True, "False": False}[text]


def _read_none(text: str) -> None:
    return {"None": None}[text]


def _read_bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def _write_datetime(value: datetime) -> str:
    """Write a time as RFC 9557 does, with the name of its zone: what a function makes of it may depend on that.

    A time without a zone that is the later one of two, when clocks are set back, ends in `[1]`.
    """
    zone = getattr(value.tzinfo, "key", None)
    if zone and type(value.tzinfo).__module__ == "zoneinfo":
        return f"{value.isoformat()}[{zone}]"
    if value.tzinfo is not None and not _is_offset(value):
        kind = type(value.tzinfo)
        raise TypeError(
            f"the zone of {value} is a {kind.__module__}.{kind.__qualname__}, which its offset does not tell: take "
            "zoneinfo.ZoneInfo, or write it in UTC, by .astimezone(datetime.UTC)"
        )
    return value.isoformat() + "[1]" * (value.fold and value.tzinfo is None)


def _is_offset(value: datetime) -> bool:
    """Tell whether the zone of a time is the same offset at every date, and called by that alone."""
    zone = value.tzinfo
    offset = None if zone is None else zone.utcoffset(None)  # None where it depends on the date
    return offset is not None and value.tzname() == timezone(offset).tzname(None)


def _read_datetime(text: str) -> datetime:
    time, _, zone = text.removesuffix("]").partition("[")
    value = datetime.fromisoformat(time)
    if zone in {"", "1"}:
        return value.replace(fold=int(zone or 0))
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - slow to import, and few keys have times with a zone

    there = value.replace(tzinfo=ZoneInfo(zone))
    return there if there.utcoffset() == value.utcoffset() else there.replace(fold=1)


# In this order, since True is an int and a datetime is a date.
KINDS: dict[type, Kind] = {
    type(None): Kind(str, _read_none),
    bool: Kind(str, _read_bool),
    int: Kind(int.__repr__, read_int),
    float: Kind(float.__repr__, float),
    str: Kind(str.__str__, str, "%s"),  # marked only where it reads as another type
    bytes: Kind(bytes.hex, _read_bytes, "%y"),
    UUID: Kind(str, UUID, "%u"),
    datetime: Kind(_write_datetime, _read_datetime, "%t"),
    date: Kind(date.isoformat, date.fromisoformat, "%k"),
    Decimal: Kind(str, Decimal, "%n"),
}
UNMARKED = tuple(kind for kind, how in KINDS.items() if not how.mark)
ALLOWED = "None, bool, int, float, str, bytes, UUID, date, datetime, Decimal and members of an Enum"

# Subclasses with code of their own that changes nothing in what their values do.
_AS_THEIR_BASE = frozenset(
    {
        "asyncpg.pgproto.pgproto.UUID",
        "bson.int64.Int64",
        "freezegun.api.FakeDate",
        "freezegun.api.FakeDatetime",
    }
)
# What any class has, and what makes values rather than being done with them.
_OF_ANY_CLASS = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__slots__", "__dict__", "__weakref__", "__init__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
        *("__orig_bases__", "__parameters__", "__type_params__", "__firstlineno__", "__static_attributes__"),
    }
)


def is_more(value: object) -> bool:
    """Tell whether a value of a subclass does or holds more than one of its base."""
    return bool(getattr(value, "__dict__", None)) or not _adds_nothing(type(value))  # type: ignore[arg-type]  # of classes


@functools.lru_cache(maxsize=1000)
def _adds_nothing(kind: type[Any]) -> bool:
    """Tell whether the values of a subclass do what those of its base do."""
    if f"{kind.__module__}.{kind.__qualname__}" in _AS_THEIR_BASE:
        return True
    return all(
        name in _OF_ANY_CLASS or isinstance(item, staticmethod | classmethod)
        for base in kind.__mro__
        if base not in KINDS and base is not object
        for name, item in vars(base).items()
    )


def kind_of(value: object) -> type | None:
    """Return the type that a value is written as; None if it cannot be part of a key."""
    if isinstance(value, Enum):
        return type(value)
    exact = type(value)
    return exact if exact in KINDS else next((kind for kind in KINDS if isinstance(value, kind)), None)


def is_float(number: int) -> bool:
    """Tell whether a whole number is a float exactly."""
    try:
        return float(number) == number
    except OverflowError:
        return False


def name_of_member(member: Enum) -> str:
    """Return the name of a member, the names of several flags with `|`, or the number of flags that have no name."""
    return member.name if member.name is not None else str(member.value)


def read_member(kind: type[Enum], name: str) -> Enum:
    """Return what has this name; raises KeyError or ValueError if there is nothing."""
    if name in kind.__members__ or not issubclass(kind, Flag):
        return kind[name]
    value = 0
    for part in name.split("|"):
        value |= kind[part].value if part in kind.__members__ else read_int(part)
    return kind(value)


def member_of(kind: type[Enum], name: str) -> Enum | None:
    """Return what has this name; None if there is nothing."""
    try:
        return read_member(kind, name)
    except (KeyError, ValueError):
        return None


def loses(how: Kind, text: str, value: Any) -> bool:
    """Tell whether a value of a subclass is more than what is written of it, as a time with nanoseconds."""
    # `==` and not `!=`: a subclass may have written only that. And nan is no value of which more is known.
    return bool(value == value) and not bool(how.read(text) == value)  # noqa: PLR0124


def kinds_of(annotation: Any) -> tuple[type, ...]:
    """Return the types that an annotation allows in a key; none if it does not tell."""
    if annotation is None:
        return ()
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [kinds_of(member) for member in typing.get_args(annotation)]
        return tuple(kind for member in members for kind in member) if all(members) else ()
    if typing.get_origin(annotation) is typing.Annotated:
        return kinds_of(typing.get_args(annotation)[0])
    if isinstance(annotation, typing.NewType):
        return kinds_of(annotation.__supertype__)
    is_listed = annotation in KINDS or (isinstance(annotation, type) and issubclass(annotation, Enum))
    return (annotation,) if is_listed else ()
