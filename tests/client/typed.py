"""Types and values that fit them or nearly do, drawn at random, and an equality of their own to judge by."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import typing
from collections import OrderedDict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

# A property over all of this is in test_faithful.py for each codec, in test_contract.py for each way to a server.

T = TypeVar("T")


class Colour(enum.Enum):
    """An enum of texts."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum of numbers."""

    LOW = 1
    HIGH = 2


class Text(str):
    """A subclass, which would come back as the text alone."""

    __slots__ = ()


class Number(int):
    """A subclass."""


@dataclasses.dataclass
class Record:
    """Fields of several kinds; one is left out of comparisons."""

    any: Any
    number: float = 0.0
    hidden: Any = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(eq=False)
class ByIdentity:
    """Equal to nothing but itself."""

    any: Any


@dataclasses.dataclass
class AlwaysEqual:
    """Its own `==` tells nothing."""

    any: Any

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@dataclasses.dataclass
class Wider(Record):
    """A subclass, which would be cut to its base."""

    more: int = 0


@dataclasses.dataclass
class Page(Generic[T]):
    """A generic."""

    items: list[T]


class Struct(msgspec.Struct):
    """A record of msgspec."""

    any: Any
    at: dt.datetime | None = None


class Pair(NamedTuple):
    """A tuple with names."""

    left: Any
    right: int = 0


class Typed(TypedDict, total=False):
    """A dict with names."""

    id: int
    any: Any


class Model(pydantic.BaseModel):
    """A model with an alias, and with a field and an attribute that are not written."""

    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)
    any: Any = pydantic.Field(None, alias="anyOne")
    day: dt.date | None = None
    left_out: int = pydantic.Field(0, exclude=True)
    secret: pydantic.SecretStr | None = None
    _private: int = pydantic.PrivateAttr(0)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> str:
        return f"{self.any}{self.any}"


class Shortened(pydantic.BaseModel):
    """A model that writes something else than it holds."""

    at: dt.datetime

    @pydantic.field_serializer("at")
    def _year(self, value: dt.datetime) -> str:
        return value.strftime("%Y-01-01T00:00:00")


# Generics whose types are drawn, and a model whose fields have other names: type checkers know neither.
LIST: Any = list
TUPLE: Any = tuple
SET: Any = set
FROZEN: Any = frozenset
DICT: Any = dict
PAGE: Any = Page
MODEL: Any = Model

_ZONES = (None, dt.UTC, dt.timezone(dt.timedelta(hours=2)), ZoneInfo("Europe/Berlin"))


def _datetime(random: Random) -> dt.datetime:
    day = dt.datetime(2024, random.randint(1, 12), random.choice((1, 27)), 2, 30)  # noqa: DTZ001 - the zone follows
    return day.replace(tzinfo=random.choice(_ZONES), fold=random.randint(0, 1), microsecond=random.choice((0, 5)))


_LEAVES: dict[Any, Callable[[Random], Any]] = {
    str: lambda r: r.choice(("", "a", "1", "ü", "\0", "2024-01-01", Text("t"))),
    int: lambda r: r.choice((0, -1, 2**53 + 1, 2**63, 2**64, Number(3), True, Level.LOW)),
    float: lambda r: r.choice((0.0, -0.0, 0.1, 1e300, float("nan"), float("-inf"), 1)),
    bool: lambda r: r.choice((True, False, 1)),
    bytes: lambda r: r.choice((b"", b"\xff", b'"a"')),
    type(None): lambda _: None,
    Decimal: lambda r: Decimal(r.choice(("1.0", "1.00", "-0", "NaN", "1E+3", "sNaN"))),
    UUID: lambda r: UUID(int=r.randint(0, 9)),
    dt.date: lambda r: dt.date(2024, r.randint(1, 12), 1),
    dt.datetime: _datetime,
    dt.timedelta: lambda r: dt.timedelta(microseconds=r.choice((0, -1, 10**15 + 1))),
    Colour: lambda r: r.choice(list(Colour)),
    Level: lambda r: r.choice(list(Level)),
}


def _many(random: Random, depth: int) -> tuple[Any, list[Any]]:
    kind, first = draw(random, depth - 1)
    more = [_again(random, kind, depth - 1) for _ in range(random.randint(0, 2))]
    return kind, [first, *more] if random.random() < 0.8 else more


def _again(random: Random, kind: Any, depth: int) -> Any:
    return _LEAVES[kind](random) if kind in _LEAVES else draw(random, depth)[1]


def _hashable(random: Random) -> tuple[Any, Any]:
    kind = random.choice([leaf for leaf in _LEAVES if leaf is not Decimal])
    return kind, _LEAVES[kind](random)


