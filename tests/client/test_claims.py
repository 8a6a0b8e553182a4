"""Which function has which keys: modules that are imported anew, and many functions."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib
import re
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import globalcache
from globalcache.client.claims import Claim, Claims
from globalcache.errors import KeyFormatError
from globalcache.keys import KeyTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEAD = """
    import dataclasses, enum, functools, typing
    from shop_caches import cache
"""
SUPER = """
    class Base:
        def price(self, id): return id
    class Shop(Base):
        @cache.cached("price:{id}", ignore=["self"])
        def price(self, id): return super().price(id) * 2
"""
SQL = """
    class Row(typing.TypedDict):
        id: int
    orders = cache.sql_loader(
        "order:{id:int}", url="sqlite://", query="select 2 as id where 1 in :ids", key="id", rows="all", type=Row
    )
"""
PARTIAL = """
    def scaled(by, id): return id * by
    double = functools.update_wrapper(functools.partial(scaled, 2), scaled)
    price = cache.cached("price:{id}")(double)
"""
CALLED = """
    class Retry:
        def __init__(self, function, tries):
            self.tries, self.caught = tries, (KeyError, Sick)
            functools.update_wrapper(self, function)
        def __call__(self, id): return self.__wrapped__(id) * 2
    class Sick(Exception): pass
    def load(id: int) -> int: return id
    price = cache.cached("price:{id}")(Retry(load, 2))
"""
SLOTTED = """
    class Twice:
        __slots__ = ("function", "by", "__dict__")
        def __init__(self, function):
            self.function, self.by = function, 2
            functools.update_wrapper(self, function, updated=())
            del self.__wrapped__
        def __call__(self, id): return self.function(id) * 2
    @cache.cached("price:{id}")
    @Twice
    def load(id): return id
"""
LRU = """
    @cache.cached("price:{id}")
    @functools.lru_cache(maxsize=2)
    def price(id): return id * 2
"""
ENUM = """
    class Mode(enum.Enum):
        FAST = 2
    @cache.cached("price:{id}", ignore=["mode"])
    def price(id, mode=Mode.FAST): return id
"""
RECORDS = """
    class Point(typing.NamedTuple):
        x: int
    @dataclasses.dataclass(frozen=True)
    class Size:
        x: int
    @cache.cached("price:{id}", ignore=["point", "size"])
    def price(id, point=Point(2), size=Size(2)): return id
"""
ABSENT = """
    class NoRow(Exception): pass
    @cache.cached("outer:{id}")
    @cache.cached("price:{id}", absent=NoRow)
    def price(id): return id * 2
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Return a function that writes the module `shop_prices` and imports it, the second time anew."""
    with globalcache.Cache("memory://") as cache:
        keeper = types.ModuleType("shop_caches")
        vars(keeper)["cache"] = cache
        monkeypatch.setitem(sys.modules, "shop_caches", keeper)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def load(source: str) -> Any:
            (tmp_path / "shop_prices.py").write_text(textwrap.dedent(HEAD) + textwrap.dedent(source))
            importlib.invalidate_caches()
            known = sys.modules.get("shop_prices")
            return importlib.import_module("shop_prices") if known is None else importlib.reload(known)

        yield load
        sys.modules.pop("shop_prices", None)


@pytest.mark.parametrize("source", [SUPER, SQL, PARTIAL, CALLED, SLOTTED, LRU, ENUM, RECORDS, ABSENT])
def test_a_module_that_is_imported_anew_keeps_its_keys(run: Callable[[str], Any], source: str) -> None:
    """The cache stands in another module, so it knows the functions and classes of the first import."""
    claims = run(source).cache.claims
    count = len(claims)
    for lines in (0, 2):
        run("\n" * lines + source)
    assert len(claims) == count


@pytest.mark.parametrize(
    ("source", "former", "other"),
    [
        (SUPER, "super().price(id) * 2", "super().price(id) * 3"),
        (SQL, "id: int", "id: str"),
        (SQL, "select 2", "select 3"),
        (PARTIAL, "(scaled, 2)", "(scaled, 3)"),
        (CALLED, "(load, 2)", "(load, 3)"),
        (CALLED, "(id) * 2", "(id) * 3"),
        (CALLED, "return id", "return -id"),
        (CALLED, "(KeyError, Sick)", "[KeyError, Sick]"),
        (SLOTTED, "function, 2", "function, 3"),
        (LRU, "id * 2", "id * 3"),
        (ENUM, "FAST = 2", "FAST = 3"),
        (RECORDS, "Point(2)", "Point(3)"),
        (RECORDS, "Size(2)", "Size(3)"),
        (ABSENT, "absent=NoRow", "absent=KeyError"),
    ],
)
def test_other_code_under_the_name_is_refused(run: Callable[[str], Any], source: str, former: str, other: str) -> None:
    """It would return what the former code stored."""
    run(source)
    assert former in source
    with pytest.raises(KeyFormatError, match="other code of that name or the same with other variables"):
        run(source.replace(former, other))


def test_the_claim_of_a_module_is_that_of_its_last_import(run: Callable[[str], Any]) -> None:
    """The functions of the first import are let go, with all that they refer to."""
    first = run(ENUM)
    (claim,) = first.cache.claims.near("price:")
    second = run(ENUM)
    (again,) = first.cache.claims.near("price:")
    assert claim.function is not again.function
    assert again.function is second.price.uncached


# Each name in capitals is one thing by which two functions may differ.
PARTS = """
    import enum, functools
    region = REGION
    class Mode(enum.Enum):
        ONLY = MEMBER
    class Base:
        def base(self): return BASE
    class Shop(Base):
        body = BODY
        table = {"x": TABLE}
        def __init__(self): self.made = INIT
        def method(self): return METHOD
        @property
        def prop(self): return PROPERTY
        @staticmethod
        def fixed(given=GIVEN): return given
        def text(self):
            parts = self.base(), self.body, self.table["x"], self.made, self.method(), self.prop, self.fixed()
            return "".join(parts)
    def by(argument):
        def decorate(function):
            @functools.wraps(function)
            def wrapper(id, *args): return wrapper.__wrapped__(id, *args) + argument + wrapper.attribute
            wrapper.attribute = ATTRIBUTE
            return wrapper
        return decorate
    def shown(mode): return mode.value + HELPER
    def made(cell):
        @cache.cached("price:{id}", ignore=["default", "keyword", "kind", "mode"])
        @by(ARGUMENT)
        def price(id, default=DEFAULT, *, keyword=KEYWORD, kind=Shop, mode=Mode.ONLY):
            return CONSTANT + region + cell + default + keyword + kind().text() + shown(mode)
        return price
    price = made(CELL)
