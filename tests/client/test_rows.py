"""SQL loaders on SQLite and on a PostgreSQL of their own: rows by key, many at once or one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy

from globalcache.client.decorators import Decorators
from globalcache.errors import ConfigError
from tests.postgres import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globalcache.client.loader import Loader

TABLES = """
create table orders (id integer primary key, customer integer, total numeric(10, 2), made timestamp);
create table item (shop integer, sku varchar(20), stock integer);
insert into orders values (1, 7, 4.50, '2026-01-02 03:04:05'), (2, 7, 10.00, '2026-01-03 00:00:00'), (3, 8, 1, null);
insert into item values (1, 'a', 5), (1, '2', 6), (2, 'a', 7);
"""


class Order(msgspec.Struct):
    """An order."""

    id: int
    customer: int


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with cluster() as made:
        yield made.url


@pytest.fixture(params=["sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+psycopg_async"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = request.param
    if name.startswith("sqlite"):
        plain, url = f"sqlite:///{tmp_path}/shop.db", f"{name}:///{tmp_path}/shop.db"
    else:
        plain = request.getfixturevalue("postgres").replace("postgresql:", "postgresql+psycopg:")
        url = plain.replace("postgresql+psycopg:", f"{name}:")
    engine = sqlalchemy.create_engine(plain)
    with engine.begin() as connection:
        for table in ("orders", "item"):
            connection.exec_driver_sql(f"drop table if exists {table}")
        for statement in TABLES.strip().split(";")[:-1]:
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


def load(loader: Loader, *items: Any) -> Any:
    """Do what a worker does, with whatever driver."""
    assert loader.close is not None
    if not loader.is_async:
        try:
            return loader.function(*items)
        finally:
            loader.close()

    async def run() -> Any:
        try:
            return await loader.function(*items)
        finally:
            assert loader.close is not None
            await loader.close()

    return asyncio.run(run())


def test_many_keys_are_one_query(url: str) -> None:
    order = Decorators().sql_loader("order:{id:int}", url=url, query="select id, customer from orders where id in :ids")
    assert order.loader.batch == 500
    assert load(order.loader, [1, 2, 99]) == {1: {"id": 1, "customer": 7}, 2: {"id": 2, "customer": 7}}


def test_one_key_by_its_fields(url: str) -> None:
    cache = Decorators()
    stock = cache.sql_loader(
        "stock:{shop:int}:{sku:str}", url=url, query="select stock from item where shop = :shop and sku = :sku"
    )
    assert stock.loader.batch == 0
    assert load(stock.loader, 1, "2") == {"stock": 6}
    assert stock.key(1, "2") == "stock:1:2"


def test_a_key_of_several_columns(url: str) -> None:
    query = "select shop, sku, stock from item where (shop, sku) in :places"
    stock = Decorators().sql_loader("stock:{shop:int}:{sku:str}", url=url, query=query)
    found = load(stock.loader, [(1, "a"), (2, "a"), (2, "2")])
    assert {item: row["stock"] for item, row in found.items()} == {(1, "a"): 5, (2, "a"): 7}


def test_all_rows_of_a_key(url: str) -> None:
    query = "select id, customer from orders where customer in :customers order by id"
    cache = Decorators()
    orders = cache.sql_loader("orders:{id:int}", url=url, query=query, key="customer", rows="all", type=Order)
    assert load(orders.loader, [7, 9]) == {7: [Order(1, 7), Order(2, 7)], 9: []}
    one = cache.sql_loader("last:{id:int}", url=url, query=query, key="customer")
    with pytest.raises(ValueError, match="several rows have one key"):
        load(one.loader, [7])


@pytest.fixture
def people(tmp_path: Path) -> str:
    """Return the URL of a table whose texts are found in any case."""
    url = f"sqlite:///{tmp_path}/people.db"
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table person (mail text collate nocase, age integer)")
        connection.exec_driver_sql("insert into person values ('ada@x', 1), ('BOB@x', 2), ('eve@x', 3), ('Eve@x', 4)")
    engine.dispose()
    return url


def test_a_batch_finds_what_the_database_finds(people: str, caplog: pytest.LogCaptureFixture) -> None:
    """The database finds "ada@x" by "Ada@X" and "BOB@x" by "bob@x"; by text they are rows of nobody."""
    query = "select mail, age from person where mail in :mails"
    person = Decorators().sql_loader("person:{mail}", url=people, query=query)
    wanted = {"ada@x": 1, "Ada@X": 1, "bob@x": 2}
    for items in (["Ada@X"], ["Ada@X", "bob@x"], ["no@x", "ada@x", "Ada@X", "bob@x", "none@x"], ["ada@x", "Ada@X"]):
        found = load(person.loader, items)
        assert {item: row["age"] for item, row in found.items()} == {
            item: age for item, age in wanted.items() if item in items
        }
    assert sum("other spellings" in record.getMessage() for record in caplog.records) == 1


def test_all_rows_of_every_spelling(people: str) -> None:
    """Two rows differ in case only: each of them belongs to both keys, whichever are asked for together."""
    query = "select mail, age from person where mail in :mails order by age"
    person = Decorators().sql_loader("people:{mail}", url=people, query=query, rows="all")
    for items in (["eve@x"], ["Eve@x", "eve@x"], ["Eve@x", "no@x", "eve@x", "EVE@X"]):
        found = load(person.loader, items)
        assert {item: [row["age"] for row in rows] for item, rows in found.items()} == {
            item: [] if item == "no@x" else [3, 4] for item in items
        }
    with pytest.raises(ValueError, match="several rows have one key"):
        load(Decorators().sql_loader("one:{mail}", url=people, query=query).loader, ["eve@x", "Eve@x"])


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_padded_columns_and_capitals(url: str) -> None:
    """A fixed-length column comes back with blanks, and a UUID in small letters, however it was asked for."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("drop table if exists box")
        connection.exec_driver_sql("create table box (code char(5), mark uuid)")
        connection.exec_driver_sql("insert into box values ('a', 'ABCDEF00-0000-0000-0000-000000000001'), ('b', null)")
    engine.dispose()
    by_code = Decorators().sql_loader("box:{code}", url=url, query="select code, mark from box where code in :codes")
    assert set(load(by_code.loader, ["a", "b", "c"])) == {"a", "b"}
    query = "select mark from box where upper(cast(mark as text)) in :marks"
    by_mark = Decorators().sql_loader("mark:{mark}", url=url, query=query)
    marks = ["ABCDEF00-0000-0000-0000-000000000001", "ABCDEF00-0000-0000-0000-000000000002"]
    assert set(load(by_mark.loader, marks)) == {marks[0]}


