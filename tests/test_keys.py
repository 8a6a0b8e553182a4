"""Key templates: two different calls never share an entry, and a key gives back the arguments it was made of."""

from __future__ import annotations

import enum
import functools
import itertools
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path  # noqa: TC003 - of a fixture
from typing import TYPE_CHECKING, Any, NewType, Self
from uuid import UUID
from zoneinfo import ZoneInfo

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


def test_the_receiver_is_in_the_key_by_attribute_or_ignored() -> None:
    one = Repository("a:b")
    assert key("{self.tenant}:user:{id}", Repository.user, one, 1) == "a%3Ab:user:1"
    assert KeyTemplate("user:{id}", Repository.user, ignore=("self",)).key((one, 1), {}) == "user:1"
    for template in ("user:{id}", None, "{self}:{id}"):
        with pytest.raises(KeyFormatError, match=r"self is not in the key.*\{self.id\}, or ignore=\('self',\)"):
            KeyTemplate(template, Repository.user)


class Direction(enum.Flag):
    """Several at once."""

    UP = 1
    LEFT = 2


class Kept(enum.IntFlag):
    """Bits without a name are kept."""

    ONE = 1


@pytest.mark.parametrize("kind", [Direction, Direction | None, Kept, Kept | str])
def test_several_flags_come_back_from_a_key(kind: Any) -> None:
    """A worker that loads a key has to know which flags are meant; none, several, and bits without a name."""

    def f(a: Any) -> None: ...

    f.__annotations__ = {"a": kind}
    keys = KeyTemplate("x:{a}", f)
    flags = [Direction.UP, Direction.UP | Direction.LEFT, Direction(0)]
    flags = flags if "Direction" in str(kind) else [Kept.ONE, Kept.ONE | Kept(4), Kept(0), Kept(8)]  # type: ignore[list-item]
    for flag in flags:
        (again,) = keys.parse(keys.key((flag,), {}))
        assert is_one(again, flag)
    for wrong in ("x:LEFT|UP", "x:1", "x:UP|UP", "x:|"):
        if str not in getattr(kind, "__args__", ()):
            with pytest.raises(KeyFormatError, match="no key of"):
                keys.parse(wrong)


class Nanoseconds(datetime):
    """A time with more digits, as pandas has it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nanoseconds) and super().__eq__(other)

    __hash__ = datetime.__hash__


class Long(str):
    """A text that is equal to none but its own kind."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Long) and super().__eq__(other)

    __hash__ = str.__hash__


def factory(rows: str) -> Callable[..., Any]:
    def load(id: int) -> str:
        return f"{rows} {id}"

    return load


def nested() -> Callable[..., Any]:
    def greet(cls: str) -> str:
        return cls

    return greet


class Child(Repository):
    """A method that calls super() uses a variable of the class around it, which its name tells."""

    def user(self, id: int) -> None:
        super().user(id)


class Callable_:  # noqa: N801 - stands beside the type of that name
    """An object that is called."""

    def __call__(self, id: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda row: row, "a lambda has no name of its own: write a template such as 'name:{row}'"),
        (factory("users"), "it uses rows of the function around it.*: write a template such as 'name:{id}'"),
        (Repository("a").user, "it belongs to an object.*: write a template"),
        (Repository.user, r"self is not in the key.*as {self.id}, or ignore=\('self',\)"),
        (functools.partial(max, 1), "a partial has no name of its own: write a `def`"),
        (Callable_(), "a Callable_ has no name of its own: write a `def`"),
        (staticmethod(nested()), "@staticmethod has to stand above the decorator of the cache"),
        (None, "a NoneType has no name of its own"),
    ],
)
def test_a_function_without_a_name_of_its_own_needs_a_template(function: Any, line: str) -> None:
    with pytest.raises(KeyFormatError, match=line) as caught:
        KeyTemplate(None, function)
    assert "\n" not in str(caught.value)


def test_a_parameter_called_cls_of_no_method_is_in_the_key() -> None:
    """A function within a function has a dot in its name as well, and no receiver."""
    greet = KeyTemplate(None, nested())
    assert {greet.key(("a",), {}), greet.key(("b",), {})} == {f"{__name__}.nested.<locals>.greet:{x}" for x in "ab"}
    with pytest.raises(KeyFormatError, match="cls not in 'hello'"):
        KeyTemplate("hello", nested())
    assert key("{self.tenant}:{id}", Child.user, Repository("x"), 1) == "x:1"


