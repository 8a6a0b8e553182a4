"""A FastAPI application on a cache: one query per missing product, however many requests and processes miss.

    uvicorn fastapi_app:app        in this folder; `make run` in another terminal starts the cache
    curl localhost:8000/products/1
    curl -X PUT 'localhost:8000/products/1?price=5'

$GLOBALCACHE_URL names the cache, else 127.0.0.1:7411. Without a cache it works from the database.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException

from globalcache import AsyncCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATABASE = Path(__file__).with_name("shop.db")

cache = AsyncCache(namespace="fastapi")


@dataclasses.dataclass
class Product:
    """A row of the table product."""

    id: int
    name: str
    price: float


class NoSuchProductError(Exception):
    """There is no such row: that is remembered too, and raised in every process."""


def connect() -> sqlite3.Connection:
    """Open the database as it is: one that is away is not made anew."""
    return sqlite3.connect(f"file:{DATABASE}?mode=rw", uri=True)


def query(id: int) -> Product:
    """Ask the database."""
    with closing(connect()) as db:
        row = db.execute("select id, name, price from product where id = ?", (id,)).fetchone()
    if row is None:
        raise NoSuchProductError(id)
    return Product(*row)


def update(id: int, price: float) -> int:
    """Change a row and commit; returns how many there were."""
    with closing(connect()) as db, db:
        return db.execute("update product set price = ? where id = ?", (price, id)).rowcount


@cache.cached(
    "product:{id}",
    ttl="5m",
    refresh_after="1m",
    stale_if_error="1h",
    tags=["products"],
    absent=[NoSuchProductError],
)
async def product(id: int) -> Product:
    """Return a product from the cache, else from the database."""
    return await asyncio.to_thread(query, id)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the connections of the cache with the application; the first request opens them."""
    async with cache:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/products/{id}")
async def show(id: int) -> Product:
    """Show a product."""
    try:
        return await product(id)
    except NoSuchProductError:
        raise HTTPException(404, "there is no such product") from None


@app.put("/products/{id}")
async def change(id: int, price: float) -> Product:
    """Change a price. Nobody on any node is shown the old one after this was answered."""
    if not await asyncio.to_thread(update, id, price):
        raise HTTPException(404, "there is no such product")
    await product.invalidate(id)
    return await product(id)


@app.get("/health")
async def health() -> dict[str, float]:
    """Tell what the cache did for this process."""
    return cache.stats()
