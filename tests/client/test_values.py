"""Values as bytes: what comes back is what was given, and what would not is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import subprocess
import sys
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from globalcache import ConfigError
from globalcache.client import values as values_module
from globalcache.client.values import UNREADABLE, Values

JSON = Values()
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


class Struct(msgspec.Struct):
    """A record."""

    at: dt.datetime
    price: Decimal


@dataclasses.dataclass
class Data:
    """A record."""

    id: UUID
    pairs: tuple[tuple[int, str], ...] = ()


class Model(pydantic.BaseModel):
    """A record."""

    id: int
    when: dt.date


class Typed(TypedDict):
    """A record."""

    id: int


def same(left: Any, right: Any) -> bool:
    return left == right and repr(left) == repr(right)


@pytest.mark.parametrize(
    "values",
    [JSON, Values("msgpack"), Values("json", compress_over=1), Values("msgpack", compress_over=20)],
    ids=["json", "msgpack", "json zstd", "msgpack zstd"],
)
@given(value=plain)
def test_what_is_plain_comes_back_the_same(values: Values, value: Any) -> None:
    data, flags = values.encode(value)
    # Every form describes itself: any reader reads it.
    assert same(JSON.decode(data, flags), value)


@given(value=st.binary())
def test_bytes_come_back(value: bytes) -> None:
    data, flags = JSON.encode(value)
    assert data == value
    assert JSON.decode(data, flags) == value
    assert JSON.decode(data, flags, bytes) == value


@given(data=st.binary(), flags=st.integers(0, 2**32 - 1))
def test_any_bytes_are_a_value_or_unreadable(data: bytes, flags: int) -> None:
    JSON.decode(data, flags)
    JSON.decode(data, flags, Struct)
    JSON.decode(data, flags, Model)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Struct(dt.datetime(2026, 1, 2, tzinfo=dt.UTC), Decimal("1.10")), Struct),
        (Data(UUID(int=5), ((1, "a"),)), Data),
        (Model(id=1, when=dt.date(2026, 1, 2)), Model),
        ([Model(id=1, when=dt.date(2026, 1, 2))], list[Model]),
        ({"id": 1}, Typed),
        ((1, 2), tuple[int, ...]),
        ({1: {2}}, dict[int, set[int]]),
        (dt.timedelta(seconds=5), dt.timedelta),
        (None, int | None),
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_typed_values_come_back(value: Any, kind: Any, codec: str) -> None:
    values = Values(codec)
    data, flags = values.encode(value, kind)
    assert same(values.decode(data, flags, kind), value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ((1,), "value is of type tuple"),
        ({"a": [1, {2}]}, r"value\['a'\]\[1\] is of type set"),
        ({1: 2}, "key 1"),
        (float("inf"), "inf"),
        ([b"x"], r"value\[0\] is of type bytes"),
        (Decimal(1), "Decimal"),
        ("\ud800", "cannot be stored"),
        (bytearray(b"x"), "bytearray"),
    ],
)
def test_a_value_that_would_change_is_refused_by_its_place(value: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        JSON.encode(value)


def test_a_value_that_is_not_of_its_type_is_refused() -> None:
    with pytest.raises(TypeError, match="does not come back"):
        JSON.encode("x", int)
    with pytest.raises(TypeError, match="bytes"):
        JSON.encode("x", bytes)


@pytest.mark.parametrize(
    ("data", "kind", "value"),
    [
        (b"hello", None, "hello"),
        (b"\xff", None, b"\xff"),
        (b"100", None, 100),
        (b"100", bytes, b"100"),
        (b"100", str, "100"),
        (b"hello", str, "hello"),
        (b'"hello"', str, "hello"),
        (b"100", int, 100),
        (b"hello", int, UNREADABLE),
        (b"\xff", str, UNREADABLE),
        (b'{"id":1,"more":2}', Typed, {"id": 1}),
    ],
)
def test_what_other_clients_wrote(data: bytes, kind: Any, value: Any) -> None:
    assert JSON.decode(data, 0, kind) == value


def test_flags_of_memcached_clients_are_not_ours() -> None:
    assert JSON.decode(b"x", 1) is UNREADABLE
    assert JSON.decode(b"x", 1, bytes) == b"x"


def test_pickle_is_signed() -> None:
    with pytest.raises(ConfigError, match="secret"):
        Values("pickle")
    values = Values("pickle", secret=b"s")
    data, flags = values.encode({1: (2, 3)})
    assert values.decode(data, flags) == {1: (2, 3)}
    assert values.decode(data[:-1] + b"x", flags) is UNREADABLE
    assert Values("pickle", secret=b"t").decode(data, flags) is UNREADABLE
    assert JSON.decode(data, flags) is UNREADABLE


def test_integers_can_be_counted_with_pickle_too() -> None:
    values = Values("pickle", secret=b"s")
    assert values.encode(-5) == (b"-5", 0)
    for number in (2**63 - 1, -(2**63), 2**63, 10**30, True):
        again = values.decode(*values.encode(number))
        assert (again, type(again)) == (number, type(number))


def test_small_and_random_values_are_not_compressed() -> None:
    values = Values(compress_over=100)
    assert values.encode("x" * 50)[1] == 0
    assert len(values.encode("x" * 5000)[0]) < 100
    with pytest.raises(ConfigError, match="codec"):
        Values("yaml")


@dataclasses.dataclass
class Dog:
    """A record."""

    name: str


@dataclasses.dataclass
class Cat:
    """A record with the same field."""

    name: str


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("other", [Cat | Dog, Dog | Cat])
def test_a_union_is_read_in_the_order_of_its_members(codec: str, other: Any) -> None:
    """Unions are equal in any order; what another function of the process reads must not change what is read."""
    values = Values(codec)
    values.decode(*values.encode(other.__args__[0]("Tom"), other), other)
    for kind, member in ((Dog | Cat, Dog), (Cat | Dog, Cat)):
        assert values.decode(*values.encode(member("Rex"), kind), kind) == member("Rex")


Positive = Annotated[int, msgspec.Meta(ge=0)]
Word = Annotated[str, msgspec.Meta(pattern="^a")]
PositiveId = NewType("PositiveId", Positive)
T = TypeVar("T")


@dataclasses.dataclass
class Limited:
    """A record with a limit."""

    a: Positive
    b: Annotated[int, "said of it, and not looked at"] = 0


@dataclasses.dataclass
class Range:
    """A record that ends the process when msgspec reads it."""

    limit: tuple[int, int] | Positive


class Named(NamedTuple):
    """A record in a list."""

    range: Range


class Pair(NamedTuple):
    """A record in a list, of a length that is known by its class."""

    a: int
    b: int


class Holder(msgspec.Struct, Generic[T]):
    """A generic record."""

    limit: tuple[int, int] | T


class Words(TypedDict):
    """A record that is a dict."""

    words: dict[str, int] | Word


@pytest.mark.parametrize(
    "kind",
    [
        tuple[int, int] | Positive,
        tuple[()] | Annotated[str, msgspec.Meta(max_length=5)],
        tuple[int, int] | PositiveId | None,
        list[int] | Word,
        set[str] | Word,
        tuple[int, ...] | Word | None,
        dict | Word,
        list[dict[str, tuple[int, int] | Positive]],
        Range,
        list[Named],
        Holder[Positive],
        Words | None,
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_type_that_ends_the_process_is_refused(kind: Any, codec: str) -> None:
    """Of msgspec 0.22, which reads such a union from the wrong place of its memory."""
    values = Values(codec)
    line = (
        r"msgspec cannot read a union of a (tuple of fixed length|list|set|tuple|dict) and a type with \w+: leave that"
    )
    with pytest.raises(TypeError, match=line):
        values.encode({"a": 5}, kind)
    data, flags = values.encode([1, 2])
    for _ in range(2):
        with pytest.raises(ConfigError, match=line):
            values.decode(data, flags, kind)
    with pytest.raises(ConfigError, match=line):
        JSON.decode(b"5", 0, kind)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (list[int] | Positive, [1]),
        (tuple[int, ...] | Positive, 5),
        (tuple[int, int] | int, (1, 2)),
        (Pair | Positive | None, 5),
        (tuple[int, int] | Annotated[int, msgspec.Meta(title="a number")], 5),
        (list[Word] | str, ["a"]),
        (Holder[int], Holder(5)),
    ],
)
def test_a_union_that_msgspec_can_hold_is_read(kind: Any, value: Any) -> None:
    assert JSON.decode(*JSON.encode(value, kind), kind) == value


@pytest.mark.parametrize("pair", ["list[int] | Positive", "tuple[int, ...] | Positive", "tuple[int, int] | int"])
def test_what_is_not_refused_does_not_end_the_process(pair: str) -> None:
    text = f"""