"""
NAMES = sorted(set(re.findall(r"[A-Z]{4,}", PARTS)) - {"ONLY"})


def written(**values: str) -> str:
    """Return the source with one region everywhere, apart from what is given."""
    return re.sub("|".join(NAMES), lambda name: repr(values.get(name[0], "eu")), PARTS)


def executed(cache: globalcache.Cache, source: str) -> Any:
    names: dict[str, Any] = {"__name__": "shop", "cache": cache}
    exec(textwrap.dedent(source), names)  # noqa: S102 - that is the case
    return names["price"]


@pytest.mark.parametrize("name", NAMES)
def test_code_executed_twice_is_the_same_if_it_reads_the_same(name: str) -> None:
    """Two functions of one text, whose variables are others, may give different results by any of them."""
    sources = written(), written(**{name: "us"})
    for first, second in (sources, sources[::-1]):
        with globalcache.Cache("memory://") as cache:
            one = executed(cache, first)
            assert executed(cache, first)(1) == one(1)
            with pytest.raises(KeyFormatError, match="other code of that name"):
                executed(cache, second)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"REGION", "HELPER"}])
def test_a_module_imported_anew_with_another_part_is_refused(run: Callable[[str], Any], name: str) -> None:
    """Its variables are the former ones, so what the former function reads there is new as well; all else is not."""
    run(written())
    run(written())
    with pytest.raises(KeyFormatError, match="other code of that name"):
        run(written(**{name: "us"}))


def test_a_module_removed_keeps_its_keys_when_it_is_back(run: Callable[[str], Any]) -> None:
    """Its variables are others then, and may be connections and tables, which are not compared."""
    source = (
        "table = {}\nclass Pool: pass\npool = Pool()\n@cache.cached('price:{id}')\ndef price(id): return table, pool"
    )
    first = run(source)
    del sys.modules["shop_prices"]
    second = run(source)
    assert first is not second
    (claim,) = first.cache.claims.near("price:")
    assert claim.function is second.price.uncached


def test_a_copy_of_the_variables_of_a_module_is_not_the_module() -> None:
    """A program executes code with the variables of a module and one of its own."""
    source = "@cache.cached('price:{id}')\ndef price(id): return REGION"
    for first, second in (("eu", "us"), ("us", "eu")):
        with globalcache.Cache("memory://") as cache:
            exec(source, globals() | {"cache": cache, "REGION": first})  # noqa: S102
            with pytest.raises(KeyFormatError, match="other code of that name"):
                exec(source, globals() | {"cache": cache, "REGION": second})  # noqa: S102


@dataclasses.dataclass(frozen=True)
class Settings:
    """It is compared by its fields, and by what else it has."""

    by: int = 1


class Sizes(tuple[int, ...]):  # noqa: SLOT001 - it is made to have a dictionary
    """It has a dictionary, as tuples have not."""


class Loading:
    """An object that is called, of a class that a factory fits to its region."""

    region: str

    def __call__(self, id: int) -> str:
        return f"{self.region}{id}"


def attached(thing: Any, region: str) -> Any:
    object.__setattr__(thing, "region", region)
    return thing


def traced(function: Callable[[int], str]) -> Any:
    @functools.wraps(function)
    def wrapper(id: int) -> str:
        text: str = wrapper.__wrapped__(id)
        return text

    return wrapper


# Each makes something that a function may use, which is another thing for each region though it has one name.
MAKERS: dict[str, Callable[[str], Any]] = {
    "type": lambda region: type("Region", (), {"region": region}),
    "enum": lambda region: enum.Enum("Region", {"region": region}),
    "dataclass": lambda region: dataclasses.make_dataclass(
        "Region", [("region", str, dataclasses.field(default=region))]
    ),
    "struct": lambda region: msgspec.defstruct("Region", [("region", str, region)]),
    "tuple": lambda region: collections.namedtuple("Region", ["region"], defaults=[region])(),  # noqa: PYI024
    "frozen": lambda region: attached(Settings(), region),
    "sizes": lambda region: attached(Sizes((1,)), region),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_classes_that_a_factory_makes_are_another_each_time(make: Callable[[str], Any]) -> None:
    """Two regions have one function by name and code; each call would return what the first region stored."""

    def decorate(cache: globalcache.Cache, region: str) -> Any:
        used = make(region)

        @cache.cached("price:{id}")
        def price(id: int) -> str:
            return f"{used.region}{id}"

        return price

    def given(cache: globalcache.Cache, region: str) -> Any:
        @cache.cached("price:{id}", ignore=["used"])
        def price(id: int, used: Any = make(region)) -> str:  # noqa: B008 - that is the case
            return f"{used.region}{id}"

        return price

    def held(cache: globalcache.Cache, region: str) -> Any:
        return cache.cached("price:{id}")(functools.update_wrapper(functools.partial(fetch, make(region)), fetch))

    def fetch(used: Any, id: int) -> str:
        return f"{used.region}{id}"

    for way in (decorate, given, held):
        with globalcache.Cache("memory://") as cache:
            way(cache, "eu")
            with pytest.raises(KeyFormatError, match="other code of that name"):
                way(cache, "us")


def test_attributes_and_classes_tell_functions_apart() -> None:
    def by_attribute(region: str) -> Any:
        def price(id: int) -> str:
            return f"{price.region}{id}"  # type: ignore[attr-defined]

        return attached(price, region)

    def by_wrapper(region: str) -> Any:
        def price(id: int) -> str:
            return f"{region}{id}"

        return traced(price)

    def by_class(region: str) -> Any:
        load = type("Loading", (Loading,), {"region": region})()
        load.__qualname__ = "load"
        return load

    for make in (by_attribute, by_wrapper, by_class):
        with globalcache.Cache("memory://") as cache:
            cache.cached("price:{id}")(make("eu"))
            with pytest.raises(KeyFormatError, match="other code of that name"):
                cache.cached("price:{id}")(make("us"))


class Scale(float):
    """A callable object whose value is no attribute."""

    def __call__(self, id: int) -> float:
        return self * id


def test_an_object_that_hides_what_it_holds_is_none_but_itself() -> None:
    with globalcache.Cache("memory://") as cache:
        one, other = Scale(2), Scale(3)
        one.__qualname__ = other.__qualname__ = "scale"  # type: ignore[attr-defined]
        cache.cached("scale:{id}")(one)
        cache.cached("scale:{id}")(one)
        with pytest.raises(KeyFormatError, match="other code of that name"):
            cache.cached("scale:{id}")(other)


def test_a_function_is_compared_with_few_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates that begin or end otherwise have no key in common, and are not read for that."""
    compared: list[str] = []

    def count(self: Claim, other: Claim) -> bool:
        compared.append(other.template)
        return self.keys.meets(self.prefix, other.keys, other.prefix)

    def read(*_: object) -> bool:
        raise AssertionError

    claims, other = Claims(["store"]), Claims(["store"])
    monkeypatch.setattr(Claim, "meets", count)
    for number in range(1000):
        claims.add(Claim("", KeyTemplate(f"f{number:04}:{{id}}", item), item), shared=False)
    other.add(Claim("f0", KeyTemplate("500:{id}", item), item), shared=True)
    assert compared == ["f0500:{id}"]
    monkeypatch.setattr("globalcache.keys.template._meet", read)
    for number in range(100):
        claims.add(Claim("n:", KeyTemplate(f"tenant:{{id}}:{number}", item), item), shared=False)
    assert len(claims) == 1100


def item(id: int) -> int:
    return id


def test_keys_are_compared_as_far_as_both_begin_alike() -> None:
    claims = Claims()
    for template in ("a", "a:{id}", "a:b:{id}", "a:b:{id}:c", "a:c:{id}", "{id}"):
        claims.add(Claim("", KeyTemplate(template, item, ignore=["id"] if template == "a" else ()), item), shared=True)
    near = [claim.template for claim in claims.near("a:b:")]
    assert sorted(near) == ["a", "a:b:{id}", "a:b:{id}:c", "a:{id}", "{id}"]
