"""SQL loaders: a query as a function of the fields of its keys, which is decorated as any other."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from globalcache.client.rows import Query
from globalcache.keys import KeyTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globalcache.client.rows import Rows


class SqlFunction(NamedTuple):
    """A query as functions: `single` is called with the fields of one key, `many` with a list of what is in keys."""

    name: str
    query: Query
    single: Callable[..., Any]
    many: Callable[..., Any] | None  # None if keys are asked for one by one
    close: Callable[[], Any]
    keys: KeyTemplate
    columns: tuple[str, ...]


def sql_function(  # noqa: PLR0913 - an option each
    template: str,
    *,
    url: str,
    query: str,
    key: str | Sequence[str] | None,
    rows: Rows,
    kind: Any,
    connections: int,
) -> SqlFunction:
    """Return the functions of a query for keys of a template. Raises ConfigError for a query that does not fit it."""
    fields = KeyTemplate.names(template)
    columns = fields if key is None else [key] if isinstance(key, str) else list(key)
    asked = Query(url, query, fields, columns=columns, rows=rows, kind=kind, connections=connections)
    name = _slug(template)
    single = _single(asked, name, query, fields)
    many = asked.load_async if asked.is_async else asked.load
    return SqlFunction(
        name,
        asked,
        single,
        many if asked.is_batch else None,
        asked.close_async if asked.is_async else asked.close,
        KeyTemplate(template, single, longest=None),
        tuple(columns),
    )


def _single(asked: Query, name: str, query: str, fields: Sequence[str]) -> Callable[..., Any]:
    """Return a function with the fields as parameters."""

    def load(*values: Any) -> Any:
        item = values[0] if len(values) == 1 else values
        return asked.load([item]).get(item)

    async def load_async(*values: Any) -> Any:
        item = values[0] if len(values) == 1 else values
        return (await asked.load_async([item])).get(item)

    single: Any = load_async if asked.is_async else load
    single.__module__, single.__qualname__, single.__name__ = "sql", name, name
    single.__signature__ = inspect.Signature(
        [inspect.Parameter(field, inspect.Parameter.POSITIONAL_OR_KEYWORD) for field in fields]
    )
    single.__doc__ = query
    single.__annotations__ = {}
    return single  # type: ignore[no-any-return]


def _slug(template: str) -> str:
    """Return what a loader without a function is called: what its keys begin with."""
    return template.partition("{")[0].strip(":/-_.") or "sql"
