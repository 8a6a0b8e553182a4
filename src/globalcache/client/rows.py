"""Rows of a database as values: one query for many keys, by SQLAlchemy.

Every load is a transaction of its own, so that what it reads was committed after its lease was granted. Values are what
JSON has: numbers, texts, and texts of what JSON lacks (decimals, times, UUIDs), so that a hit equals a miss; a type
given by the application stands over that. Knows nothing of caches.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from globalcache.errors import ConfigError

try:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine
except ImportError:  # pragma: no cover - an extra
    raise ConfigError("SQL loaders need SQLAlchemy: install the extra sql") from None

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Rows = Literal["one", "all"]


class Query:
    """A query that finds rows by the fields of a key.

    With one placeholder that is no field, as in `where id in :ids`, many keys are asked for at once, and `columns` tell
    which row belongs to which; otherwise the placeholders are the fields, and every key is asked for by itself.
    """

    def __init__(  # noqa: PLR0913 - an option each
        self,
        url: str,
        query: str,
        fields: Sequence[str],
        *,
        columns: Sequence[str],
        rows: Rows,
        kind: Any,
        connections: int,
    ) -> None:
        try:
            self._url = sqlalchemy.make_url(url)
            if self._url.drivername == "postgresql":
                self._url = self._url.set(drivername="postgresql+psycopg")
            self.is_async: bool = self._url.get_dialect().is_async
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            raise ConfigError(f"url: {error}") from None
        if rows not in ("one", "all"):
            raise ConfigError(f"rows: {rows!r}: should be 'one' or 'all'")
        self._fields, self._columns = list(fields), list(columns)
        self._rows, self._kind, self._connections = rows, kind, connections
        statement = sqlalchemy.text(query)
        names = set(statement.compile().params)
        self.is_batch = len(names) == 1 and not names & set(fields)
        if self.is_batch:
            (self._many,) = names
            statement = statement.bindparams(sqlalchemy.bindparam(self._many, expanding=True))
            if len(self._columns) != len(fields):
                raise ConfigError(
                    f"key: should name {len(fields)} columns, by which a row is known to belong to its key"
                )
        elif names != set(fields):
            raise ConfigError(
                f"query: has {', '.join(f':{name}' for name in sorted(names)) or 'no placeholder'}; "
                f"should have {', '.join(f':{name}' for name in fields)}, or one such as `in :ids`"
            )
        self._statement = statement
        self._engine: Any = None
        self._pid = 0

    def load(self, items: Sequence[Any]) -> dict[Any, Any]:
        """Return what there is by items: values of the field, or tuples if there are several."""
        if self.is_batch:
            return self._sorted(items, self._fetch({self._many: list(items)}))
        return {item: found for item in items if (found := self._whole(self._fetch(self._named(item)))) is not None}

    async def load_async(self, items: Sequence[Any]) -> dict[Any, Any]:
        """Do the same with an async driver."""
        if self.is_batch:
            return self._sorted(items, await self._fetch_async({self._many: list(items)}))
        (item,) = items
        found = self._whole(await self._fetch_async(self._named(item)))
        return {} if found is None else {item: found}

    def _named(self, item: Any) -> dict[str, Any]:
        return dict(zip(self._fields, (item,) if len(self._fields) == 1 else item, strict=True))

    def _fetch(self, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        with self._connect().connect() as connection:
            return [dict(row) for row in connection.execute(self._statement, parameters).mappings()]

    async def _fetch_async(self, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        async with self._connect().connect() as connection:
            return [dict(row) for row in (await connection.execute(self._statement, parameters)).mappings()]

    def _connect(self) -> Any:
        """Return the engine of this process: connections do not live on in a forked child."""
        if self._engine is None or self._pid != os.getpid():
            if self._engine is not None:
                self._engine.sync_engine.dispose(close=False) if self.is_async else self._engine.dispose(close=False)
            make = create_async_engine if self.is_async else sqlalchemy.create_engine
            options: dict[str, Any] = {"pool_pre_ping": True}
            if self._url.database not in (None, "", ":memory:"):
                options |= {"pool_size": self._connections, "max_overflow": 0}
            self._engine, self._pid = make(self._url, **options), os.getpid()
        return self._engine

    def close(self) -> None:
        """Close the connections of this process."""
        if self._engine is not None:
            self._engine.dispose()

    async def close_async(self) -> None:
        """Do the same with an async driver."""
        if self._engine is not None:
            await self._engine.dispose()

    def _sorted(self, items: Sequence[Any], rows: Iterable[dict[str, Any]]) -> dict[Any, Any]:
        """Give every item its rows. Compared as text, since a driver may give a number as a decimal."""
        is_single = len(self._columns) == 1
        known = {(str(item),) if is_single else tuple(map(str, item)): item for item in items}
        found: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            try:
                item = known.get(tuple(str(row[column]) for column in self._columns))
            except KeyError as error:
                raise ConfigError(f"key: the query gives no column {error}") from None
            if item is not None:
                found.setdefault(item, []).append(row)
        if self._rows == "all":
            return {item: self._whole(found.get(item, [])) for item in items}
        return {item: self._whole(rows) for item, rows in found.items()}

    def _whole(self, rows: list[dict[str, Any]]) -> Any:
        if self._rows == "all":
            return [self._value(row) for row in rows]
        if len(rows) > 1:
            raise ValueError("several rows have one key; give rows='all', or ask for one")
        return self._value(rows[0]) if rows else None

    def _value(self, row: dict[str, Any]) -> Any:
        value = msgspec.to_builtins(row)
        return value if self._kind is None else msgspec.convert(value, self._kind)