def test_numbers_need_one_query(url: str) -> None:
    """Two numbers that differ are two keys to every database, so what is missing is not asked for again."""
    query = "select id, customer from orders where id in :ids"
    order = Decorators().sql_loader("order:{id:int}", url=url, query=query)
    asked: list[Any] = []

    def note(*event: Any) -> None:
        asked.append(event[2])

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        assert load(order.loader, [1, 99]) == {1: {"id": 1, "customer": 7}}
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)
    assert sum("from orders" in statement for statement in asked) == 1


def test_arguments_of_one_text_are_asked_for_apart(url: str) -> None:
    """Of 1 and "1" in one batch each has the row, in whatever order they stand; so has 2 beside "2.0"."""
    order = Decorators().sql_loader("order:{id}", url=url, query="select id, customer from orders where id in :ids")
    assert order.key(1) != order.key("1")
    rows = {1: {"id": 1, "customer": 7}, 2: {"id": 2, "customer": 7}}
    batches: list[list[Any]] = [[1, "1"], ["1", 1], [2, 1, "1"], ["1", 2, 99, 1, "99"]]
    for items in batches:
        assert load(order.loader, items) == {item: rows[int(item)] for item in items if int(item) in rows}


def test_numbers_of_other_kinds_are_asked_for_apart(tmp_path: Path) -> None:
    """The row is that of "1.0" by its text, and of 1 as well by the database."""
    url = f"sqlite:///{tmp_path}/prices.db"
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table price (amount real, name text)")
        connection.exec_driver_sql("insert into price values (1.0, 'one'), (2.5, 'more')")
    engine.dispose()
    price = Decorators().sql_loader("price:{amount}", url=url, query="select * from price where amount in :amounts")
    names = {1: "one", "1.0": "one", "1.00": "one", 2.5: "more"}
    for items in ([1, "1.0"], ["1.0", 1], ["1.00", "1.0"], [2.5, 1, "1.0", 3]):
        found = load(price.loader, items)
        assert {item: row["name"] for item, row in found.items()} == {
            item: names[item] for item in items if item in names
        }


def test_a_query_without_the_column_of_the_key(url: str) -> None:
    order = Decorators().sql_loader("order:{id:int}", url=url, query="select customer from orders where id in :ids")
    with pytest.raises(ConfigError, match="key: the query gives no column 'id'"):
        load(order.loader, [1])


def test_values_are_what_json_has(url: str) -> None:
    order = Decorators().sql_loader("order:{id:int}", url=url, query="select * from orders where id in :ids")
    (row,) = load(order.loader, [1]).values()
    assert msgspec.json.decode(msgspec.json.encode(row)) == row
    assert row["made"].startswith("2026-01-02")


def test_a_load_sees_what_was_committed_before_it(url: str) -> None:
    order = Decorators().sql_loader("order:{id:int}", url=url, query="select customer from orders where id = :id")
    assert load(order.loader, 1) == {"customer": 7}
    plain = url.replace("+aiosqlite", "").replace("+psycopg_async", "")
    engine = sqlalchemy.create_engine(plain.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("update orders set customer = 9 where id = 1")
    engine.dispose()
    assert load(order.loader, 1) == {"customer": 9}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"url": "nosuch://x"}, "url: "),
        ({"query": "select 1"}, "query: has no placeholder; should have :id, or one such as"),
        ({"query": "select 1 where :id = :x"}, "query: has :id, :x; should have :id"),
        ({"rows": "some"}, "rows: 'some': should be"),
        ({"key": ["a", "b"]}, "key: should name 1 columns"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], line: str) -> None:
    given = {"url": "sqlite:///x.db", "query": "select * from x where id in :ids"} | options
    with pytest.raises(ConfigError, match=line):
        Decorators().sql_loader("x:{id:int}", **given)
