"""Rows of a database as values: one query for many keys, by SQLAlchemy.

Every load is a transaction of its own, so that what it reads was committed after its lease was granted. Values are what
JSON has: numbers, texts, and texts of what JSON lacks (decimals, times, UUIDs), so that a hit equals a miss; a type
given by the application stands over that. Knows nothing of caches.

Whether a row belongs to a key is for the database to say, whose collation may find "ada" by "Ada" and "a" by "a  ". One
query for many keys is taken apart by the text of their columns only where that leaves no doubt; else the keys are asked
for in halves, down to single ones, which have all rows that their query gives:

    items: Ada, bob      rows: ada, bob      -> ada is of no item: ask for [Ada] and [bob]
    items: Ada, ada      rows: ada           -> Ada has no row, and may have that of ada: ask for [Ada]
    items: 7, "7", 8     rows: 7             -> it may be of 7, of "7" or of both: ask for [7] and ["7"]
    items: 7, 8          rows: 7             -> 8 has no row
"""

from __future__ import annotations

import logging
import os
import unicodedata
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from globalcache.client.checks import check_type
from globalcache.errors import ConfigError

try:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine
except ImportError:  # pragma: no cover - an extra
    raise ConfigError("SQL loaders need SQLAlchemy: install the extra sql") from None

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    Row: TypeAlias = dict[str, Any]

_log = logging.getLogger("globalcache")
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
        self._query, self._has_warned = query, False
        self._engine: Any = None
        self._pid = 0

    def load(self, items: Sequence[Any]) -> dict[Any, Any]:
        """Return what there is by items: values of the field, or tuples if there are several."""
        if self.is_batch:
            steps = self._sort(items)
            asked = next(steps)
            while True:
                try:
                    asked = steps.send(self._fetch({self._many: list(asked)}))
                except StopIteration as end:
                    return self._found(items, end.value)
        return {item: found for item in items if (found := self._whole(self._fetch(self._named(item)))) is not None}

    async def load_async(self, items: Sequence[Any]) -> dict[Any, Any]:
        """Do the same with an async driver."""
        if self.is_batch:
            steps = self._sort(items)
            asked = next(steps)
            while True:
                rows = await self._fetch_async({self._many: list(asked)})
                try:
                    asked = steps.send(rows)
                except StopIteration as end:
                    return self._found(items, end.value)
        (item,) = items
        found = self._whole(await self._fetch_async(self._named(item)))
        return {} if found is None else {item: found}

    def _named(self, item: Any) -> dict[str, Any]:
        return dict(zip(self._fields, (item,) if len(self._fields) == 1 else item, strict=True))

    def _fetch(self, parameters: dict[str, Any]) -> list[Row]:
        with self._connect().connect() as connection:
            return [dict(row) for row in connection.execute(self._statement, parameters).mappings()]

    async def _fetch_async(self, parameters: dict[str, Any]) -> list[Row]:
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

    def _sort(self, items: Sequence[Any]) -> Generator[Sequence[Any], list[Row], dict[Any, list[Row]]]:
        """Yield the items that are to be asked for, until it is known which rows belong to which; returns that."""
        rows = yield items
        found, in_doubt = self._matched(items, rows)
        if not in_doubt:
            return found
        if len(items) == 1:
            return {items[0]: rows}
        if len(in_doubt) < len(items):
            return found | (yield from self._sort(in_doubt))
        self._warn(rows[0])
        middle = len(items) // 2
        found = yield from self._sort(items[:middle])
        return found | (yield from self._sort(items[middle:]))

    def _matched(self, items: Sequence[Any], rows: list[Row]) -> tuple[dict[Any, list[Row]], Sequence[Any]]:
        """Give every item its rows by the text of their columns; returns also the items of which that is in doubt."""
        # As text, since a driver may give a number as a decimal.
        known: dict[tuple[str, ...], list[Any]] = {}
        for item in items:
            known.setdefault(_texts(item), []).append(item)
        by_text: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            by_text.setdefault(self._key_of(row), []).append(row)
        if not by_text.keys() <= known.keys() or len({tuple(map(_loose, texts)) for texts in by_text}) < len(by_text):
            return {}, items
        found = {known[texts][0]: some for texts, some in by_text.items() if len(known[texts]) == 1}
        if not rows or all(map(_is_exact, items)):
            return found, []
        return found, [item for item in items if item not in found]

    def _key_of(self, row: Row) -> tuple[str, ...]:
        try:
            return tuple(str(row[column]) for column in self._columns)
        except KeyError as error:
            raise ConfigError(f"key: the query gives no column {error}") from None

    def _warn(self, row: Row) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "globalcache: the database finds %r by other spellings as well, so its keys are asked for apart: %s",
                ":".join(self._key_of(row)),
                self._query,
            )

    def _found(self, items: Sequence[Any], rows: dict[Any, list[Row]]) -> dict[Any, Any]:
        given = ((item, rows.get(item, [])) for item in items)
        return {item: self._whole(of_item) for item, of_item in given if of_item or self._rows == "all"}

    def _whole(self, rows: list[Row]) -> Any:
        if self._rows == "all":
            return [self._value(row) for row in rows]
        if len(rows) > 1:
            raise ValueError("several rows have one key; give rows='all', or ask for one")
        return self._value(rows[0]) if rows else None

    def _value(self, row: Row) -> Any:
        value = msgspec.to_builtins(row)
        if self._kind is None:
            return value
        check_type(self._kind)
        return msgspec.convert(value, self._kind)


def _texts(item: Any) -> tuple[str, ...]:
    return tuple(map(str, item)) if isinstance(item, tuple) else (str(item),)


def _is_exact(item: Any) -> bool:
    """Return whether a database takes this for no other key of its kind, as it may take "1" or 1.0 for 1."""
    return all(type(part) in {int, UUID} for part in (item if isinstance(item, tuple) else (item,)))


def _loose(text: str) -> str:
    """Return a text without what collations pass over: case, accents, and blanks at its ends."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).strip()
