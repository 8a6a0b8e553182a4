"""What batch loaders take and return, checked: a wrong shape must not look like rows that do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from globalcache.errors import written

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

# Keys that a message shows.
_SHOWN = 3


def apart(items: Sequence[Any]) -> list[dict[Any, int]]:
    """Return items with their places, in groups of which none has two that are equal, as 1, 1.0 and True are.

    A batch loader returns a dict, in which such items would have one place: the row of one would be stored for all.
    """
    groups: list[dict[Any, int]] = [{}]
    for place, item in enumerate(items):
        for group in groups:
            if item not in group:
                group[item] = place
                break
        else:
            groups.append({item: place})
    return groups


def check_apart(name: str, items: Collection[Any]) -> None:
    """Raise TypeError if two items are equal, as 1 and True are: a dict, as batches return, has one row for both."""
    if len(set(items)) == len(items):
        return
    groups = apart(list(items))
    equal = [item for group in groups for item in group if item in groups[1]]
    raise TypeError(f"{name}: {_few(equal)} are equal in Python, so a dict cannot tell their rows apart")


def rows_of(name: str, items: Sequence[Any], found: Any) -> list[Any]:
    """Return the row of each item, None where there is none. Raises TypeError if that cannot be known.

    `found` is what the loader `name` returned for `items`. It may have more than was asked for, but not while
    something that was asked for is missing: that may be the same key in another form, as "1" for 1. No two items are
    equal.
    """
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise TypeError(f"{name} returned {_article(kind)}; it should return a dict of the items it was given")
    rows = [found.get(item) for item in items]
    if None in rows:
        wanted = set(items)
        unknown = [key for key in found if key not in wanted]
        missing = [item for item in items if item not in found]
        if unknown and missing:
            other = f"{_few(unknown)}; it was asked for {_few(missing)}"
            raise TypeError(f"{name} returned keys that it was not asked for: {other}")
    return rows


def listed(name: str, items: Any) -> Iterable[Any]:
    """Return the items that a batch loader was called with. Raises TypeError for a single one in their place."""
    if isinstance(items, str | bytes) or not hasattr(items, "__iter__"):
        raise TypeError(f"{name} takes a list of items: [{written(items)}] instead of {written(items)}")
    given: Iterable[Any] = items
    return given


def values_of(name: str, fields: Sequence[str], item: Any) -> Sequence[Any]:
    """Return the values of an item's fields. Raises TypeError for a list of items, and for too few or many values."""
    if len(fields) == 1:
        if isinstance(item, list | set | dict):
            raise TypeError(f"{name}: an item is one value, not {_article(type(item).__name__)}: pass *items")
        return (item,)
    if not isinstance(item, tuple) or len(item) != len(fields):
        raise TypeError(f"{name}: an item is a tuple of {', '.join(fields)}, not {written(item)}")
    return item


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeio' else 'a'} {kind}"


def _few(keys: Sequence[Any]) -> str:
    return ", ".join(map(written, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")
