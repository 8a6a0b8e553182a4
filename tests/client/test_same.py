"""Which functions are the same."""

from __future__ import annotations

import builtins
import dataclasses
import datetime as dt
import functools
import itertools
import logging
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.client.same import Comparison, Made
from globalcache.errors import KeyFormatError
from tests.client.dict_cache import Cache
from tests.client.drawn_functions import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def is_same(one: Any, other: Any, made: Made = Made.ANEW) -> bool:
    return Comparison(is_final=True).same(one, other, made)


def item_of(cache: Cache, store: Any) -> Any:
    @cache.cached("item:{id}")
    def item(id: int) -> Any:
        return store(id) if callable(store) else store[id]

    return item


class Shop:
    """An object with cached and decorated methods."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def plain(self, id: int) -> int:
        return self.factor * id

    @functools.wraps(plain)
    def wrapped(self, *args: Any) -> int:
        return self.plain(*args)

    cached = Cache().cached("price:{self.factor}:{id}")(plain)


class Scaled:
    """A callable object that looks like the function that it calls."""

    def __init__(self, function: Callable[[int], int], by: int) -> None:
        self.function, self.by = function, by
        functools.update_wrapper(self, function)

    def __call__(self, id: int) -> int:
        return self.function(id) * self.by


def rows(id: int) -> int:
    return id


SHOP, BATCHES = Shop(3), Cache()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: 1}, {1: 1}),
        ([0, 1], [0, 1]),
        (([1],), ([1],)),
        (Shop(1).cached, Shop(2).cached),
        (Shop(1).cached, Shop(1).cached),
        (Shop(1).wrapped, Shop(1).wrapped),
        (Shop(1).plain, Shop(2).plain),
        (Scaled(rows, 1), Scaled(rows, 2)),
        ((0.0, 0.0), (0.0, -0.0)),
        ((0, 1), (0, True)),
        (Cache().cached("a:{id}")(rows), Cache().cached("b:{id}")(rows)),
    ],
)
def test_functions_around_different_objects_differ(one: Any, other: Any) -> None:
    """Objects that are equal at decoration may differ at the call, and methods belong to their objects."""
    cache = Cache()
    item_of(cache, one)
    item_of(cache, one)
    with pytest.raises(KeyFormatError, match="other code of that name or the same with other variables"):
        item_of(cache, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (1, "a", 0.5, frozenset({2}), None, slice(1, 2), range(3)),
        lambda: SHOP.cached,
        lambda: SHOP.wrapped,
        lambda: BATCHES.cached("a:{id}")(rows),
        lambda: lambda: lambda row: row,
    ],
)
def test_functions_around_the_same_values_are_the_same(make: Callable[[], Any]) -> None:
    """As when a module is imported twice, or a function is decorated within another one."""
    cache = Cache()
    item_of(cache, make())
    item_of(cache, make())
    assert len(cache.claims) == 1


def test_defaults_that_can_differ_are_not_the_same() -> None:
    def make(start: Any) -> Callable[..., Any]:
        def item(id: int, *, start: Any = start) -> Any:
            return id, start

        return item

    cache = Cache()
    for _ in range(2):
        cache.cached("item:{id}", ignore=["start"])(make(0.0))
    others: list[Any] = [-0.0, [], 0]
    for start in others:
        with pytest.raises(KeyFormatError, match="other code of that name"):
            cache.cached("item:{id}", ignore=["start"])(make(start))


def test_a_method_named_like_an_outer_variable_is_compared() -> None:
    """Only a local function can be its own variable; within a class the name means what is around the class."""

    def shop(price: int) -> Any:
        class Shop:
            def price(self) -> int:
                return price

        return Shop.price

    cache = Cache()
    cache.cached("price", ignore=["self"])(shop(1))
    with pytest.raises(KeyFormatError, match="other code of that name"):
        cache.cached("price", ignore=["self"])(shop(2))


HEAD = """
import abc, collections, dataclasses, datetime, enum, functools, itertools, threading, types, typing, weakref
"""


def made(source: str, name: str = "thing", names: dict[str, Any] | None = None, **given: Any) -> Any:
    """Return what a program makes under a name."""
    names = {"__name__": "made"} if names is None else names
    names |= given
    program = compile(textwrap.dedent(source), "<made>", "exec", dont_inherit=True)
    exec(HEAD, names)  # noqa: S102 - that is the case
    exec(program, names)  # noqa: S102
    return names[name]


@pytest.mark.parametrize(
    "source",
    [
        "class thing: pass",
        "class thing(abc.ABC):\n @abc.abstractmethod\n def f(self): ...",
        "class thing(typing.Protocol):\n def f(self) -> int: ...",
        "T = typing.TypeVar('T')\nclass thing(typing.Generic[T]):\n def f(self, a: T) -> T: ...",
        "class thing(typing.TypedDict, total=False):\n a: typing.Required[int]\n b: 'str'",
        "class thing(typing.NamedTuple):\n a: int\n b: list = [1]",
        "thing = collections.namedtuple('thing', 'a b', defaults=[1])",
        "class thing(enum.Enum):\n A = enum.auto()\n B = 1\n C = {1: 2}",
        "class thing(enum.IntFlag):\n A = 1\n B = 2\n AB = 3",
        "class thing(enum.StrEnum):\n A = enum.auto()",
        (
            "@dataclasses.dataclass\nclass thing:\n a: int = 1\n b: list = dataclasses.field(default_factory=list)\n"
            " c: object = object"
        ),
        "@dataclasses.dataclass(frozen=True, slots=True, order=True)\nclass thing:\n a: int\n b: str = ''",
        "@functools.total_ordering\nclass thing:\n def __lt__(self, o): ...\n def __eq__(self, o): ...",
        "class thing:\n __slots__ = ['a', 'b']\n __hash__ = None\n __match_args__ = ('a',)",
        "@dataclasses.dataclass\nclass thing: a: object = object()",
        "class thing:\n a = {0, 8} if 'thing' in vars() else {8, 0}",
        "import msgspec\ndef thing(a: typing.Annotated[int, msgspec.Meta(ge=0)]): ...",
        "def thing(a: collections.abc.Callable[[int], str]) -> typing.Callable[[int], list[str] | None]: ...",
        "class thing:\n lock, local, table = threading.Lock(), threading.local(), {'x': [1, {2}]}",
        (
            "class thing:\n a = functools.cached_property(lambda self: 1)\n b = functools.partialmethod(print, 1)\n"
            " c = functools.singledispatchmethod(lambda self, a: a)"
        ),
        "class meta(type):\n def __call__(cls): ...\nclass thing(metaclass=meta): pass",
        "class thing(Exception):\n def __init__(self, a): super().__init__(a)",
        "class thing(dict): pass\nthing.one = thing()",
        "thing = typing.NewType('thing', int)",
        (
            "import msgspec\nclass thing(msgspec.Struct, frozen=True, tag=True):\n a: int = 1\n"
            " b: list = msgspec.field(default_factory=lambda: [1])"
        ),
        (
            "import attrs\n@attrs.define\nclass thing:\n a: int = attrs.field(default=1, converter=int)\n"
            " b: list = attrs.field(factory=list, validator=attrs.validators.instance_of(list))"
        ),
        "import attrs\n@attrs.frozen\nclass thing:\n a: int = 1",
        (
            "import pydantic\nclass thing(pydantic.BaseModel):\n model_config = pydantic.ConfigDict(extra='forbid')\n"
            " a: typing.Annotated[int, pydantic.Field(ge=0)] = 1\n b: list = pydantic.Field(default_factory=list)\n"
            " c: 'thing | None' = None\n @pydantic.field_validator('a')\n @classmethod\n def f(cls, v): return v"
        ),
    ],
)
def test_a_class_that_was_made_once_more_is_the_same(source: str) -> None:
    """Whatever Python and libraries add to it, also when it is used."""
    pytest.importorskip("attrs")
    pytest.importorskip("pydantic")
    sys.modules.setdefault("made", types.ModuleType("made"))
    one, other = made(source), made(source)
    assert one is not other
    assert is_same(one, other)
    assert is_same(other, one, Made.AGAIN)
    hash(one)  # and what pickle notes
    if one.__module__ == "made" and isinstance(one, type) and issubclass(one, Exception):
        one(1).__reduce_ex__(4)
    assert is_same(one, other)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # Each is a program with a value in `v`, and what it gives for "eu"
        ("class C: __call__ = functools.partial(str, v)\ndef thing(): return C()()", "eu"),
        ("class C: __iter__ = property(lambda self, a=v: lambda: iter([a]))\ndef thing(): return [*C()][0]", "eu"),
        ("class C: __getattr__ = staticmethod(lambda name, a=v: a)\ndef thing(): return C().any", "eu"),
        ("class C: __tablename__ = v\ndef thing(): return C.__tablename__", "eu"),
        ("class C: __table__ = {'x': v}\ndef thing(): return C.__table__['x']", "eu"),
        ("class C(enum.Enum):\n A = 1\n def __str__(self, a=v): return a\ndef thing(): return str(C.A)", "eu"),
        (
            (
                "@dataclasses.dataclass\nclass C: a: str = dataclasses.field(default_factory=lambda b=v: b)\n"
                "def thing(): return C().a"
            ),
            "eu",
        ),
        (
            (
                "class C:\n def __eq__(self, o): return True\n def __init__(self, a): self.a = a\nclass D: x = C(v)\n"
                "def thing(): return D.x.a"
            ),
            "eu",
        ),
        ("class C: table = {'x': [True if v == 'eu' else 1]}\ndef thing(): return str(C.table['x'][0])", "True"),
        ("class P(property): pass\nclass C: a = P()\nC.a.region = v\ndef thing(): return C.a.region", "eu"),
        ("class P(functools.partial): __slots__ = ('a',)\np = P(str)\np.a = v\ndef thing(): return p.a", "eu"),
        ("class D(datetime.datetime): pass\nd = D(2020, 1, 1)\nd.a = v\ndef thing(): return d.a", "eu"),
        ("def thing(): return thing.__doc__\nthing.__doc__ = v", "eu"),
        ("def thing(a: v = 1): return thing.__annotations__['a']", "eu"),
        ("def thing(): return globals()['v']", "eu"),
        ("def thing(): return eval('v')", "eu"),
        ("x = iter([v])\ndef thing(): return x.__reduce__()[1][0][0]", "eu"),
        (
            (
                "class M(type):\n def __getattr__(cls, name, a=v): return a\nclass C(metaclass=M): pass\n"
                "def thing(): return C.any"
            ),
            "eu",
        ),
        (
            (
                "class C(str, enum.Enum):\n A = 1\n def __new__(cls, a):\n  self = str.__new__(cls, v)\n"
                "  self._value_ = a\n  return self\nv = None\ndef thing(): return C.A[:]"
            ),
            "eu",
        ),
        (
            (
                "class T(tuple):\n def __iter__(self): return iter(())\nclass C:\n def __init__(self, a): self.a = a\n"
                " def __repr__(self): return ''\nx, s = T([v]), slice(C(v))\ndef thing(): return x[0]"
            ),
            "eu",
        ),
        ("class C:\n def __reduce__(self): return 'x'\nx = C()\nx.a = v\ndef thing(): return x.a", "eu"),
        ("class C: 'of a region'\nC.__doc__ = v\ndef thing(): return C.__doc__", "eu"),
        ("class F(frozenset): pass\nx = F([1])\nx.a = v\ndef thing(): return x.a", "eu"),
        ("b = functools.lru_cache(lambda a=v: a)\ndel b.__wrapped__\ndef thing(): return b()", "eu"),
    ],
)
def test_functions_that_give_something_else_are_two(source: str, expected: str) -> None:
    one, other = made(source, v="eu"), made(source, v="us")
    assert one() == expected != other()
    assert not is_same(one, other)
    assert not is_same(one, other, Made.AGAIN)


@dataclasses.dataclass(eq=False)
class Region:
    """An object that is none but itself, in a place of its own in sets."""

    name: str
    place: int

    def __hash__(self) -> int:
        return self.place


@dataclasses.dataclass
class Limits:
    """What a library puts into annotations."""

    least: int


def test_what_is_the_same_in_a_set_may_differ_elsewhere() -> None:
    """A set has no order, so what differs from one element may be the other."""
    one, other = (Region("eu", 0), Region("us", 1)), (Region("us", 1), Region("eu", 0))
    assert is_same(set(one), set(other), Made.AGAIN)
    one, other = (Region("eu", 0), Region("us", 0)), (Region("us", 0), Region("eu", 0))
    assert is_same(set(one), set(other), Made.AGAIN)
    assert not is_same((set(one), one[0]), (set(other), other[0]), Made.AGAIN)
    assert is_same((set(one), one[0]), (set(other), other[1]), Made.AGAIN)


def test_annotations_of_a_library_are_the_same_if_they_say_so() -> None:
    source = "def thing(a: typing.Annotated[int, Limits(v)]): ..."
    one, other, again = (made(source, v=v, Limits=Limits) for v in (1, 2, 1))
    assert not is_same(one, other)
    assert is_same(one, again)


def test_a_script_has_another_name_than_its_module() -> None:
    source = """
        def fetch(a): ...
        thing = functools.update_wrapper(functools.partial(fetch, 1), fetch)
    """
    assert is_same(made(source), made(source, __name__="__main__"))


def test_what_lies_too_deep_is_not_the_same() -> None:
    def nested() -> Any:
        items: Any = ()
        for _ in range(5000):
            items = (items,)
        return lambda: items

    assert not Comparison(is_final=True).holds(nested(), nested())


def test_what_a_reader_of_logs_sees_is_no_result() -> None:
    assert is_same(logging.getLogger("a"), logging.getLogger("b"))


def test_a_class_of_another_module_is_another() -> None:
    source = "class thing: pass"
    assert not is_same(made(source), made(source, __name__="other"))


def test_variables_that_one_function_lacks_differ_at_the_call() -> None:
    source = "def thing(): return region"
    one, other = made(source, region="eu"), made(source)
    assert Comparison(is_final=False).same(one, other)
    assert not is_same(one, other)
    assert not is_same(other, one)
    assert is_same(other, made(source))


def test_what_is_set_later_differs_when_it_is_called() -> None:
    """A variable of a file that is executed again is None until then, or an object without attributes."""
    for source, later in (
        ("region = None\ndef thing(): return region", "region = 'eu'"),
        ("class C: pass\ndef thing(): return C.region", "C.region = 'eu'"),
        ("table = {}\ndef thing(): return table['x']", "table['x'] = 'eu'"),
    ):
        one, other = (made(source, __file__="made.py") for _ in range(2))
        exec(later, one.__globals__)  # noqa: S102 - that is the case
        assert Comparison(is_final=False).same(one, other)
        assert not is_same(one, other)
        exec(later, other.__globals__)  # noqa: S102
        assert is_same(one, other)


def test_members_of_an_enum_are_what_their_class_is() -> None:
    source = "class Mode(enum.Enum): A = {'x': v}\nthing = Mode.A"
    assert is_same(made(source, v=1), made(source, v=1))
    assert not is_same(made(source, v=1), made(source, v=2))


def test_what_a_library_was_given_is_made_once_more() -> None:
    """Its own code is the same, but the function and the class that it was given are not."""

    def retried(on: Any) -> Callable[[Any], Any]:
        return lambda function: lambda: (function(), on.region)

    source = "class Sick(Exception): region = v\n@retried(on=Sick)\ndef thing(): ..."
    assert is_same(made(source, retried=retried, v=1), made(source, retried=retried, v=1))
    assert not is_same(made(source, retried=retried, v=1), made(source, retried=retried, v=2))


def test_a_class_that_a_factory_makes_is_another_each_time() -> None:
    """What can change in it may differ later."""

    def make() -> Any:
        region = type("Region", (), {"table": {}})
        return functools.partial(print, rows, region), lambda: region

    for one, other in zip(make(), make(), strict=True):
        assert not is_same(one, other)


def test_annotations_that_are_written_as_text_are_compared() -> None:
    source = """
        from __future__ import annotations
        class Inner: region = v
        def thing(a: Inner = 1): return typing.get_type_hints(thing)["a"].region
    """
    one, other = made(source, v="eu"), made(source, v="us")
    assert one() == "eu" != other()
    assert not is_same(one, other)
    assert is_same(one, made(source, v="eu"))


def test_what_a_function_reads_is_what_its_module_gives_it() -> None:
    """A dict of variables may make those that are missing, and have builtins of its own."""

    class Names(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            if name == "region":
                return self["made"]
            raise KeyError(name)

    source = "def thing(): return region()"
    for names in (
        lambda region: Names({"__name__": "made", "made": lambda: region}),
        lambda region: {"__name__": "made", "__builtins__": vars(builtins) | {"region": lambda: region}},
    ):
        one, other, again = (made(source, names=names(region)) for region in ("eu", "us", "eu"))
        assert one() == "eu" != other()
        assert not is_same(one, other)
        assert is_same(one, again)


def test_a_relative_import_depends_on_the_package() -> None:
    source = "def thing():\n from . import region\n return region"
    one, other = (made(source, __package__=package) for package in ("eu", "us"))
    assert not is_same(one, other)
    assert is_same(one, made(source, __package__="eu"))


def test_all_that_code_does_is_compared() -> None:
    """Two functions may differ only in which lines a `try` covers, or in how they take their arguments."""

    def tried(n: int) -> int:
        try:
            n += 1
        except KeyError:
            return 0
        return n

    # The same code but for the lines that are covered, and for one fact each.
    for change in ({"co_exceptiontable": b""}, {"co_posonlyargcount": 1}, {"co_flags": tried.__code__.co_flags ^ 0x80}):
        other = types.FunctionType(tried.__code__.replace(**change), globals(), "tried")
        other.__qualname__ = tried.__qualname__
        other.__annotations__ = tried.__annotations__
        assert not is_same(tried, other)
    again = types.FunctionType(tried.__code__.replace(co_firstlineno=7), globals(), "tried")
    again.__qualname__, again.__annotations__ = tried.__qualname__, tried.__annotations__
    assert is_same(tried, again)


def test_arguments_of_other_types_are_no_equal_calls() -> None:
    """Where `1` and `"1"` have one key, a function is another for each."""

    def typed(kind: Any) -> Any:
        def item(id: Any) -> str:
            return type(id).__name__

        item.__annotations__ = {"id": kind}
        return item

    cache = Cache()
    assert cache.cached("item:{id}")(typed(int))(1) == "int"
    with pytest.raises(KeyFormatError, match="other code of that name"):
        cache.cached("item:{id}")(typed(str))


def test_the_types_of_fields_that_are_written_as_text_are_compared() -> None:
    source = """
        from __future__ import annotations
        import msgspec
        class Inner(msgspec.Struct):
            region: str = v
        class Outer(msgspec.Struct):
            inner: Inner
        def thing(): return msgspec.convert({"inner": {}}, Outer).inner.region
    """
    values = []
    for region in ("eu", "us", "eu"):
        module = sys.modules["made"] = types.ModuleType("made")
        values.append(made(source, names=vars(module), v=region))
        values[-1]()
    assert not is_same(values[0], values[1])
    assert is_same(values[0], values[2])


def test_caches_of_one_store_are_the_same() -> None:
    """Also with their namespaces, and within functions that are cached themselves; not what an application adds."""

    class Named(globalcache.Cache):
        pass

    def make(cache: globalcache.Cache) -> Any:
        return lambda: cache.get("a")

    url = f"memory://{next(_numbers)}"
    one, other, third = (globalcache.Cache(url) for _ in range(3))
    assert is_same(make(one), make(other))
    assert is_same(make(one.namespace("n")), make(other.namespace("n")))
    assert is_same(make(one).__closure__[0].cell_contents.get, other.get)
    assert is_same(one.cached("r:{id}")(rows), other.cached("r:{id}")(rows))
    assert not is_same(one.cached("r:{id}")(rows), other.cached("r:{id:int}", shared=True)(rows))
    named = one.cached("r:{id}", shared=True)(rows)
    named.region = "eu"  # type: ignore[attr-defined]
    assert not is_same(named, other.cached("r:{id}", shared=True)(rows))
    assert not is_same(make(one), make(other.namespace("n")))
    assert not is_same(make(globalcache.Cache("memory://")), make(globalcache.Cache("memory://")))
    assert not is_same(make(Named(url)), make(Named(url)))
    third.region = "eu"  # type: ignore[attr-defined]
    assert not is_same(make(one), make(third))


_numbers = itertools.count()


def test_a_cached_function_with_a_later_annotation_is_the_same() -> None:
    source = """
        from __future__ import annotations
        @cache.cached("r:{id}")
        def thing(id: int) -> Later: return Later(id)
        class Later(typing.NamedTuple):
            id: int
    """
    cache = Cache()
    one, other = made(source, cache=cache), made(source, cache=cache)
    assert one(1) == (1,)
    assert is_same(one, other)


def test_times_are_compared_with_their_zones() -> None:
    def at(*words: Any, **named: Any) -> dt.datetime:
        return dt.datetime(2020, 1, 1, *words, **named)  # noqa: DTZ001

    assert is_same(at(), at(), Made.ONCE)
    assert not is_same(at(1), at(2), Made.ONCE)
    assert not is_same(at(), at(fold=1), Made.ONCE)
    assert not is_same(at(), at(tzinfo=dt.UTC), Made.ONCE)


def test_functions_never_have_the_value_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn at random; `python -m tests.client.drawn_functions 5000` draws more."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = {check(seed, tmp_path) for seed in range(150)}
    assert seen == {"accepted", "refused at decoration", "refused at the call"}
