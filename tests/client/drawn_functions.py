"""Pairs of functions that are drawn at random: the same, or with one other value in one place.

A program consists of parts, each with a place for a value and an expression that shows it. It is made twice in one of
the ways in which applications make a function twice, with a region in each place; `price(1)` shows all of them.

    python -m tests.client.drawn_functions 5000     draws so many
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import itertools
import random
import sys
import tempfile
import textwrap
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import globalcache
from globalcache.errors import KeyFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """
import abc, collections, dataclasses, enum, functools, operator, sys, types, typing
import attrs, msgspec, pydantic
import globalcache
"""

# What stands before the function, and the expression that shows the value $v; $n makes names unique. The value is read
# when the program runs, not when the function is called.
PARTS: list[tuple[str, ...]] = [
    ("g$n = $v", "g$n"),
    ("g$n = ($v, {$v: 1}['eu' if $v == 'eu' else $v], frozenset([$v]))", "str(g$n)"),
    ("def d$n(a=$v): return a", "d$n()"),
    ("def d$n(*, a=$v): return a", "d$n()"),
    ("def d$n(): return d$n.region\nd$n.region = $v", "d$n()"),
    ("def d$n(): return d$n.__doc__\nd$n.__doc__ = $v", "d$n()"),
    ("def d$n(): return d$n.__name__\nd$n.__name__ = $v", "d$n()"),
    ("def d$n(a: $v): return d$n.__annotations__['a']", "d$n(1)"),
    ("d$n = (lambda a: lambda: a)($v)", "d$n()"),
    ("def o$n(a):\n def i(): return [a for _ in range(1)][0]\n return i\nd$n = o$n($v)", "d$n()"),
    (
        (
            "def o$n(f):\n @functools.wraps(f)\n def i(): return f() + o$n.r\n return i\n"
            "o$n.r = $v\n@o$n\ndef d$n(): return ''"
        ),
        "d$n()",
    ),
    ("def d$n(n): return e$n(n)\ndef e$n(n, a=$v): return d$n(n - 1) if n else a", "d$n(2)"),
    ("d$n = functools.partial(lambda a: a, $v)", "d$n()"),
    ("d$n = functools.partial(lambda *, a: a, a=$v)", "d$n()"),
    ("d$n = functools.partial(lambda: d$n.region)\nd$n.region = $v", "d$n()"),
    ("@functools.lru_cache\ndef d$n(a=$v): return a", "d$n()"),
    ("d$n = $v.strip", "d$n()"),
    ("d$n = operator.methodcaller('replace', '', $v)", "d$n('')"),
    ("@functools.singledispatch\ndef d$n(a): return ''\n@d$n.register\ndef _(a: int, b=$v): return b", "d$n(1)"),
    ("class C$n: region = $v", "C$n.region"),
    ("class C$n: region = $v", "C$n().region"),
    ("class C$n: 'doc'\nC$n.__doc__ = $v", "C$n.__doc__"),
    ("class C$n: table = {'x': [$v]}", "C$n.table['x'][0]"),
    ("class B$n: region = $v\nclass C$n(B$n): pass", "C$n.region"),
    ("class B$n:\n def f(self, a=$v): return a\nclass C$n(B$n):\n def f(self): return super().f()", "C$n().f()"),
    ("class C$n:\n class D: region = $v", "C$n.D.region"),
    ("class C$n:\n def f(self, a=$v): return a", "C$n().f()"),
    ("class C$n:\n @staticmethod\n def f(a=$v): return a", "C$n.f()"),
    ("class C$n:\n @classmethod\n def f(cls, a=$v): return a", "C$n.f()"),
    ("class C$n:\n @property\n def f(self, a=$v): return a", "C$n().f"),
    ("class C$n:\n @functools.cached_property\n def f(self, a=$v): return a", "C$n().f"),
    ("class P$n(property): pass\nclass C$n:\n f = P$n(lambda self: type(self).f.region)\nC$n.f.region = $v", "C$n().f"),
    ("class C$n:\n def f(self, a): return a\n g = functools.partialmethod(f, $v)", "C$n().g()"),
    ("class C$n: __call__ = functools.partial(str, $v)", "C$n()()"),
    (
        (
            "class D$n:\n def __init__(self, a): self.a = a\n def __call__(self, *_): return self.a\n"
            "class C$n: __call__ = D$n($v)"
        ),
        "C$n()()",
    ),
    ("class C$n:\n def __call__(self, a=$v): return a", "C$n()()"),
    ("class C$n:\n def __init__(self, a=$v): self.a = a", "C$n().a"),
    ("class C$n: __getattr__ = staticmethod(lambda name, a=$v: a)", "C$n().anything"),
    ("class C$n:\n def __getitem__(self, a, b=$v): return b", "C$n()[0]"),
    ("class C$n: __iter__ = property(lambda self, a=$v: lambda: iter([a]))", "list(C$n())[0]"),
    ("class C$n: __tablename__ = $v", "C$n.__tablename__"),
    ("class C$n: __table__ = [$v]", "C$n.__table__[0]"),
    ("class C$n: _abc_x = $v", "C$n._abc_x"),
    ("class C$n: __format__ = lambda self, spec, a=$v: a", "format(C$n())"),
    ("class C$n: __len__ = lambda self, a=len($v): a", "str(len(C$n()))"),
    ("class C$n: __class_getitem__ = classmethod(lambda cls, key, a=$v: a)", "C$n[1]"),
    ("class C$n:\n def __init_subclass__(cls, a=$v): cls.r = a", "type('E', (C$n,), {}).r"),
    ("class M$n(type): region = $v\nclass C$n(metaclass=M$n): pass", "C$n.region"),
    ("class M$n(type):\n def __call__(cls, a=$v): return a\nclass C$n(metaclass=M$n): pass", "C$n()"),
    ("class M$n(type):\n def __getattr__(cls, name, a=$v): return a\nclass C$n(metaclass=M$n): pass", "C$n.any"),
    (
        (
            "class M$n(type):\n def __new__(m, name, bases, names, r): return super().__new__(m, name, bases, names)\n"
            " def __init__(cls, name, bases, names, r): cls.r = r\nclass C$n(metaclass=M$n, r=$v): pass"
        ),
        "C$n.r",
    ),
    (
        "class D$n:\n def __init__(self, a): self.a = a\n def __get__(self, *_): return self.a\nclass C$n: f = D$n($v)",
        "C$n.f",
    ),
    ("class C$n:\n __slots__ = ('a',)\n def __init__(self): self.a = S$n\nS$n = $v", "C$n().a"),
    (
        "class C$n(abc.ABC):\n @abc.abstractmethod\n def f(self): ...\nclass E$n(C$n):\n def f(self, a=$v): return a",
        "E$n().f()",
    ),
    ("class C$n(typing.Protocol):\n def f(self, a=$v): return a\nclass E$n(C$n): pass", "E$n().f()"),
    ("T$n = typing.TypeVar('T$n')\nclass C$n(typing.Generic[T$n]): a = $v\nclass E$n(C$n[int]): pass", "E$n.a"),
    ("class C$n(dict): pass\nC$n.region = $v", "C$n().region"),
    ("class C$n(Exception):\n def __str__(self, a=$v): return a", "str(C$n())"),
    ("class C$n(str): pass\nx$n = C$n($v)", "str(x$n)"),
    ("@dataclasses.dataclass\nclass C$n: a: str = $v", "C$n().a"),
    ("@dataclasses.dataclass\nclass C$n: a: list = dataclasses.field(default_factory=lambda b=$v: [b])", "C$n().a[0]"),
    (
        "@dataclasses.dataclass\nclass C$n: a: str = dataclasses.field(default='', metadata={'x': $v})",
        "dataclasses.fields(C$n)[0].metadata['x']",
    ),
    ("@dataclasses.dataclass(frozen=True, slots=True)\nclass C$n: a: str\nx$n = C$n($v)", "x$n.a"),
    ("@dataclasses.dataclass(frozen=True)\nclass C$n(str): b: int = 1\nx$n = str.__new__(C$n, $v)", "x$n[:]"),
    ("@attrs.define\nclass C$n: a: str = $v", "C$n().a"),
    ("@attrs.define\nclass C$n: a: list = attrs.field(factory=lambda b=$v: [b])", "C$n().a[0]"),
    ("@attrs.define\nclass C$n: a: str = attrs.field(default='', converter=lambda a, b=$v: b)", "C$n().a"),
    ("class C$n(msgspec.Struct): a: str = $v", "C$n().a"),
    ("class C$n(msgspec.Struct): a: list = msgspec.field(default_factory=lambda b=$v: [b])", "C$n().a[0]"),
    ("class C$n(msgspec.Struct, tag=$v): pass", "C$n.__struct_config__.tag"),
    ("C$n = msgspec.defstruct('C$n', [('a', str, $v)])", "C$n().a"),
    ("class C$n(pydantic.BaseModel): a: str = $v", "C$n().a"),
    ("class C$n(pydantic.BaseModel): a: list = pydantic.Field(default_factory=lambda b=$v: [b])", "C$n().a[0]"),
    ("class C$n(pydantic.BaseModel): _a: str = $v", "C$n()._a"),
    (
        (
            "class C$n(pydantic.BaseModel):\n a: str = ''\n @pydantic.field_validator('a', mode='before')\n"
            " @classmethod\n def f(cls, v): return C$n.r\nC$n.r = $v"
        ),
        "C$n(a='x').a",
    ),
    ("class C$n(pydantic.BaseModel):\n model_config = pydantic.ConfigDict(title=$v)", "C$n.model_config['title']"),
    ("class C$n(enum.Enum): A = $v", "C$n.A.value"),
    ("class C$n(enum.Enum):\n A = 1\n def __str__(self, a=$v): return a", "str(C$n.A)"),
    ("class C$n(enum.Enum):\n A = 1\n def __init__(self, _): self.region = $v", "C$n.A.region"),
    ("class C$n(enum.Enum):\n A = 1\n def __call__(self, a=$v): return a", "C$n.A()"),
    ("class C$n(enum.StrEnum): A = $v", "C$n.A.upper()"),
    (
        "class C$n(enum.Enum):\n A = 1\n @classmethod\n def _missing_(cls, x, a=$v): cls.A.r = a; return cls.A",
        "C$n(5).r",
    ),
    ("C$n = enum.Enum('C$n', {'A': $v})", "C$n.A.value"),
    ("class C$n(typing.NamedTuple): a: str = $v", "C$n().a"),
    ("C$n = collections.namedtuple('C$n', 'a', defaults=[$v])", "C$n().a"),
    ("class C$n(typing.NamedTuple):\n a: str = ''\n def f(self, b=$v): return b", "C$n().f()"),
    ("class C$n(typing.TypedDict): a: $v", "C$n.__annotations__['a'].__forward_arg__"),
    ("C$n = type('C$n', (), {'a': $v})", "C$n.a"),
    ("class C$n: pass\nclass E$n(C$n): a = $v\nC$n.sub = E$n", "C$n.sub.a"),
]
# Objects that can change: two of a factory, or of executed code, are refused even if they hold the same now.
CHANGING: list[tuple[str, ...]] = [
    ("t$n = {'x': $v}", "t$n['x']"),
    ("t$n = [[1, {$v}]]", "list(t$n[0][1])[0]"),
    ("t$n = collections.defaultdict(lambda a=$v: a)", "t$n['x']"),
    ("t$n = collections.deque([$v])", "t$n[0]"),
    ("t$n = types.SimpleNamespace(a=$v)", "t$n.a"),
    ("t$n = types.MappingProxyType({'x': $v})", "t$n['x']"),
    ("t$n = {'x': $v}.get", "t$n('x')"),
    ("t$n = bytearray($v, 'ascii')", "t$n.decode()"),
    ("class C$n:\n def __init__(self, a): self.a = a\nx$n = C$n($v)", "x$n.a"),
    ("class C$n:\n __slots__ = ('a',)\nx$n = C$n()\nx$n.a = $v", "x$n.a"),
    ("class C$n:\n def __init__(self, a): self.a = a\n def f(self): return self.a\nx$n = C$n($v).f", "x$n()"),
    ("class C$n:\n def __init__(self, a): self.a = a\n def __call__(self): return self.a\nx$n = C$n([$v])", "x$n()[0]"),
    (
        (
            "class C$n:\n def __init__(self, a): self.a = a\n def __eq__(self, o): return True\n __hash__ = None\n"
            "x$n = C$n($v)"
        ),
        "x$n.a",
    ),
    ("class C$n(dict): pass\nx$n = C$n()\nx$n.a = $v", "x$n.a"),
    ("class C$n(pydantic.BaseModel): a: str\nx$n = C$n(a=$v)", "x$n.a"),
    ("class C$n(msgspec.Struct): a: str\nx$n = C$n($v)", "x$n.a"),
    ("@attrs.define\nclass C$n: a: str\nx$n = C$n($v)", "x$n.a"),
    ("@dataclasses.dataclass\nclass C$n: a: str\nx$n = C$n($v)", "x$n.a"),
]
# What is set after the function was decorated.
LATER: list[tuple[str, ...]] = [
    ("g$n = None", "g$n", "g$n = $v"),
    ("", "g$n", "g$n = $v"),
    ("", "h$n()", "def h$n(a=$v): return a"),
    ("", "C$n.a", "class C$n: a = $v"),
    ("t$n = {}", "t$n['x']", "t$n['x'] = $v"),
    ("class C$n: pass", "C$n.a", "C$n.a = $v"),
    ("def h$n(): return h$n.a", "h$n()", "h$n.a = $v"),
]
FUNCTION = """
@cache.cached("price:{id}")
def price(id): return [{shown}, price.uncached(id - 1) if id else 0]
"""
_numbers = itertools.count()
WAYS = ("executed", "factory", "imported", "loaded", "script", "reloaded", "edited")


def written(parts: Sequence[tuple[str, ...]], values: list[str]) -> str:
    """Return a program whose parts have these expressions as values."""
    texts = [
        [text.replace("$v", value).replace("$n", str(number)) for text in part]
        for number, (part, value) in enumerate(zip(parts, values, strict=True))
    ]
    function = FUNCTION.replace("{shown}", ", ".join(part[1] for part in texts))
    return "\n".join([*(part[0] for part in texts), function, *(part[2] for part in texts if len(part) > 2)])


class Program:
    """A program, and a way to make it twice. It has a cache of its own each time, to one store."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.way = rng.choice(WAYS)
        is_of_file = self.way in {"imported", "loaded", "script"}
        kinds = [*PARTS * 3, *LATER * 5, *(CHANGING * 4 if is_of_file else [])]
        self.parts: list[tuple[str, ...]] = rng.sample(kinds, rng.randint(1, 4))
        self.values = [["eu"] * len(self.parts), ["eu"] * len(self.parts)]
        if rng.random() < 0.7:
            self.values[1][rng.randrange(len(self.parts))] = "usa"
        self.name = f"drawn{next(_numbers)}"
        self.path = folder / f"{self.name}.py"
        self.store = f"memory://{self.name}"
        self.kept: list[Any] = []  # so that no cache is gone before the end
        self.main = sys.modules["__main__"]
        sys.modules[self.name] = types.ModuleType(self.name)  # where libraries look for that of a class

    def make(self, place: int) -> Any:
        """Make the function for the first or the second time. Raises KeyFormatError if it is refused."""
        return getattr(self, f"_{self.way}")(self.values[place])

    def must_be_accepted(self) -> bool:
        """Tell whether the two are the same, and nothing in them is none but itself."""
        is_whole = not any("h$n.a = $v" in part for part in self.parts)
        return self.values[0] == self.values[1] and self.way not in {"factory", "executed"} and is_whole

    def forget(self) -> None:
        for name in (self.name, "drawn_values", "drawn_cache"):
            sys.modules.pop(name, None)
        sys.modules["__main__"] = self.main

    def _executed(self, values: list[str]) -> Any:
        names: dict[str, Any] = {"__name__": self.name, "cache": globalcache.Cache(self.store)}
        self.kept.append(names)
        exec(HEAD + written(self.parts, list(map(repr, values))), names)  # noqa: S102 - that is the case
        return names["price"]

    def _factory(self, values: list[str]) -> Any:
        if not self.kept:
            text = written(self.parts, [f"V[{place}]" for place in range(len(values))])
            text = f"cache = globalcache.Cache({self.store!r})\n{text}\nreturn price, lambda: cache"
            names: dict[str, Any] = {"__name__": self.name}
            exec(f"{HEAD}def make(V):\n{textwrap.indent(text, ' ')}", names)  # noqa: S102
            self.kept.append(names)
        self.kept.append(self.kept[0]["make"](values))
        return self.kept[-1][0]

    def _write(self, values: list[str], cache: str = "") -> None:
        """Write a file that reads its values as it would the environment."""
        made = (
            f"cache = {cache or f'globalcache.Cache({self.store!r})'}\nfrom drawn_values import values\nV = [*values]\n"
        )
        text = written(self.parts, [f"V[{place}]" for place in range(len(values))])
        self.path.write_text(f"{HEAD}{made}{text}\ndel V, values\n")
        sys.modules["drawn_values"] = module = types.ModuleType("drawn_values")
        vars(module)["values"] = values

    def _loaded(self, values: list[str]) -> Any:
        self._write(values)
        return self._load()

    def _load(self) -> Any:
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[self.name] = importlib.util.module_from_spec(spec)
        self.kept.append(module)
        spec.loader.exec_module(module)
        return module.price

    def _imported(self, values: list[str]) -> Any:
        self._write(values)
        importlib.invalidate_caches()
        del sys.modules[self.name]
        self.kept.append(importlib.import_module(self.name))
        return self.kept[-1].price

    def _script(self, values: list[str]) -> Any:
        if self.kept:
            return self._loaded(values)
        self._write(values)
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        vars(module)["__file__"] = str(self.path)
        self.kept.append(module)
        exec(compile(self.path.read_text(), self.path, "exec", dont_inherit=True), vars(module))  # noqa: S102
        return module.price

    def _reloaded(self, values: list[str]) -> Any:
        self._write(values, "__import__('drawn_cache').cache")
        return self._reload()

    def _edited(self, values: list[str]) -> Any:
        cache = "cache = __import__('drawn_cache').cache"
        self.path.write_text(f"{HEAD}{cache}\n{written(self.parts, list(map(repr, values)))}")
        return self._reload()

    def _reload(self) -> Any:
        if self.kept:
            importlib.invalidate_caches()
            return importlib.reload(self.kept[0]).price
        # The cache stays what it is, as that of another module.
        module = sys.modules["drawn_cache"] = types.ModuleType("drawn_cache")
        vars(module)["cache"] = globalcache.Cache(self.store)
        return self._load()


def check(seed: int, folder: Path) -> str:
    """Make two functions and call them; return what happened. Raises AssertionError if one has the other's value."""
    rng = random.Random(seed)
    program = Program(rng, folder)
    told = f"seed {seed}: {program.way} {program.parts} {program.values}"
    try:
        functions = [program.make(0)]
        try:
            functions.append(program.make(1))
        except KeyFormatError:
            assert not program.must_be_accepted(), f"refused at decoration: {told}"
            return "refused at decoration"
        rng.shuffle(functions)
        first, second = functions
        expected = [first.uncached(1), second.uncached(1)]
        assert first(1) == expected[0], told
        try:
            given = second(1)
        except KeyFormatError:
            assert not program.must_be_accepted(), f"refused at the call: {told}"
            return "refused at the call"
        assert given == expected[1], f"the value of another: {told}"
        return "accepted"
    finally:
        program.forget()


def main(count: int, first: int) -> None:
    seen: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        for seed in range(first, first + count):
            try:
                seen[check(seed, Path(folder))] += 1
            except AssertionError as error:
                print(error)
    print(dict(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