def run_script(path: Path, *, as_module: bool = False) -> str:
    command = [sys.executable, "-m", path.stem] if as_module else [sys.executable, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent)
    return run.stdout.strip()


def test_main_is_called_by_the_name_of_its_script(tmp_path: Path) -> None:
    """Two scripts that share a server both have a function `load` in a module `__main__`."""
    text = "from globalcache.keys import KeyTemplate\ndef load(id): ...\nprint(KeyTemplate(None, load).key((1,), {}))\n"
    for name in ("shop", "depot"):
        (tmp_path / f"{name}.py").write_text(text)
        assert run_script(tmp_path / f"{name}.py") == f"{name}.load:1"
        assert run_script(tmp_path / f"{name}.py", as_module=True) == f"{name}.load:1"


def test_what_was_typed_into_a_shell_needs_a_template() -> None:
    """Whatever is defined there may be defined anew, and differently, in another shell."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def load(id): ...", "<stdin>", "exec"), scope)  # noqa: S102 - as a shell does
    with pytest.raises(KeyFormatError, match="shell or notebook"):
        KeyTemplate(None, scope["load"])
    assert KeyTemplate("load:{id}", scope["load"]).key((1,), {}) == "load:1"


@pytest.mark.parametrize(
    ("one", "other", "does"),
    [
        ("user:{a}", "user:{b}", True),
        ("user:{a}", "user:me", True),
        ("user:{a:int}", "user:me", False),
        ("user:{a}", "user:{a}:posts", False),
        ("user:{a:path}", "user:{a}:posts", True),
        ("{a}:posts", "user:{b}", True),
        ("user:{a}", "users:{a}", False),
        ("{a}-{b}", "x-{a}", True),
        ("a-{a}-{b}", "a-x-y-{a}", False),
        ("page:{a}/{b}", "page:x/{a}", True),
        ("", "x", False),
        ("x", "x", True),
    ],
)
def test_templates_that_have_a_key_in_common(one: str, other: str, *, does: bool) -> None:
    def f(a: str = "", b: str = "") -> None: ...

    first, second = (KeyTemplate(text, f, is_tag=True) for text in (one, other))
    assert first.meets("", second, "") is second.meets("", first, "") is does
    assert first.meets("ns:", second, "ns:") is does
    assert not first.meets("ns:", second, "sn:")


@given(a=simple, b=simple)
def test_templates_with_one_key_for_two_calls_meet(a: Any, b: Any) -> None:
    def f(a: Any = "", b: Any = "") -> None: ...

    paths = ("x:{a:path}", "{a:path}:1") if isinstance(a, str) and isinstance(b, str) else ()
    texts = ("x:{a}", "x:{a}:{b}", "x:None", "{a}:1", "{a}:{b}", "{b}:{a}", *paths)
    templates = [KeyTemplate(text, f, is_tag=True) for text in texts]
    for one, other in itertools.product(templates, templates):
        if one.key((a, b), {}) == other.key((b, a), {}):
            assert one.meets("", other, "")


def test_times_that_differ_in_their_zone_or_hour_only() -> None:
    """In Berlin half past two comes twice that day; and the day after is not 24 hours later everywhere."""

    def f(at: datetime) -> None: ...

    template, berlin = KeyTemplate("at:{at}", f), ZoneInfo("Europe/Berlin")
    twice = datetime(2024, 10, 27, 2, 30)  # noqa: DTZ001
    times = [zoned.replace(fold=fold) for zoned in (twice, twice.replace(tzinfo=berlin)) for fold in (0, 1)]
    times += [time.replace(tzinfo=timezone(timedelta(hours=hours))) for time, hours in ((twice, 1), (twice, 2))]
    times += [twice.replace(tzinfo=UTC), twice.replace(tzinfo=ZoneInfo("UTC"))]
    keys = [template.key((time,), {}) for time in times]
    assert len(set(keys)) == len(times)
    assert "at:2024-10-27T02%3A30%3A00+01%3A00[Europe/Berlin]" in keys
    for key_of, time in zip(keys, times, strict=True):
        (again,) = template.parse(key_of)
        assert (again, again.fold, str(again.tzinfo)) == (time, time.fold, str(time.tzinfo))


class Safe(str):
    """A text that is marked as HTML, which functions look at."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


class Noted(str):  # noqa: SLOT000
    """A text to which more can be attached."""


