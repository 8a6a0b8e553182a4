"""Cached functions, over a cache that is a dict: what they ask of it, their keys and their types."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import inspect
import pickle
import sqlite3
import sys
from collections.abc import Mapping  # noqa: TC003 - read as the type of values
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import globalcache
from globalcache.client.functions import AsyncCachedFunction, CachedFunction, Functions
from globalcache.client.guard import Absent, Guard
from globalcache.errors import CacheError, ConfigError, KeyFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from globalcache.policy import Policy


class Plain:
    """A cache in a dict; None is absence."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.policies: dict[str, Policy] = {}

    def get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        *,
        policy: Policy | Callable[[], Policy],
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        if key not in self.values:
            value = load()
            absent = value if isinstance(value, Absent) else None
            self.set(key, None if absent else value, policy=policy() if callable(policy) else policy, type=type)
            if absent and absent.error:
                raise absent.error
        return self.values[key]

    def get_or_load_many(
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Any],
        *,
        policy: Policy,
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        keys = list(keys)
        missing = [key for key in keys if key not in self.values]
        if missing:
            self.values |= load_many(missing)
        return {key: self.values[key] for key in keys}

    def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> None:
        for key in keys:
            self.values.pop(key, None)

    def set(self, key: str, value: Any, *, policy: Policy, type: Any = None) -> None:
        self.values[key] = value
        self.policies[key] = policy


class Awaited(Plain):
    """The same for async functions."""

    async def get_or_load(self, key: str, load: Callable[[], Any], **options: Any) -> Any:
        if key not in self.values:
            await self.set(key, await load(), policy=options["policy"])
        return self.values[key]

    async def get_or_load_many(self, keys: Iterable[str], load_many: Callable[[list[str]], Any], **_: Any) -> Any:
        keys = list(keys)
        missing = [key for key in keys if key not in self.values]
        if missing:
            self.values |= await load_many(missing)
        return {key: self.values[key] for key in keys}

    async def invalidate(self, *keys: str, **_: Any) -> None:  # type: ignore[override]
        super().invalidate(*keys)

    async def set(self, key: str, value: Any, *, policy: Policy, **_: Any) -> None:  # type: ignore[override]
        super().set(key, value, policy=policy)


class Cache(Functions):
    """Both doors over one dict."""

    def __init__(self) -> None:
        self.plain, self.awaited = Plain(), Awaited()
        self.awaited.values = self.plain.values

    @property
    def sync_door(self) -> Plain:
        return self.plain

    @property
    def async_door(self) -> Awaited:
        return self.awaited


class UserNotFound(Exception):  # noqa: N818 - as applications name it
    """There is no such user."""


def test_a_function_runs_once_for_a_key() -> None:
    cache, ran = Cache(), []

    @cache.cached("price:{id}:{lang}", ttl="5m", tags=["prices", "product:{id}"])
    def price(id: int, lang: str = "en") -> float | None:  # noqa: ARG001
        """Say the price."""
        ran.append(id)
        return id * 1.5

    assert isinstance(price, CachedFunction)
    assert_type(price(1), float | None)
    assert (price(1), price(id=1), price(1, "en"), ran) == (1.5, 1.5, 1.5, [1])
    assert price.key(1) == "price:1:en"
    assert list(cache.plain.policies["price:1:en"].tags) == ["prices", "product:1"]
    assert cache.plain.policies["price:1:en"].ttl == 300
    price.invalidate(1)
    assert (price(1), ran) == (1.5, [1, 1])
    price.set(9.0, 1)
    assert (price(1), price.uncached(1), ran) == (9.0, 1.5, [1, 1, 1])
    assert (price.refresh(1), price(1), len(ran)) == (1.5, 1.5, 4)
    assert (price.__wrapped__.__name__, price.__doc__) == ("price", "Say the price.")
    assert repr(price).endswith("price 'price:{id}:{lang}'>")
    with pytest.raises(TypeError, match="id: '1' is no int"):
        price("1")  # type: ignore[arg-type]


def test_a_hit_calls_few_functions() -> None:
    """Each costs a hundredth of a hit of a real server."""
    cache, called = Cache(), list[str]()

    @cache.cached("user:{id}")
    def user(id: int) -> int:
        return id

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    user(1)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        user(1)
    finally:
        sys.setprofile(before)
    assert called == ["CachedFunction.__call__", "KeyTemplate.key", "Plain.get_or_load"]


