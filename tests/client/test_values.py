"""Values as bytes: what comes back is what was given, and what would not is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from globalcache import ConfigError
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
def test_what_would_not_come_back_the_same_is_refused_by_its_place(value: Any, place: str) -> None:
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


def test_whole_numbers_stay_what_a_server_can_count_with_pickle_too() -> None:
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
