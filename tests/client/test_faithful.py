"""Values come back equal or are refused: on the miss as on the hit, whatever the annotation says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Union

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from globalcache.client.faithful import difference
from globalcache.client.values import UNREADABLE, Values
from tests.client.typed import (
    MODEL,
    AlwaysEqual,
    ByIdentity,
    Model,
    Pair,
    Record,
    Shortened,
    Struct,
    Text,
    Wider,
    draw,
    picture,
)

if TYPE_CHECKING:
    from random import Random

CODECS = {
    "json": Values(),
    "msgpack": Values("msgpack"),
    "json zstd": Values(compress_over=1),
    "msgpack zstd": Values("msgpack", compress_over=1),
    "pickle": Values("pickle", secret=b"s"),
}
DAY = dt.date(2024, 2, 29)


@pytest.mark.parametrize("values", CODECS.values(), ids=CODECS)
@settings(max_examples=200, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_any_typed_value_is_equal_or_refused(values: Values, random: Random) -> None:
    kind, value = draw(random)
    before = picture(value)
    try:
        data, flags = values.encode(value, kind)
    except TypeError as error:
        assert str(error).partition(";")[0].isprintable()  # noqa: PT017 - one line
        return
    assert picture(value) == before
    assert picture(values.decode(data, flags, kind)) == before


@settings(max_examples=200, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_a_difference_is_found_exactly_if_there_is_one(random: Random) -> None:
    (_, one), (_, other) = draw(random), draw(random)
    assert difference(one, one) is None or "ZoneInfo" in repr(one)
    assert (difference(one, other) is None) == (picture(one) == picture(other)) or "ZoneInfo" in repr((one, other))


@pytest.mark.parametrize(
    ("value", "kind", "line"),
    [
        ({"price": Decimal("4.50")}, dict, r"value\['price'\] is Decimal\('4.50'\) and would come back as str '4.50'"),
        ({"a": [DAY]}, dict[str, Any], r"value\['a'\]\[0\] is date 2024-02-29 and would come back as str"),
        ({1: "one"}, dict[str, Any] | None, r"does not come back|has a key that is int 1"),
        ([(1, 2)], list, r"value\[0\] is tuple \(1, 2\) and would come back as list \[1, 2\]; name that type"),
        ({"rate": float("nan")}, dict, r"value\['rate'\] is float nan and would come back as NoneType None"),
        (float("nan"), float | None, "value is float nan"),
        (5, str, "value is int 5 and would come back as str '5'"),
        ("x", int, "does not come back as int: Expected `int`, got `str`; return what the annotation says"),
        (Wider(1), Record, "value is Wider.* would come back as Record"),
        (Record((1,)), Record, r"value.any is tuple \(1,\) and would come back as list"),
        (Record(1, hidden=DAY), Record, "value.hidden is date 2024-02-29"),
        (Record(1, 1), Record, "value.number is int 1 and would come back as float 1.0"),
        (ByIdentity({1, 2}), ByIdentity, r"value.any is set \{1, 2\}"),
        (AlwaysEqual(DAY), AlwaysEqual, "value.any is date"),
        # Of a union, what one member writes another one may read.
        ({"any": 1}, AlwaysEqual | dict[str, Any], "value is dict .* and would come back as AlwaysEqual"),
        (AlwaysEqual(1), Union[AlwaysEqual, Any, list], "value is .* and would come back as dict"),  # noqa: UP007
        ([{"any": 1}], list[AlwaysEqual] | list[dict[str, int]], r"value\[0\] is dict .* come back as AlwaysEqual"),
        (Pair((1,)), Pair, "value.left is tuple"),
        ([Struct({DAY})], list[Struct], r"value\[0\].any is set"),
        ({-0.0}, list[float], "value is set"),
        (Shortened(at=dt.datetime(2024, 5, 2)), Shortened, "value.at is datetime .*; its class writes something else"),  # noqa: DTZ001
        (MODEL(left_out=2), Model, "value.left_out is int 2"),
        (MODEL(secret="hunter2"), Model, "value.secret .*would come back changed"),
        (object(), dict, "value is of type object, which cannot be stored: make a dataclass"),
        ({(1, 2): 3}, dict[tuple[int, int], int], "the key .* of value .*: JSON has texts and numbers as keys"),
        ([[["\ud800"]]], list, r"value\[0\]\[0\]\[0\] cannot be stored: it is no valid text"),
    ],
)
def test_an_error_names_the_place(value: Any, kind: Any, line: str) -> None:
    with pytest.raises(TypeError, match=line) as caught:
        CODECS["json"].encode(value, kind)
    assert "hunter2" not in str(caught.value)


@dataclasses.dataclass
class Dog:
    """One of a union."""

    name: str


@dataclasses.dataclass
class Cat:
    """The other, with the same field and one more."""

    name: str
    lives: int = 9


class Whole(pydantic.BaseModel):
    """A strict model: JSON has its dates as text, Python has not."""

    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Dog("Rex"), Dog | Cat),
        (Cat("Tom"), Dog | Cat),
        (Cat("Tom"), Dog | Cat | None),
        (MODEL(anyOne=1), Model | Whole),
        (Whole(day=DAY), Model | Whole),
        ([Whole(day=DAY)], list[Whole]),
        ({"a": 1}, dict[str, object]),
        ([1, "a", None], list[object]),
        (MODEL(anyOne=1, extra=[2]), Model),
        (Decimal("1.00"), Decimal),
        (-0.0, float),
    ],
)
def test_what_was_refused_without_reason_comes_back(codec: str, value: Any, kind: Any) -> None:
    values = CODECS[codec]
    assert picture(values.decode(*values.encode(value, kind), kind)) == picture(value)


@dataclasses.dataclass
class Guarded:
    """A class with a rule of its own, which raises what it likes."""

    number: int

    def __post_init__(self) -> None:
        if self.number > 5:
            raise ZeroDivisionError("too many")


@dataclasses.dataclass
class Broken:
    """A class with a field whose type is nowhere."""

    field: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_what_a_class_raises_is_a_type_error_or_a_miss() -> None:
    """Old code stored 9, new code refuses it: the read is a miss, not an error of every call for this key."""
    values, much = CODECS["json"], Guarded(1)
    much.number = 9
    with pytest.raises(TypeError, match="does not come back as Guarded: too many"):
        values.encode(much, Guarded)
    assert values.decode(b'{"number":9}', 0, Guarded) is UNREADABLE
    assert values.decode_many([b'{"number":9}'], Guarded) is None
    with pytest.raises(TypeError, match="'Nowhere' is not defined; import what the annotation names at run time"):
        values.encode(Broken(1), Broken)
    assert values.decode(b'{"field":9}', 0, Broken) is UNREADABLE
    assert values.decode(b"[" * 100_000 + b"]" * 100_000) is UNREADABLE
    assert values.decode(b"no zstd", 0x6763_0010) is UNREADABLE


class Base:
    """It computes `size`, and one of its subclasses has a field of that name."""

    @functools.cached_property
    def size(self) -> int:
        return 1


@dataclasses.dataclass
class Sized(Base):
    """Its size is given."""

    size: int


@dataclasses.dataclass
class Computing(Base):
    """Its size is computed."""

    name: str


def test_what_is_computed_is_not_compared() -> None:
    computed = Computing("a")
    assert computed.size == 1
    assert difference(computed, Computing("a")) is None
    assert difference(Sized(1), Sized(2)) == (
        "value.size is int 1 and would come back as int 2; its class writes "
        "something else than it reads, so leave it out of the value"
    )


def test_what_was_set_on_an_object_would_be_lost() -> None:
    marked = Computing("a")
    marked.more = 1  # type: ignore[attr-defined]
    assert difference(marked, Computing("a")) == "value.more would be lost; make it a field of Computing"


@dataclasses.dataclass
class Plain:
    """A record of plain fields, which is walked through and not read back."""

    id: int
    names: list[str] = dataclasses.field(default_factory=list)
    rate: float | None = None
    more: Any = None


@dataclasses.dataclass
class Narrower(Plain):
    """A subclass, whose own fields a walk through those of its base would miss."""

    extra: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [
        (Plain(1, ["a"], 0.5, {"a": [1]}), True),
        (Plain(1, rate=-0.0), True),
        (Plain(True), False),
        (Plain(1, ("a",)), False),  # type: ignore[arg-type]
        (Plain(1, [Text("a")]), False),
        (Plain(1, rate=1), False),
        (Plain(1, rate=float("nan")), False),
        (Plain(1, more=(1,)), False),
        (Narrower(1, extra=(1,)), False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [Plain, list[Plain], dict[str, Plain], Plain | None])
def test_records_of_plain_fields(value: Any, kind: Any, *, is_kept: bool) -> None:
    values = CODECS["json"]
    whole = [value] if kind == list[Plain] else {"a": value} if kind == dict[str, Plain] else value
    if is_kept:
        assert picture(values.decode(*values.encode(whole, kind), kind)) == picture(whole)
    else:
        with pytest.raises(TypeError, match="value"):
            values.encode(whole, kind)


def test_what_was_set_on_a_plain_record_is_seen() -> None:
    value = Plain(1)
    value.other = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"value.other would be lost; make it a field of Plain"):
        CODECS["json"].encode(value, Plain)
