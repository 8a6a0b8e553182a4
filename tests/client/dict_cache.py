"""A cache that is a dict, for functions that are decorated with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from globalcache.client.decorators import Decorators
from globalcache.client.guard import Absent, Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from globalcache.policy import Policy


class Plain:
    """A cache in a dict; None is absence."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.policies: dict[str, Policy] = {}

    def get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        *,
        policy: Policy | Callable[[], Policy],
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        if key not in self.values:
            value = load()
            absent = value if isinstance(value, Absent) else None
            self.set(key, None if absent else value, policy=policy() if callable(policy) else policy, type=type)
            if absent and absent.error:
                raise absent.error
        return self.values[key]

    def get_or_load_many(
        self,
        keys: Iterable[str],
        load_many: Callable[[list[str]], Any],
        *,
        policy: Policy,
        type: Any = None,
        wait: float | None = None,
        guard: Guard | None = None,
    ) -> Any:
        keys = list(keys)
        missing = [key for key in keys if key not in self.values]
        if missing:
            self.values |= load_many(missing)
        return {key: self.values[key] for key in keys}

    def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> None:
        for key in keys:
            self.values.pop(key, None)

    def set(self, key: str, value: Any, *, policy: Policy, type: Any = None) -> None:
        self.values[key] = value
        self.policies[key] = policy


class Awaited(Plain):
    """The same for async functions."""

    async def get_or_load(self, key: str, load: Callable[[], Any], **options: Any) -> Any:
        if key not in self.values:
            await self.set(key, await load(), policy=options["policy"])
        return self.values[key]

    async def get_or_load_many(self, keys: Iterable[str], load_many: Callable[[list[str]], Any], **_: Any) -> Any:
        keys = list(keys)
        missing = [key for key in keys if key not in self.values]
        if missing:
            self.values |= await load_many(missing)
        return {key: self.values[key] for key in keys}

    async def invalidate(self, *keys: str, **_: Any) -> None:  # type: ignore[override]
        super().invalidate(*keys)

    async def set(self, key: str, value: Any, *, policy: Policy, **_: Any) -> None:  # type: ignore[override]
        super().set(key, value, policy=policy)


class Cache(Decorators):
    """Both doors over one dict."""

    def __init__(self) -> None:
        self.plain, self.awaited = Plain(), Awaited()
        self.awaited.values = self.plain.values

    @property
    def sync(self) -> Plain:
        return self.plain

    @property
    def aio(self) -> Awaited:
        return self.awaited
