"""Key templates: two different calls never share an entry, and a key gives back the arguments it was made of."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NewType
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from globalcache.errors import KeyFormatError
from globalcache.keys import LONGEST, KeyTemplate

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(enum.Enum):
    """Something that is counted by name."""

    RED = 1
    GREEN = 2


UserId = NewType("UserId", int)

simple = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False).map(lambda x: x + 0.0),
    st.text(max_size=20),
    st.sampled_from(["1", "None", "True", "%s1", "1.0", "a:b", "", ":", "%", "inf", "-1", "a-b", "%y00", "1_0"]),
    st.binary(max_size=5),
    st.uuids(),
    st.dates(),
    st.datetimes(),
    st.decimals(allow_nan=False),
    st.sampled_from(Colour),
)


def key(template: str | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    return KeyTemplate(template, function).key(args, kwargs)


def is_one(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("template", ["t:{a}:{b}", "t:{a}-{b}", "{a}/{b}", None, "x:{a:path}:{b}", "x:{a}:{b:path}:y"])
@given(a=simple, b=simple, c=simple, d=simple)
def test_different_calls_never_share_an_entry(template: str | None, a: Any, b: Any, c: Any, d: Any) -> None:
    def f(a: Any, b: Any) -> None: ...

    keys = KeyTemplate(template, f)
    if template and "path" in template:
        a, b, c, d = str(a), str(b), str(c), str(d)
    assert (keys.key((a, b), {}) == keys.key((c, d), {})) == (is_one(a, c) and is_one(b, d))


@pytest.mark.parametrize("template", ["t:{a}:{b}", "t:{a}-{b}", "{b}/{a}", "x:{a:path}:{b}", "x:{a}:{b:path}:y"])
@example(a="-1", b=None)
@given(a=simple, b=simple)
def test_a_key_gives_back_its_arguments(template: str, a: Any, b: Any) -> None:
    def f(a: Any, b: Any) -> None: ...

    if "path" in template:
        a, b = str(a), str(b)
    if Colour in (type(a), type(b)):
        return  # where no type is given a member can be written, not read
    keys = KeyTemplate(template, f, longest=None)
    text = keys.key((a, b), {})
    values = dict(zip(keys.field_names, keys.parse(text), strict=True))
    assert is_one(values["a"], a)
    assert is_one(values["b"], b)
    assert not any(c.isspace() or ord(c) < 33 for c in text)


@given(number=st.integers(), text=st.text(), maybe=st.one_of(st.none(), st.text()), colour=st.sampled_from(Colour))
def test_annotations_give_the_types(number: int, text: str, maybe: str | None, colour: Colour) -> None:
    def f(number: int, text: str, maybe: str | None, colour: Colour) -> None: ...

    keys = KeyTemplate("{number}:{text}:{maybe}:{colour}", f, longest=None)
    assert keys.parse(keys.key((number, text, maybe, colour), {})) == [number, text, maybe, colour]


def test_natural_spelling() -> None:
    def f(id: int, lang: str = "en") -> None: ...

    assert key("user:{id:int}:{lang}", f, 42) == "user:42:en"
    assert key("user:{id}:{lang}", f, lang="pt br", id=7) == "user:7:pt%20br"
    assert key("user:{id}:{lang}", f, 7, "1") == "user:7:1"
    assert key("{{user}}:{id}:{lang}", f, 7) == "{user}:7:en"

    def g(a: Any) -> None: ...

    assert [key("{a}", g, a) for a in (1, "1", True, "x", 1.0)] == ["1", "%s1", "True", "x", "1.0"]
    assert key("{a}", g, "Grün/1") == "Grün/1"
    assert key("{a}", g, UUID(int=1)) == "%u00000000-0000-0000-0000-000000000001"

    def h(a: UserId, b: date, c: float) -> None: ...

    assert key("{a}:{b}:{c}", h, 1, date(2026, 1, 2), 1) == "1:2026-01-02:1.0"


def test_what_a_call_means_is_its_key_and_not_how_it_is_written() -> None:
    def f(a: int, b: int = 2, *, c: int = 3) -> None: ...

    assert key(None, f, 1).endswith("f:1:2:3")
    assert len({key(None, f, 1), key(None, f, a=1), key(None, f, 1, b=2), key(None, f, 1, 2, c=3)}) == 1


class Repository:
    """An object with a method."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def user(self, id: int) -> None: ...