def test_an_async_function_is_awaited() -> None:
    cache, ran = Cache(), []

    @cache.cached("user:{id}")
    async def user(id: int) -> str:
        ran.append(id)
        return f"user {id}"

    async def use() -> None:
        assert isinstance(user, AsyncCachedFunction)
        assert_type(await user(1), str)
        assert (await user(1), await user(1), ran) == ("user 1", "user 1", [1])
        await user.invalidate(1)
        assert (await user.refresh(1), await user.uncached(2), ran) == ("user 1", "user 2", [1, 1, 2])
        await user.set("x", 1)
        assert await user(1) == "x"

    asyncio.run(use())


def test_methods() -> None:
    cache, ran = Cache(), []

    class Users:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @cache.cached("{self.tenant}:user:{id}")
        def user(self, id: int) -> str:
            ran.append(id)
            return f"{self.tenant} {id}"

    one, other = Users("a"), Users("b")
    assert_type(one.user(1), str)
    assert (one.user(1), one.user(1), other.user(1), ran) == ("a 1", "a 1", "b 1", [1, 1])
    one.user.invalidate(1)
    assert (one.user(1), other.user(1), len(ran)) == ("a 1", "b 1", 3)
    assert one.user.key(2) == "a:user:2"
    assert Users.user.uncached(one, 3) == one.user.uncached(3) == "a 3"


def test_no_such_row_is_the_same_exception_everywhere() -> None:
    cache, ran = Cache(), []

    @cache.cached("user:{id}", absent=[UserNotFound])
    def user(id: int) -> str:
        ran.append(id)
        raise UserNotFound(f"user {id} is gone")

    with pytest.raises(UserNotFound, match="user 1 is gone"):
        user(1)
    with pytest.raises(UserNotFound, match="user:1"):
        user(1)
    assert ran == [1]


def test_loaders_are_known_to_workers() -> None:
    cache = Cache()

    @cache.loader("user:{tenant}:{id:int}", ttl="5m", tags=["users", "tenant:{tenant}"], timeout="2s", concurrency=3)
    async def user(id: int, tenant: str) -> dict[str, str] | None:
        return {"tenant": tenant, "id": str(id)}

    (loader,) = cache.loaders.values()
    assert loader is user.loader
    assert loader.template.parse("user:a:7") == ["a", 7]
    assert asyncio.run(loader.function("a", 7)) == {"tenant": "a", "id": "7"}
    assert loader.tags_of(["a", 7]) == ["users", "tenant:a"]
    assert (loader.timeout, loader.concurrency, loader.batch, loader.type) == (2, 3, 0, dict[str, str])
    with pytest.raises(ConfigError, match=r"keys user:\*:\* are loaded by .*user already"):
        cache.loader("user:{a}:{b}", shared=True)(lambda a, b: None)  # noqa: ARG005


def test_a_loader_has_nothing_but_its_key() -> None:
    cache = Cache()

    class Users:
        def user(self, id: int) -> None: ...

    with pytest.raises(KeyFormatError, match="a worker has nothing but the key"):
        cache.loader("{self.tenant}:{id}")(Users.user)
    with pytest.raises(KeyFormatError, match="a worker has nothing but the key"):
        cache.loader("user:{id}")(Users.user)


def test_batch_loaders_load_what_is_missing_together() -> None:
    cache, asked = Cache(), []

    @cache.batch_loader("product:{sku}", max_batch_size=5, max_wait="2ms")
    def products(skus: list[str]) -> dict[str, int]:
        asked.append(skus)
        return {sku: len(sku) for sku in skus if sku != "none"}

    assert_type(products(["a"]), dict[str, int])
    assert products(["a", "1", "none"]) == {"a": 1, "1": 1}
    assert products(["1", "none", "xyz"]) == {"1": 1, "xyz": 3}
    assert asked == [["a"], ["1", "none"], ["xyz"]]
    assert products.key("1") == "product:1"
    products.invalidate("a", "1")
    assert products.refresh("a") == {"a": 1}
    products.set(9, "b")
    assert (products(["b"]), asked[3:]) == ({"b": 9}, [["a"]])
    assert (products.loader.batch, products.loader.max_wait, products.loader.type) == (5, 0.002, int)


