"""Which function has which keys: modules that are imported anew, and many functions."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import functools
import gc
import importlib
import re
import subprocess
import sys
import textwrap
import threading
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
    assert second.price(1) == 1
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


REMOVED = """
    import itertools, logging, os
    region = os.environ["REGION"]
    state, settings, log = {}, {"region": None}, logging.getLogger(__name__)
    class Pool: pass
    pool = Pool()
    @cache.cached("price:{id}")
    def price(id):
        log.info("%s", pool)
        return [region, settings["region"], state.get(id), later(id)]
    def later(id): return price(id - 1) if id else prices[id]
    prices = [1]
"""


def test_a_module_removed_keeps_its_keys_when_it_is_back(
    run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its variables are others then, and are compared when a function is called: later ones are not set before."""
    monkeypatch.setenv("REGION", "eu")
    first = run(REMOVED)
    del sys.modules["shop_prices"]
    second = run(REMOVED)
    assert first is not second
    assert second.price(1) == first.price(1) == ["eu", None, None, ["eu", None, None, 1]]
    (claim,) = first.cache.claims.near("price:")
    assert claim.function is first.price.uncached  # that was called last


def test_a_module_imported_twice_for_two_regions_is_refused(
    run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in use, as by a plug-in loader; each would return what the other stored."""
    monkeypatch.setenv("REGION", "eu")
    first = run(REMOVED)
    del sys.modules["shop_prices"]
    monkeypatch.setenv("REGION", "us")
    with pytest.raises(KeyFormatError, match="other code of that name or the same with other variables"):
        run(REMOVED)
    sys.modules.pop("shop_prices", None)
    monkeypatch.setenv("REGION", "eu")
    second = run(REMOVED)
    first.settings["region"], second.settings["region"] = "eu", "us"
    assert second.price(0)[1] == "us"
    with pytest.raises(KeyFormatError, match="other code of that name or the same with other variables"):
        first.price(0)


def test_what_cannot_be_seen_is_another_once_both_are_called(run: Callable[[str], Any]) -> None:
    """Nobody can tell which database a connection reads."""
    source = """
        import sqlite3
        db = sqlite3.connect(":memory:")
        @cache.cached("price:{id}")
        def price(id): return db.execute("select 1").fetchone()[0]
    """
    first = run(source)
    del sys.modules["shop_prices"]
    second = run(source)
    assert second.price(1) == 1
    with pytest.raises(KeyFormatError, match="other code of that name"):
        first.price(1)
    assert first.price.uncached(1) == second.price(1) == 1


SCRIPT = """
    import importlib, logging, os, sys
    import msgspec, sqlalchemy
    from globalcache import Cache

    cache = Cache("memory://shop")
    log = logging.getLogger(__name__)
    engine = sqlalchemy.create_engine("sqlite://")
    engine.connect().close()
    names = {}

    class Row(msgspec.Struct):
        id: int

    @cache.cached("row:{id}")
    def row(id: int) -> Row:
        log.info("load %s", names)
        with engine.connect() as connection:
            return made(connection.scalar(sqlalchemy.text("select 1")) + id)

    @cache.cached("same:{n}")
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    def made(id: int) -> Row:
        return Row(id)

    if __name__ == "__main__":
        names["app"] = 1
        sys.path.append(sys.argv[1])
        module = importlib.import_module(sys.argv[2])
        assert vars(module) is not globals()
        print(module.row(1), module.row(1), module.factorial(4), factorial(4))
        row(1)
"""


@pytest.mark.parametrize("name", ["shop", "package.shop"])
def test_a_script_may_be_a_module_too(tmp_path: Path, name: str) -> None:
    """It has two of each function, as under uvicorn.run("shop:app"), and calls those of the module."""
    path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(SCRIPT))
    words = [sys.executable, str(path), str(tmp_path), name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "Row(id=2) Row(id=2) 24 24\n"
    assert "KeyFormatError: shop.row: keys of 'row:{id}' can be those of" in done.stderr.splitlines()[-1]


TABLES = {"eu": {1: "tea"}, "us": {1: "coffee"}}


def create_app(region: str, url: str = "memory://app", *, shared: bool = False, namespace: str | None = None) -> Any:
    """Make a small application: a cache and functions that use each other, one of them further down."""
    cache = globalcache.Cache(url, namespace=namespace)
    find = TABLES[region].get

    @cache.cached("row:{n}", shared=shared)
    def row(n: int) -> str:
        return cache.get(f"override:{n}") or look_up(n) or row(n - 1)

    @cache.cached("page:{n}", shared=shared)
    def page(n: int) -> str:
        return f"<{row(n)}>"

    def look_up(n: int) -> str | None:
        return find(n)

    return row, page


def test_two_applications_of_a_factory_share_no_keys() -> None:
    """Each has a cache of its own to one store, and would return what the other stored."""
    eu = create_app("eu")
    again = create_app("eu")
    assert [again[0](2), eu[0](2), again[1](1), eu[1](1)] == ["tea", "tea", "<tea>", "<tea>"]
    us = create_app("us")
    with pytest.raises(KeyFormatError, match=r"other code of that name .* take another template, or shared=True"):
        us[0](1)  # look_up was not set before
    assert create_app("us", namespace="us")[1](1) == "<coffee>"
    assert create_app("us", "memory://other")[1](1) == "<coffee>"
    assert create_app("us", shared=True)[1](1) == "<tea>"  # it says that both return the same


def test_variables_of_a_factory_tell_its_functions_apart() -> None:
    def create(rows: Any, start: int = 0) -> Any:
        cache = globalcache.Cache("memory://factory")

        @cache.cached("row:{n}", ignore=["start"])
        def row(n: int, start: int = start) -> Any:
            return [rows[n], start]

        return row

    kept = create(TABLES["eu"]), create(TABLES["eu"])
    for rows, start in ((TABLES["us"], 0), (dict(TABLES["eu"]), 0), (TABLES["eu"], 1)):
        with pytest.raises(KeyFormatError, match="the same with other variables"):
            create(rows, start)
    del kept
    assert create(dict(TABLES["us"]))(1) == ["coffee", 0]


def test_an_application_that_is_gone_has_no_keys() -> None:
    """Tests make one each, with an engine of its own that nobody can look into."""

    def create() -> Any:
        cache = globalcache.Cache("memory://gone")
        engine = object()

        @cache.cached("row:{n}")
        def row(n: int) -> str:
            return str(engine)[:7] if n else row(n - 1)

        return row

    for _ in range(3):
        assert create()(1) == "<object"
    kept = create()
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        create()
    assert kept(1) == "<object"


def test_of_two_functions_called_at_once_one_is_refused() -> None:
    """Each is noted before it is compared: one finds the other."""
    made = [create_app(region, "memory://at-once") for region in ("eu", "us")]
    given: list[str] = []

    def call(row: Any) -> None:
        with contextlib.suppress(KeyFormatError):
            given.append(row(1))

    threads = [threading.Thread(target=call, args=(row,)) for row, _ in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) <= 1


def test_a_shared_function_takes_no_keys_from_another() -> None:
    """It may be called first, and says that it returns the same."""

    def plain(n: int) -> int:
        return n

    functions: list[tuple[str, Any]] = [("n:{n}", lambda n: n + 0), ("{m}:{n}", lambda n, m="n": n)]  # noqa: ARG005
    for template, function in functions:
        cache = globalcache.Cache("memory://")
        one = cache.cached("n:{n}")(plain)
        other = cache.cached(template, shared=True)(function)
        assert (other(1), one(1), one(2), other(2)) == (1, 1, 2, 2)
        assert cache.cached("n:{n}")(plain)(3) == 3


def later(cache: globalcache.Cache, start: str) -> Any:
    """Return a cached function whose variable is set by another one."""
    region = start

    @cache.cached("later:{n}")
    def row(n: int) -> str:
        return region + str(n)

    def set_region(name: str) -> None:
        nonlocal region
        region = name

    return row, set_region


class Region:
    """A callable object whose attribute may be set after it was decorated."""

    def __init__(self) -> None:
        self.name = self.__qualname__ = "eu"

    def __call__(self, n: int) -> str:
        return f"{self.name}{n}"


def test_a_variable_may_be_set_between_decoration_and_call() -> None:
    cache = globalcache.Cache("memory://")
    one, other = Region(), Region()
    first, second = (cache.cached("region:{n}")(each) for each in (one, other))
    other.name = "us"
    assert first(1) == "eu1"
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        second(1)
    eu, _ = later(cache, "eu")
    assert eu(1) == "eu1"
    us, set_region = later(cache, "eu")
    set_region("us")
    for _ in range(2):
        with pytest.raises(KeyFormatError, match="the same with other variables"):
            us(1)
    set_region("eu")
    assert us(1) == "eu1"


def test_a_function_in_the_place_of_a_called_one_is_compared_too() -> None:
    cache, elsewhere = globalcache.Cache("memory://place"), globalcache.Cache("memory://place")

    def program(cache: globalcache.Cache, region: str) -> Any:
        names: dict[str, Any] = {"__name__": "program"}
        exec("def row(n): return region + str(n)", names)  # noqa: S102 - that is the case
        cached = cache.cached("place:{n}")(names["row"])
        names["region"] = region
        return cached

    eu = program(cache, "eu")
    assert eu(1) == "eu1"
    assert cache.cached("place:{n}")(eu.uncached)(1) == "eu1"
    us = program(elsewhere, "us")
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        us(1)


def test_a_function_whose_call_was_refused_holds_up_no_other() -> None:
    caches = [globalcache.Cache("memory://refused") for _ in range(3)]
    eu, us, again = (later(cache, "eu") for cache in caches)
    us[1]("us")
    assert eu[0](1) == "eu1"
    for use in (us[0], us[0].refresh, lambda n: us[0].set("us", n)):
        with pytest.raises(KeyFormatError, match="the same with other variables"):
            use(1)
    del eu, caches[0]
    gc.collect()
    assert again[0](1) == "eu1"
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        us[0](1)


def test_a_batch_loader_is_compared_when_it_is_called() -> None:
    def make(region: str) -> Any:
        cache = globalcache.Cache("memory://batches")

        @cache.batch_loader("batch:{id:int}")
        def rows(ids: list[int]) -> dict[int, str]:
            return {number: name() for number in ids}

        def name() -> str:
            return region

        return rows

    eu, us = make("eu"), make("us")
    assert eu([1]) == {1: "eu"}
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        us([1])
    with pytest.raises(KeyFormatError, match="the same with other variables"):
        us.set("us", 1)


def test_functions_with_other_exceptions_are_two() -> None:
    """One would return None where it raises an exception, because the other stored that there is no row."""

    def row(n: int) -> int:
        raise KeyError(n)

    with globalcache.Cache("memory://") as cache:
        cache.cached("row:{n}", absent=[KeyError])(row)
        with pytest.raises(KeyFormatError, match="can be those of"):
            cache.cached("row:{n}")(row)


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
        claims.add(Claim("", KeyTemplate(f"f{number:04}:{{id}}", item), item))
    other.add(Claim("f0", KeyTemplate("500:{id}", item), item))
    assert compared == ["f0500:{id}"]
    monkeypatch.setattr("globalcache.keys.template._meet", read)
    for number in range(100):
        claims.add(Claim("n:", KeyTemplate(f"tenant:{{id}}:{number}", item), item))
    assert len(claims) == 1100


def item(id: int) -> int:
    return id


def test_keys_are_compared_as_far_as_both_begin_alike() -> None:
    claims = Claims()
    for template in ("a", "a:{id}", "a:b:{id}", "a:b:{id}:c", "a:c:{id}", "{id}"):
        claims.add(
            Claim("", KeyTemplate(template, item, ignore=["id"] if template == "a" else ()), item, is_shared=True)
        )
    near = [claim.template for claim in claims.near("a:b:")]
    assert sorted(near) == ["a", "a:b:{id}", "a:b:{id}:c", "a:{id}", "{id}"]