def _list(random: Random, depth: int) -> tuple[Any, Any]:
    kind, items = _many(random, depth)
    return random.choice((LIST[kind], list, list[Any])), items


def _tuple(random: Random, depth: int) -> tuple[Any, Any]:
    kind, items = _many(random, depth)
    return random.choice((TUPLE[kind, ...], tuple, LIST[kind])), tuple(items)


def _set(random: Random, _: int) -> tuple[Any, Any]:
    kind, item = _hashable(random)
    return random.choice((SET[kind], set, FROZEN[kind])), random.choice((set, frozenset))([item])


def _dict(random: Random, depth: int) -> tuple[Any, Any]:
    (key_kind, key), (kind, item) = _hashable(random), draw(random, depth - 1)
    value = random.choice((dict, dict, OrderedDict))({key: item})
    return random.choice((DICT[key_kind, kind], dict, dict[str, Any], DICT[str, kind], dict[str, object])), value


def _union(random: Random, depth: int) -> tuple[Any, Any]:
    (one, value), (other, _) = draw(random, depth - 1), draw(random, depth - 1)
    return typing.Union[one, other], value  # noqa: UP007 - made of drawn types


def _record(random: Random, depth: int) -> tuple[Any, Any]:
    inner_kind, inner = draw(random, depth - 1)
    kind, value = random.choice(_RECORDS)(random, inner)
    return (PAGE[inner_kind] if kind is Page else kind), value


def _model(random: Random, inner: Any) -> tuple[Any, Any]:
    model = MODEL(anyOne=inner, left_out=random.choice((0, 0, 1)))
    model._private = random.choice((0, 0, 1))  # noqa: SLF001 - as its methods would
    if random.random() < 0.2:
        model.secret = pydantic.SecretStr("hunter2")
    return Model, model


_RECORDS: tuple[Callable[[Random, Any], tuple[Any, Any]], ...] = (
    lambda r, inner: (Record, Record(inner, r.choice((1.5, 1)), r.choice((0, Decimal(1), 2)))),
    lambda _, inner: (Record, Wider(inner, more=1)),
    lambda _, inner: (ByIdentity, ByIdentity(inner)),
    lambda _, inner: (AlwaysEqual, AlwaysEqual(inner)),
    lambda _, inner: (Page, Page([inner])),
    lambda r, inner: (Struct, Struct(inner, _datetime(r))),
    lambda _, inner: (Pair, Pair(inner)),
    lambda _, inner: (Typed, {"id": 1, "any": inner}),
    lambda _, inner: (Typed, {"id": 1, "unknown": inner}),
    _model,
    lambda r, _: (Shortened, Shortened(at=_datetime(r))),
)


def draw(random: Random, depth: int = 3) -> tuple[Any, Any]:
    """Return an annotation, and a value that a function with this annotation might return."""
    if depth == 0 or random.random() < 0.3:
        kind = random.choice(list(_LEAVES))
        value = _LEAVES[kind](random)
    else:
        kind, value = random.choice((_list, _tuple, _set, _dict, _union, _record))(random, depth)
    return (Any if random.random() < 0.1 else kind), value


def picture(value: Any) -> Any:
    """Return what a value consists of, as tuples and texts: two values are equal if their pictures are."""
    kind = type(value).__qualname__
    parts = next((inside(value) for kinds, inside in _INSIDE if isinstance(value, kinds)), None)
    if parts is None and dataclasses.is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        parts += list(getattr(value, "__dict__", {}).items())
    if parts is None:
        return kind, repr(value)
    return kind, [part if type(part) is str else tuple(map(picture, part)) for part in parts]


def _of_datetime(value: dt.datetime) -> list[Any]:
    later = value + dt.timedelta(days=180)
    return [value.isoformat(), str(value.fold), str(value.utcoffset()), str(later.utcoffset())]


def _of_model(value: pydantic.BaseModel) -> list[Any]:
    parts = (value.__dict__, value.__pydantic_extra__, value.__pydantic_private__)
    return [item for part in parts for item in (part or {}).items()]


_INSIDE: tuple[tuple[Any, Callable[[Any], list[Any]]], ...] = (
    (enum.Enum, lambda value: [str(value)]),
    (dict, lambda value: list(value.items())),
    ((set, frozenset), lambda value: sorted(repr(picture(item)) for item in value)),
    ((list, tuple), lambda value: [(item,) for item in value]),
    (pydantic.SecretStr, lambda value: [value.get_secret_value()]),
    (dt.datetime, _of_datetime),
    (pydantic.BaseModel, _of_model),
    (msgspec.Struct, lambda value: [(getattr(value, name),) for name in value.__struct_fields__]),
)