def test_async_batches_of_several_fields() -> None:
    cache = Cache()

    @cache.batch_loader("stock:{shop}:{sku}")
    async def stock(places: list[tuple[int, str]]) -> Mapping[tuple[int, str], int]:
        return {(shop, sku): shop for shop, sku in places}

    async def use() -> None:
        assert await stock([(1, "a"), (2, "7")]) == {(1, "a"): 1, (2, "7"): 2}
        await stock.invalidate((1, "a"))
        assert await stock.refresh((1, "a")) == {(1, "a"): 1}
        await stock.set(5, (1, "a"))
        assert await stock([(1, "a")]) == {(1, "a"): 5}

    asyncio.run(use())
    assert stock.loader.template.parse("stock:2:7") == [2, "7"]
    with pytest.raises(KeyFormatError, match="takes one list"):
        cache.batch_loader("x:{id}")(lambda a, b: {})  # type: ignore[misc,arg-type]  # noqa: ARG005


def test_a_second_function_with_the_keys_of_another_is_refused() -> None:
    """Each would return what the other stored: the first that ran would decide for both."""
    cache = Cache()

    def power(n: int, *, shared: bool = False) -> Any:
        @cache.cached("power:{x}", shared=shared)
        def raised(x: int) -> Any:
            return x**n

        return raised

    assert power(2)(3) == 9
    assert power(2)(3) == 9  # the same function again, as when a module is imported twice
    with pytest.raises(KeyFormatError, match=r"'power:{x}' can be those of other code of that name.*shared=True"):
        power(3)
    assert power(3, shared=True)(3) == 9
    with pytest.raises(KeyFormatError, match=r"'power:{y}' can be those of .*power.<locals>.raised, 'power:{x}'"):
        cache.cached("power:{y}")(lambda y: y)
    with pytest.raises(KeyFormatError, match=r"'{what}:{x}' can be those of"):
        cache.cached("{what}:{x}")(lambda what, x: (what, x))
    assert cache.cached("power:me")(lambda: 1)() == 1  # x is a whole number, so no key of the other
    for _ in range(3):
        power(2)
        power(5, shared=True)
    assert len(cache.claims) == 2


def test_one_function_under_two_orders_of_its_arguments() -> None:
    cache = Cache()

    def ratio(a: int, b: int) -> float:
        return a / b

    cache.cached("ratio:{a}:{b}")(ratio)
    with pytest.raises(KeyFormatError, match=r"'ratio:{b}:{a}' can be those of"):
        cache.cached("ratio:{b}:{a}")(ratio)


def test_namespaces_have_keys_of_their_own() -> None:
    with globalcache.Cache("memory://") as cache:
        cache.cached("x:{a}")(lambda a: a)
        cache.namespace("n").cached("x:{a}")(lambda a: a + 1)
        with pytest.raises(KeyFormatError, match="can be those of"):
            cache.aio.cached("x:{a}")(lambda a: a + 2)
        with pytest.raises(KeyFormatError, match="can be those of"):
            cache.cached("n:x:{a}")(lambda a: a + 3)


def test_a_loader_takes_no_key_of_a_refused_function() -> None:
    cache = Cache()

    @cache.loader("row:{id:int}")
    def row(id: int) -> int:
        return id

    with pytest.raises(KeyFormatError, match="can be those of"):

        @cache.loader("row:{id:int}")
        def other(id: int) -> int:
            return -id

    assert [loader.name for loader in cache.loaders.values()] == [row.loader.name if row.loader else ""]


@pytest.mark.parametrize(
    ("decorate", "line"),
    [
        (lambda cache: cache.cached(lambda: 1), r"cached: write @cache.cached\(...\) with brackets"),
        (lambda cache: cache.loader(lambda: 1), r"loader: write @cache.loader\(...\) with brackets"),
        (lambda cache: cache.batch_loader(lambda: 1), r"batch_loader: write @cache.batch_loader\(...\) with brackets"),
        (lambda cache: cache.cached(5), "cached: a template is a text such as 'user:{id}', not 5"),
        (lambda cache: cache.cached(tags=5), "tags: 5: should be a text or several"),
        (lambda cache: cache.cached(tags=["a", 5]), r"tags: \['a', 5\]: should be a text or several"),
        (lambda cache: cache.cached(ttl=[1]), r"ttl: \[1\]: should be seconds, a timedelta, or text such as 5m"),
        (lambda cache: cache.cached("a", ignore="b")(lambda: 1), "ignore names 'b', which is no parameter"),
    ],
)
def test_a_mistake_is_named_at_decoration(decorate: Callable[[Any], Any], line: str) -> None:
    with pytest.raises((TypeError, ConfigError, KeyFormatError), match=line):
        decorate(Cache())


