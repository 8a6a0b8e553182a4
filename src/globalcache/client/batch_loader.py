"""What the two kinds of batch loaders share, the plain and the async: their keys and their rows.

_async/batch_loader.py has how they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from globalcache.client.batches import check_apart, rows_of, values_of
from globalcache.client.named_function import NamedFunction, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from globalcache.client.claims import Claim
    from globalcache.client.decorators import Decorators
    from globalcache.client.loader import Loader

K = TypeVar("K")
V = TypeVar("V")


class BaseBatchLoader(NamedFunction, Generic[K, V]):
    """What sync and async batch loaders share: they take a list of what stands in the keys, and give a dict."""

    def __init__(self, cache: Decorators, loader: Loader, claim: Claim, wait: float | None) -> None:
        self._cache = cache
        self._claim = claim
        self._wait = wait
        self.loader = loader
        wrap(self, loader.function)

    def _source(self) -> Loader:
        return self.loader

    def key(self, item: K) -> str:
        """Return the key of one item."""
        template = self.loader.template
        return template.format_values(values_of(self.loader.name, template.field_names, item))

    def _keys(self, items: Iterable[K]) -> dict[str, K]:
        """Return items by their keys. Raises TypeError for two that are equal and have keys of their own."""
        self._cache.claims.use(self._claim)
        keys = {self.key(item): item for item in items}
        check_apart(self.loader.name, keys.values())
        return keys

    def _by_key(self, keys: Mapping[str, K], loaded: Mapping[K, V | None]) -> dict[str, V | None]:
        return dict(zip(keys, rows_of(self.loader.name, list(keys.values()), loaded), strict=True))

    def _by_item(self, keys: Mapping[str, K], values: Mapping[str, V | None]) -> dict[K, V]:
        return {item: value for key, item in keys.items() if (value := values.get(key)) is not None}

    def __repr__(self) -> str:
        return f"<batch loader {self.loader.name} {self.loader.template.template!r}>"