class Sku(str):
    """A text that is checked when it is made."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls, text.upper())

    @classmethod
    def parse(cls, text: str) -> Sku:
        return cls(text)


noted = Noted("a")
noted.lang = "de"  # type: ignore[attr-defined]


def test_a_subclass_that_adds_nothing_is_its_base() -> None:
    def f(a: Any) -> None: ...

    assert [key("x:{a}", f, value) for value in (Sku("a"), Sku.parse("b"), Noted("c"))] == ["x:A", "x:B", "x:c"]


@pytest.mark.parametrize(
    "value",
    [Nanoseconds(2024, 1, 1), Long("a"), Safe("a"), noted],
    ids=["time", "text", "html", "with attributes"],
)
def test_a_subclass_that_is_more_than_its_text_is_refused(value: Any) -> None:
    def f(a: Any) -> None: ...

    with pytest.raises(TypeError, match=r"is more than the .* that would stand in the key"):
        key("x:{a}", f, value)


class Zone(tzinfo):
    """A zone of some library: with an offset that depends on the date, or with a name of its own."""

    def __init__(self, hours: int, name: str, *, is_fixed: bool) -> None:
        self._offset, self._name, self._is_fixed = timedelta(hours=hours), name, is_fixed

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return self._offset if self._is_fixed or at is not None else None

    def tzname(self, at: datetime | None) -> str:
        return self._name

    def dst(self, at: datetime | None) -> None: ...


def test_a_zone_that_is_not_told_by_its_offset_is_refused() -> None:
    """Two zones that have one offset in winter may have two in summer, and a function may look at that."""

    def f(at: datetime) -> None: ...

    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    zones = [Zone(1, "Paris", is_fixed=False), Zone(1, "CET", is_fixed=True), timezone(timedelta(hours=1), "CET")]
    for zone in zones:
        with pytest.raises(TypeError, match=r"at: the zone of .* is a .*, which its offset does not tell: take zone"):
            key("x:{at}", f, noon.replace(tzinfo=zone))
    assert key("x:{at}", f, noon.replace(tzinfo=Zone(0, "UTC", is_fixed=True))) == key("x:{at}", f, noon)


def test_arguments_are_those_of_the_outer_decorator() -> None:
    """Its default is the one that a call without the argument has; one that is also named within is refused."""

    def price(id: int, cur: str = "EUR") -> str:
        return f"{id} {cur}"

    @functools.wraps(price)
    def in_dollars(id: int, cur: str = "USD") -> str:
        return price(id, cur)

    @functools.wraps(price)
    def handed_on(*args: Any, **kwargs: Any) -> str:
        return price(*args, **kwargs)

    @functools.wraps(in_dollars)
    def over_dollars(*args: Any, **kwargs: Any) -> str:
        return in_dollars(*args, **kwargs)

    @functools.wraps(price)
    def partly(id: int, cur: str = "USD", *args: Any, **kwargs: Any) -> str:
        return price(id, cur, *args, **kwargs)

    @functools.wraps(price)
    def swapped(cur: str, id: int) -> str:
        return price(id, cur)

    template = "p:{id}:{cur}"
    assert (key(template, price, 1), key(template, handed_on, 1)) == ("p:1:EUR", "p:1:EUR")
    assert (key(template, in_dollars, 1), key(template, over_dollars, 1)) == ("p:1:USD", "p:1:USD")
    assert key(template, swapped, "EUR", 1) == "p:1:EUR"
    with pytest.raises(KeyFormatError, match="cur has another default in the decorator around it"):
        KeyTemplate(template, partly)


def test_a_bound_method_that_is_decorated_has_no_receiver() -> None:
    class Shop:
        def plain(self, id: int) -> None: ...

        @functools.wraps(plain)
        def wrapped(self, *args: Any) -> None:
            self.plain(*args)

    assert key("x:{id}", Shop().wrapped, 1) == key("x:{id}", Shop().plain, 1) == "x:1"
    for method in (Shop().wrapped, Shop().plain):
        with pytest.raises(KeyFormatError, match="it belongs to an object"):
            KeyTemplate(None, method)


def test_a_whole_number_is_the_float_that_is_annotated() -> None:
    def f(a: float, b: float | None = None) -> None: ...

    keys = KeyTemplate("x:{a}:{b}", f)
    assert keys.key((1, 2), {}) == keys.key((1.0,), {"b": 2.0}) == "x:1.0:2.0"
    assert [type(value) for value in keys.as_written((1,), {"b": 2})[0]] == [float, float]
    assert [type(value) for value in keys.as_written((1,), {"b": None})[0]] == [float, type(None)]
    for number in (2**53 + 1, 10**400):
        with pytest.raises(TypeError, match=r"a: .* is no float"):
            keys.key((number,), {})


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
