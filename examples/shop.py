"""A small shop on SQLite whose products and orders any client gets out of the cache.

    globalcache serve shop:cache        the cache and a worker that runs the loaders below (in this folder)
    python shop.py create               make shop.db anew: 1,000 products, 200 orders
    python shop.py price 1 19.90        UPDATE, commit, invalidate: nobody is shown the old price after that
    python shop.py down                 the database goes away; `up` brings it back

Every query is printed by the process that runs it.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy

from globalcache import Cache

DATABASE = Path(__file__).with_name("shop.db")
AWAY = DATABASE.with_name("shop.db.away")

cache = Cache()


def connect() -> sqlite3.Connection:
    """Open the database as it is: one that is away is not made anew."""
    return sqlite3.connect(f"file:{DATABASE}?mode=rw", uri=True)


def log(begun: float, table: str, query: str, rows: int) -> None:
    """Print a query."""
    now = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    took = (time.perf_counter() - begun) * 1000
    count = f"{rows} row" if rows == 1 else f"{rows} rows"
    print(f"  {now}  {table} {count:<8} {took:5.1f} ms   {query}", flush=True)


@cache.batch_loader(
    "product:{id:int}", ttl="5m", refresh_after="1m", negative_ttl="10s", stale_if_error="1h", tags=["products"]
)
def products(ids: list[int]) -> dict[int, dict[str, Any]]:
    """Load products, many at a time."""
    begun = time.perf_counter()
    marks = ", ".join("?" * len(ids))
    with closing(connect()) as db:
        rows = db.execute(f"select id, name, price from product where id in ({marks})", ids).fetchall()  # noqa: S608
    shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    log(begun, "product", f"select ... where id in ({shown})", len(rows))
    return {row[0]: dict(zip(("id", "name", "price"), row, strict=True)) for row in rows}


order = cache.sql_loader(
    "order:{id:int}",
    url=f"sqlite:///file:{DATABASE}?mode=rw&uri=true",
    query="select id, product, quantity from orders where id in :ids",
    ttl="1m",
    tags=["orders"],
)


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
def _begin(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:  # noqa: ARG001, FBT001, PLR0913, PLR0917
    context.begun = time.perf_counter()


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "after_cursor_execute")
def _end(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:  # noqa: ARG001, FBT001, PLR0913, PLR0917
    log(context.begun, "order", f"{statement.partition(' where')[0]} ... {list(parameters)}", len(parameters))


def create() -> None:
    """Make the database anew."""
    names = ["Tea", "Coffee", "Cocoa", "Milk", "Bread", "Butter", "Honey", "Salt"]
    AWAY.unlink(missing_ok=True)
    new = DATABASE.with_suffix(".new")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new)) as db:
        db.execute("create table product (id integer primary key, name text, price real)")
        db.execute("create table orders (id integer primary key, product integer, quantity integer)")
        rows = [(n, names[(n - 1) % len(names)], 4.5 + (n - 1) % 40 * 0.25) for n in range(1, 1001)]
        db.executemany("insert into product values (?, ?, ?)", rows)
        db.executemany("insert into orders values (?, ?, ?)", [(n, n * 7 % 1000 + 1, n % 5 + 1) for n in range(1, 201)])
        db.commit()
    new.replace(DATABASE)


def set_price(id: int, price: float) -> None:
    """Change a price: first in the database, then in the cache."""
    with closing(connect()) as db:
        db.execute("update product set price = ? where id = ?", (price, id))
        db.commit()
    products.invalidate(id)


def main(words: list[str]) -> int:
    """Run a command."""
    match words:
        case ["create"]:
            create()
        case ["price", id, price]:
            set_price(int(id), float(price))
        case ["down"]:
            DATABASE.rename(AWAY)
        case ["up"]:
            AWAY.rename(DATABASE)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