from typing import Annotated
from msgspec import Meta
from globalcache.client.values import Values
Positive = Annotated[int, Meta(ge=0)]
for text in (b"[1,2]", b"[]", b"5", b"-5", b"{{}}", b"null"):
    Values().decode(text, 0, {pair})
"""
    subprocess.run([sys.executable, "-c", text], check=True)


def test_a_value_beyond_the_limits_of_its_type_is_refused() -> None:
    """It would be stored and could not be read, so that every call loads it again."""
    wrong = Limited(-1)
    wholes: list[tuple[Any, Any]] = [(Limited, wrong), (list[Limited], [wrong]), (dict[str, Limited], {"a": wrong})]
    for values, (kind, value) in itertools.product((JSON, Values("msgpack")), wholes):
        with pytest.raises(TypeError, match=r"does not come back as .*: Expected `int` >= 0"):
            values.encode(value, kind)
    assert JSON.decode(*JSON.encode(Limited(1, 2), Limited), Limited) == Limited(1, 2)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([1], list[Struct | object]),
        ({"a": "b"}, dict[str, str | Dog | Cat]),
        ([["a"]], list[list[str] | list[Any]]),
        ([1], list[int | Dog | Cat]),
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_what_has_no_reader_is_not_stored(value: Any, kind: Any, codec: str) -> None:
    """A walk through the value finds nothing wrong with it, but nobody could read it as that type."""
    values = Values(codec)
    for _ in range(2):
        try:
            data, flags = values.encode(value, kind)
        except TypeError as error:
            assert "does not come back as" in str(error)  # noqa: PT017 - or it comes back
        else:
            assert values.decode(data, flags, kind) == value


@pytest.mark.parametrize("kind", [None, int, Any, list[int], int | str])
def test_a_number_that_is_too_long_to_be_read_is_refused(kind: Any) -> None:
    """Python writes 4300 digits and a sign, and reads 4300 characters."""
    number = -(10**4299)
    with pytest.raises(TypeError, match=r"would come back as|does not come back as"):
        JSON.encode([number] if kind == list[int] else number, kind)
    fits = -(10**4298)
    assert JSON.decode(*JSON.encode([fits, "-" * 5000], list), list)[0] == fits
    assert JSON.decode(*JSON.encode(f"-{10**4299}")) == f"-{10**4299}"


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": float("-inf")}])
def test_msgpack_has_nan_without_a_type(value: Any) -> None:
    values = Values("msgpack")
    assert repr(values.decode(*values.encode(value))) == repr(value)
    with pytest.raises(TypeError, match="would come back as list"):
        values.encode([(1, 2)])


def test_a_record_that_shows_other_values_is_refused() -> None:
    @dataclasses.dataclass
    class Twice:
        a: int

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            return value * 2 if name == "a" else value

    with pytest.raises(TypeError, match=r"value\.a"):
        JSON.encode(Twice(4), Twice)


def test_classes_that_are_made_at_each_call_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function with a class of its own would otherwise keep one more for ever at each call."""
    monkeypatch.setattr(values_module, "_MOST_TYPES", 10)
    values = Values("json")
    for number in range(25):
        kind = dataclasses.make_dataclass("Row", [("id", int)])
        data, flags = values.encode(kind(number), kind)
        assert values.decode(data, flags, kind) == kind(number)
    for held in (values._decoders, values._walks):  # noqa: SLF001
        assert 0 < len(held) <= 10


@pytest.mark.parametrize("base", [enum.Flag, enum.IntFlag])
@pytest.mark.parametrize("reads_before", [True, False])
def test_a_flag_that_was_made_of_false_is_that_of_nothing(base: Any, reads_before: bool) -> None:
    """Permission(False) is Permission(0) to Python, which writes it as false from then on and not as a number."""

    class Permission(base):  # type: ignore[misc]
        READ = 1
        WRITE = 2

    kind, values = list[Permission], Values()
    whole = [Permission.READ, Permission.READ | Permission.WRITE]
    if reads_before:
        assert values.decode(*values.encode(whole, kind), kind) == whole
    nothing = Permission(False)
    everything = [*whole, nothing]
    assert values.encode(everything, kind) == (b"[1,3,0]", 0)
    assert values.decode(b"[1,3,0]", 0, kind) == everything
    assert Values().decode(b"[1,3,0]", 0, kind) == everything


def test_a_flag_that_was_made_of_false_is_read_first() -> None:
    """Another process has written the value, and this one writes none."""

    class Permission(enum.Flag):
        READ = 1

    Permission(False)
    assert Values().decode(b"1", 0, Permission) is Permission.READ
