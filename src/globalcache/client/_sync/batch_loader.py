"""Functions that load many rows at once, cached row by row, as they are called.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from globalcache.client._sync.cached_function import no_row
from globalcache.client.batch_loader import BaseBatchLoader
from globalcache.client.batches import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

K = TypeVar("K")
V = TypeVar("V")


class BatchLoader(BaseBatchLoader[K, V]):
    """A function that loads many rows at once, cached row by row."""

    def __call__(self, items: Iterable[K]) -> dict[K, V]:
        """Return what there is of these items; those that nobody has are loaded together."""
        keys = self._keys(listed(self.loader.name, items))

        def load_many(missing: list[str]) -> dict[str, V | None]:
            wanted = {key: keys[key] for key in missing}
            return self._by_key(wanted, self.loader.function(list(wanted.values())))

        values = self._cache.sync.get_or_load_many(
            list(keys),
            load_many,
            policy=self.loader.policy,
            type=self.loader.type,
            wait=self._wait,
            guard=self.loader.guard,
        )
        return self._by_item(keys, values)

    @property
    def uncached(self) -> Callable[[list[K]], Mapping[K, V]]:
        """The function itself."""
        return self.loader.function

    def invalidate(self, *items: K) -> None:
        """Forget these items, on every node."""
        self._cache.sync.invalidate(*map(self.key, items))

    def refresh(self, *items: K) -> dict[K, V]:
        """Forget these items and load them anew."""
        self._cache.sync.invalidate(*self._keys(items))
        return self(items)

    def set(self, value: V | None, item: K) -> None:
        """Put a value in place of an item. None is a row that does not exist."""
        (key,), cache, policy, kind = self._keys([item]), self._cache.sync, self.loader.policy, self.loader.type
        if value is not None:
            cache.set(key, value, policy=policy, type=kind)
            return
        cache.invalidate(key)
        cache.get_or_load(key, no_row, policy=policy, type=kind, wait=self._wait)
