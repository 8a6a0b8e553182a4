"""How a worker loads the keys of a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from globalcache.client.annotations import LaterType, resolve
from globalcache.client.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from globalcache.keys import KeyTemplate
    from globalcache.policy import Policy

# What a worker does at a time, for how long, and how much of it at once, unless it is told otherwise.
TIMEOUT = 10.0
CONCURRENCY = 32
BATCH = 500
MAX_WAIT = 0.001
NO_GUARD = Guard("")


class Loader(msgspec.Struct, frozen=True, eq=False):
    """How a worker loads the keys of a pattern.

    `function` takes the values of the key's fields in their order, or a list of them (`batch`): plain values if the key
    has one field, tuples otherwise. It returns the value, or a mapping from what it was given to values; None, or what
    is not in the mapping, is a row that does not exist.
    """

    name: str
    template: KeyTemplate
    function: Callable[..., Any]
    is_async: bool
    policy: Policy
    kind: Any = None  # what values are read as; a LaterType until `type` is asked for
    guard: Guard = NO_GUARD
    tags: tuple[KeyTemplate, ...] = ()
    batch: int = 0
    max_wait: float = 0.0
    timeout: float = TIMEOUT
    concurrency: int = CONCURRENCY
    close: Callable[[], Any] | None = None  # gives back what it holds; awaited if `is_async`

    @property
    def type(self) -> Any:
        """What values are read as; None if nothing is known. Raises TypeError for an annotation that is not there."""
        return resolve(self, self.kind) if isinstance(self.kind, LaterType) else self.kind

    def tags_of(self, values: Sequence[Any]) -> list[str]:
        """Return the tags of what is loaded for the values of a key's fields."""
        if not self.tags:
            return []
        arguments = dict(zip(self.template.field_names, values, strict=True))
        return [tag.format(arguments) for tag in self.tags]