def test_an_annotation_is_resolved_by_the_first_call() -> None:
    cache = Cache()

    @cache.cached("defined:{id}")
    def defined(id: int) -> Later:
        return Later(id)

    @cache.cached("nowhere:{id}")
    def nowhere(id: int) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return id

    unresolved: Any = nowhere

    @cache.batch_loader("many:{id:int}")
    def many(ids: list[int]) -> dict[int, Later]:
        return {each: Later(each) for each in ids}

    assert defined(1) == Later(1)
    assert defined._type is Later  # noqa: SLF001
    assert many.loader.type is Later
    assert many([1]) == {1: Later(1)}
    with pytest.raises(TypeError, match=r"nowhere: the return annotation 'Nowhere' cannot be resolved: import.*type="):
        unresolved(1)


def test_a_class_of_the_function_around_is_resolved() -> None:
    @dataclasses.dataclass
    class Local:
        id: int

    @Cache().cached("local:{id}")
    def local(id: int) -> Local:
        return Local(id)

    assert local._type is Local  # noqa: SLF001
    assert local(1) == Local(1)


@dataclasses.dataclass
class Later:
    """Defined after the functions that return it."""

    id: int


def session_of(kind: str) -> Any:
    if kind == "connection":
        return sqlite3.connect(":memory:")
    orm = pytest.importorskip("sqlalchemy.orm")
    aio = pytest.importorskip("sqlalchemy.ext.asyncio")
    return {"Session": orm.Session, "AsyncSession": aio.AsyncSession, "scoped": orm.scoped_session(orm.Session)}[kind]()