def test_the_receiver_is_in_the_key_by_an_attribute_or_is_ignored() -> None:
    one = Repository("a:b")
    assert key("{self.tenant}:user:{id}", Repository.user, one, 1) == "a%3Ab:user:1"
    assert KeyTemplate("user:{id}", Repository.user, ignore=("self",)).key((one, 1), {}) == "user:1"
    for template in ("user:{id}", None, "{self}:{id}"):
        with pytest.raises(KeyFormatError, match=r"self is not in the key.*\{self.id\}, or ignore=\('self',\)"):
            KeyTemplate(template, Repository.user)


def test_a_template_that_does_not_fit_is_an_error_at_decoration() -> None:
    def f(id: int, lang: str) -> None: ...

    def many(*ids: int, **more: int) -> None: ...

    cases: list[tuple[str | None, Callable[..., Any], str]] = [
        ("user:{id}", f, r"lang not in 'user:{id}'.*ignore=\('lang',\)"),
        ("user:{id}:{lang}:{x}", f, "names 'x', which is no parameter"),
        ("user:{id:float}:{lang}", f, "there are int, str, path"),
        ("user:{id}{lang}", f, "between two fields"),
        ("user:{id}x{lang}", f, "between two fields"),
        ("user {id}:{lang}", f, "no blanks"),
        ("user:{id:path}:{lang:path}", f, "only one field can be a path"),
        ("user:{}:{lang}", f, "the name of a parameter"),
        ("user:{id", f, "expected '}'"),
        (None, many, "cannot be part of a key"),
    ]
    for template, function, text in cases:
        with pytest.raises(KeyFormatError, match=text):
            KeyTemplate(template, function)
    assert KeyTemplate("user:{id}", f, ignore=("lang",)).key((1, "en"), {}) == "user:1"
    assert KeyTemplate("many", many, ignore=["ids", "more"]).key((1, 2), {}) == "many"
    with pytest.raises(KeyFormatError, match="no parameter"):
        KeyTemplate("user:{id}:{lang}", f, ignore=("session",))


def test_an_argument_of_another_type_is_a_type_error() -> None:
    def f(id: int) -> None: ...

    def g(id: Any) -> None: ...

    for wrong in ("1", True, None, 1.0):
        with pytest.raises(TypeError, match=r"id: .* is no int"):
            key("user:{id}", f, wrong)
    others: list[object] = [[1], {"a": 1}, object(), (1, 2)]
    for other in others:
        with pytest.raises(TypeError, match="cannot be part of a key; allowed are None, bool, int"):
            key("user:{id}", g, other)


def test_long_keys_end_in_a_hash() -> None:
    def f(text: str) -> None: ...

    keys = KeyTemplate("t:{text}", f)
    assert keys.key(("x" * 248,), {}) == "t:" + "x" * 248
    long = {keys.key(("x" * 249 + end,), {}) for end in ("", "a", "b")} | {keys.key(("ü" * 125,), {})}
    assert len(long) == 4
    assert all(text.startswith("t:%h") and len(text) <= LONGEST for text in long)
    assert len(KeyTemplate("t:{text}", f, longest=None).key(("x" * 999,), {})) == 1001


def test_patterns_and_keys_that_are_none() -> None:
    def f(id: int) -> None: ...

    def g(a: str, b: datetime) -> None: ...

    keys = KeyTemplate("user[1]*:{id}", f)
    assert keys.pattern == r"user\[1\]\*:*"
    assert keys.prefix == "user[1]*:"
    assert KeyTemplate("a:{a}:{b}", g).pattern == "a:*:*"
    assert fnmatchcase(KeyTemplate("a:{a}:{b}", g).key(("x", datetime(2026, 1, 2, tzinfo=UTC)), {}), "a:*:*")
    for wrong in ("user[1]*:007", "user[1]*:x", "user[1]*:", "user[1]*:1:2", "user[1]*:-0", "user:1", "user[1]*:+1"):
        with pytest.raises(KeyFormatError, match="no key of"):
            keys.parse(wrong)
    texts = KeyTemplate("t:{a}", g, ignore=("b",))
    assert texts.parse("t:a%3Ab") == ["a:b"]
    for wrong in ("t:a b", "t:%41", "t:%3a", "t:%", "t:%FF"):
        with pytest.raises(KeyFormatError, match="no key of"):
            texts.parse(wrong)


def test_tags_need_not_name_every_parameter() -> None:
    def f(id: int, price: Decimal) -> None: ...

    assert KeyTemplate("product:{id}", f, is_tag=True).key((7, Decimal(1)), {}) == "product:7"
    assert KeyTemplate("products", f, is_tag=True).is_constant