@pytest.mark.parametrize("kind", ["Session", "AsyncSession", "scoped", "connection"])
def test_a_session_of_the_caller_is_warned_of_once(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """A load through the request's session stores what that session still holds, older than what others committed."""
    cache = Cache()

    @cache.cached("row:{id}", ignore=("db", "other"))
    def row(id: int, db: Any, other: Any = None) -> int:  # noqa: ARG001
        return id

    session = session_of(kind)
    row(0, "no session", other=object())
    assert not caplog.records
    row(1, 1, other=session)
    row(2, session)
    (record,) = caplog.records
    assert f"row: its argument 'other' is a {type(session).__name__} of the caller" in record.getMessage()
    assert "Open a session inside the function instead" in record.getMessage()


def test_whole_numbers_are_results_where_float_is_annotated() -> None:
    """As type checkers take them; within containers too."""
    cases: list[tuple[Any, Any]] = [
        (float, int | float),
        (list[float], list[int | float]),
        (dict[str, list[float]], dict[str, list[int | float]]),
        (tuple[float, ...], tuple[int | float, ...]),
        (dict[float, str], dict[float, str]),
        (str, str),
    ]
    for annotation, kind in cases:

        def f() -> None: ...

        f.__annotations__ = {"return": annotation}
        assert Cache().cached("f")(f)._type == kind  # noqa: SLF001


def test_batches_say_what_is_wrong_with_them() -> None:
    """Text in place of a list would be taken apart into letters, and keys of another form would look like no rows."""
    cache = Cache()

    @cache.batch_loader("product:{id:int}")
    def products(ids: list[int]) -> Any:
        return list(ids) if 1 in ids else {str(number): number for number in ids}

    @cache.batch_loader("stock:{shop}:{sku}")
    def stock(places: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return dict.fromkeys(places, 1)

    name = r"tests\.\S+\.products"
    for call, line in (
        (lambda: products("s1"), name + r" takes a list of items: \['s1'\] instead of 's1'"),
        (lambda: products(7), name + r" takes a list of items: \[7\] instead of 7"),
        (lambda: products.invalidate([1, 2]), name + r": an item is one value, not a list: pass \*items"),
        (lambda: products([1]), name + " returned a list; it should return a dict of the items it was given"),
        (lambda: products([2]), name + " returned keys that it was not asked for: '2'; it was asked for 2"),
        (lambda: stock(["ab"]), r"\.stock: an item is a tuple of shop, sku, not 'ab'"),  # type: ignore[list-item]
        (lambda: stock([("a", "b", "c")]), r"\.stock: an item is a tuple of shop, sku, not \('a', 'b', 'c'\)"),  # type: ignore[list-item]
    ):
        with pytest.raises(TypeError, match=line):
            call()


@pytest.mark.parametrize("pair", [(1, True), (0.0, -0.0), (1, 1.0), (Decimal("1.0"), Decimal("1.00"))])
def test_a_warm_batch_refuses_equal_items_as_a_cold_one(pair: tuple[Any, Any]) -> None:
    """Keys tell them apart and the dict that is returned does not: the value of one would stand for both."""
    cache = Cache()

    @cache.batch_loader("flag:{id}")
    def flags(ids: list[Any]) -> dict[Any, str]:
        return {each: repr(each) for each in ids}

    @cache.batch_loader("aflag:{id}")
    async def awaited(ids: list[Any]) -> dict[Any, str]:
        return {each: repr(each) for each in ids}

    async def run(call: Callable[..., Any], *args: Any) -> Any:
        return await call(*args)

    for _ in ("cold", "warm"):
        for call in (partial(flags, pair), partial(flags.refresh, *pair)):
            with pytest.raises(TypeError, match="are equal in Python"):
                call()
        for task in (partial(run, awaited, pair), partial(run, awaited.refresh, *pair)):
            with pytest.raises(TypeError, match="are equal in Python"):
                asyncio.run(task())
        assert [flags([each])[each] for each in pair] == list(map(repr, pair))
        assert [asyncio.run(run(awaited, [each]))[each] for each in pair] == list(map(repr, pair))
    flags.invalidate(*pair)
    assert not [key for key in cache.plain.values if key.startswith("flag:")]


def test_two_loaders_of_one_pattern_are_refused() -> None:
    """Even if their keys are shared: a worker runs one of them."""
    cache = Cache()

    @cache.loader("user:{id}", shared=True)
    def user(id: str) -> str:
        return id

    with pytest.raises(CacheError, match=r"keys user:\* are"):

        @cache.loader("user:{name}", shared=True)
        def other(name: str) -> str:
            return name


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as applications do, by functools.wraps."""
    if inspect.iscoroutinefunction(function) or isinstance(function, AsyncCachedFunction):

        @functools.wraps(function)
        async def inner_async(id: int) -> Any:
            return await function(id) * 2

        return inner_async

    @functools.wraps(function)
    def inner(id: int) -> Any:
        return function(id) * 2

    return inner


def test_a_decorator_between_two_cached_ones_runs() -> None:
    """functools.wraps copies the attributes of the inner cached function; the outer one must keep its own."""
    cache = Cache()

    @cache.cached("usd:{id}")
    @doubled
    @cache.cached("eur:{id}")
    def price(id: int) -> int:
        return id + 10

    assert (price(1), price(1), price.key(1), price.uncached(1)) == (22, 22, "usd:1", 22)
    assert cache.plain.values == {"usd:1": 22, "eur:1": 11}


def test_a_decorator_between_two_async_cached_ones_runs() -> None:
    cache = Cache()

    @cache.cached("usd:{id}")
    @doubled
    @cache.cached("eur:{id}")
    async def price(id: int) -> int:
        return id + 10

    assert isinstance(price, AsyncCachedFunction)
    assert asyncio.run(price(1)) == 22
    assert cache.awaited.values == {"usd:1": 22, "eur:1": 11}


def test_cached_directly_over_cached_stores_under_both_keys() -> None:
    cache = Cache()

    @cache.cached("outer:{id}")
    @cache.cached("inner:{id}")
    def sync(id: int) -> int:
        return id

    @cache.cached("aouter:{id}")
    @cache.cached("ainner:{id}")
    async def awaited(id: int) -> Later:
        return Later(id)

    assert (sync(1), asyncio.run(awaited(2))) == (1, Later(2))
    assert awaited._type is Later  # noqa: SLF001
    assert cache.plain.values == {"inner:1": 1, "outer:1": 1, "ainner:2": Later(2), "aouter:2": Later(2)}


def test_a_batch_loader_over_a_decorated_one_runs_the_decorator() -> None:
    cache = Cache()

    @cache.batch_loader("inner:{id}")
    def many(ids: list[int]) -> dict[int, int]:
        return {each: each for each in ids}

    @functools.wraps(many)
    def doubled_rows(ids: list[int]) -> dict[int, int]:
        return {each: row * 2 for each, row in many(ids).items()}

    assert cache.batch_loader("outer:{id}")(doubled_rows)([1]) == {1: 2}
    assert cache.batch_loader("directly:{id}")(many)([1]) == {1: 1}
    assert cache.plain.values == {"inner:1": 1, "outer:1": 2, "directly:1": 1}


def test_attributes_of_a_function_replace_no_method() -> None:
    def price(id: int) -> int:
        return id

    price.invalidate, price.set, price.unit = (lambda *_: None), 1, "eur"  # type: ignore[attr-defined]
    cache = Cache()
    cached = cache.cached("price:{id}")(price)
    assert (cached(1), cached.unit) == (1, "eur")  # type: ignore[attr-defined]
    cached.invalidate(1)
    assert not cache.plain.values
    cached.set(5, 1)
    assert cached(1) == 5


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


SHOP, BATCHES = Shop(3), Cache()


@pytest.mark.parametrize(
    "make",
    [
        lambda: (1, "a", 0.5, frozenset({2}), None),
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


def test_two_caches_on_one_store_share_their_claims() -> None:
    """Each would return what the other stored. A cache that is gone claims nothing."""
    one, other = globalcache.Cache("memory://claims"), globalcache.AsyncCache("memory://claims")
    one.cached("u:{x}")(lambda x: x)
    with pytest.raises(KeyFormatError, match="can be those of"):
        other.cached("u:{y}")(lambda y: -y)
    other.namespace("n").cached("u:{y}")(lambda y: -y)
    kept: list[Any] = []
    for elsewhere in ("memory://", "memory://claims2", "null://", "globalcache://a:1", "globalcache://a:1/2"):
        kept.append(globalcache.Cache(elsewhere))
        kept[-1].cached("u:{y}")(lambda y: -y)
    with pytest.raises(KeyFormatError, match="can be those of"):
        globalcache.Cache(["globalcache://b:1", "globalcache://a:1/2"]).cached("u:{x}")(lambda x: x)
    del one
    other.cached("u:{y}")(lambda y: -y)


def test_words_of_a_function_may_be_those_of_its_methods() -> None:
    cache = Cache()

    @cache.cached("v:{value}:{self}")
    def f(value: int, self: int = 0) -> int:
        return value + self

    assert f(value=3, self=1) == 4
    f.set(9, value=3, self=1)
    assert (f(3, 1), f.key(value=3, self=1), f.refresh(value=3, self=1)) == (9, "v:3:1", 4)


def test_none_is_a_result_where_the_annotation_says_so() -> None:
    """Whatever `absent` says, which is for exceptions; and it can be set, as a row that does not exist."""
    cache = Cache()

    @cache.cached("maybe:{id}", absent=[UserNotFound], tags=["all"], negative_ttl="5s")
    def maybe(id: int) -> str | None:
        return str(id) if id else None

    assert (maybe(0), maybe(0)) == (None, None)
    assert maybe(1) == "1"
    maybe.set(None, 1)
    assert (maybe(1), cache.plain.values["maybe:1"], cache.plain.policies["maybe:1"].negative_ttl) == (None, None, 5)

    @cache.cached("never:{id}", absent=[UserNotFound])
    def never(id: int) -> str:
        return None if id else ""  # type: ignore[return-value]

    with pytest.raises(UserNotFound, match="never:1"):
        never(1)


def test_none_is_set_as_a_row_that_does_not_exist() -> None:
    """With real values: None is none of type `str`, so it is no value that could be read back."""
    with globalcache.Cache("memory://") as cache:

        @cache.cached("one:{id}", negative_ttl="5s", ttl="1h")
        def one(id: int) -> str | None:
            return str(id)

        @cache.batch_loader("many:{id}", negative_ttl="5s")
        def many(ids: list[int]) -> dict[int, str]:
            return {each: str(each) for each in ids}

        assert (one(1), many([1])) == ("1", {1: "1"})
        one.set(None, 1)
        many.set(None, 1)
        assert (one(1), many([1])) == (None, {})
        assert [cache.inspect(key)["state"] for key in ("one:1", "many:1")] == ["absent", "absent"]
        assert cache.inspect("one:1")["ttl_ms"] <= 5000


def test_none_is_awaited_as_a_row_that_does_not_exist() -> None:
    async def use() -> None:
        async with globalcache.AsyncCache("memory://") as cache:

            @cache.cached("one:{id}")
            async def one(id: int) -> str | None:
                return str(id)

            @cache.batch_loader("many:{id}")
            async def many(ids: list[int]) -> dict[int, str]:
                return {each: str(each) for each in ids}

            await one.set(None, 1)
            await many.set(None, 1)
            assert (await one(1), await many([1])) == (None, {})

    asyncio.run(use())


def test_a_load_is_given_the_float_that_stands_in_the_key() -> None:
    """1 and 1.0 are one call where `float` is annotated, so the function must not see which came first."""
    cache = Cache()

    @cache.cached("sync:{x}")
    def sync(x: float) -> str:
        return repr(x)

    @cache.cached("awaited:{x}")
    async def awaited(x: float) -> str:
        return repr(x)

    assert (sync(1), sync(1.0), asyncio.run(awaited(x=1))) == ("1.0", "1.0", "1.0")


def test_a_bound_method_is_read_as_its_function_says() -> None:
    """Before and after the annotation is resolved; its signature has no receiver."""
    cache = Cache()

    class Users:
        tenant = "a"

        @cache.cached("{self.tenant}:{id}")
        def user(self, id: int) -> Late:  # type: ignore[name-defined]  # noqa: F821
            return globals()["Late"](id)

    @dataclasses.dataclass
    class Local:
        id: int

    globals()["Late"] = Local
    try:
        users = Users()
        for _ in range(2):
            bound: Any = users.user
            assert bound(1) == Local(1)
            assert bound._type is Local  # noqa: SLF001
        assert list(inspect.signature(users.user).parameters) == ["id"]
        assert list(inspect.signature(Users.user).parameters) == ["self", "id"]
    finally:
        del globals()["Late"]


PICKLED = Cache()


@PICKLED.cached("pickled:{id}")
def pickled(id: int) -> int:
    return id


@PICKLED.batch_loader("pickled_rows:{id}")
async def pickled_rows(ids: list[int]) -> dict[int, int]:
    return {each: each for each in ids}


class Till:
    """An object with a cached method, which is equal to another one with the same number."""

    def __init__(self, number: int) -> None:
        self.number = number

    @PICKLED.cached("pickled_method:{self.number}:{id}")
    async def price(self, id: int) -> int:
        return id * self.number

    @staticmethod
    @PICKLED.loader("pickled_static:{id}")
    def rate(id: int) -> int:
        return id


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cached_functions_are_pickled_by_name_as_others(protocol: int) -> None:
    """As processes need it that are not forked, whose arguments are pickled."""
    for function in (pickled, pickled_rows, Till.price, Till.rate):
        assert pickle.loads(pickle.dumps(function, protocol)) is function  # noqa: S301
    bound = pickle.loads(pickle.dumps(Till(3).price, protocol))  # noqa: S301
    assert asyncio.run(bound(7)) == 21
    local = PICKLED.cached("pickled_local:{number}")(lambda number: number)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local, protocol)


def test_cached_functions_are_copied_as_others() -> None:
    """A function is its own copy; a method of an object that is copied deeply belongs to the copy."""
    for function in (pickled, pickled_rows, Till.price):
        assert copy.copy(function) is copy.deepcopy(function) is function
    till = Till(2)
    prices: dict[str, Any] = copy.deepcopy({"till": till, "price": till.price})
    till.number = 3
    assert prices["till"] is not till
    assert prices["price"]._receiver == (prices["till"],)  # noqa: SLF001
    assert copy.copy(till.price)._receiver == (till,)  # noqa: SLF001
