"""A cache backend for Django, and invalidation after commit.

    CACHES = {
        "default": {
            "BACKEND": "globalcache.contrib.django.GlobalCache",
            "LOCATION": "globalcache://127.0.0.1:7411",  # or a list of servers; "": $GLOBALCACHE_URL
            "TIMEOUT": 300,
            "OPTIONS": {"namespace": "shop"},  # and what Cache takes: timeout, on_error, codec, compress_over ...
        }
    }

Keys, prefixes, versions and time-outs are Django's. Calls with `a` before their name go through one connection of the
event loop instead of a thread. `clear()` is one step however much there is, and empties the namespace ("django" unless
named), which caches with the same LOCATION share; `get_or_set` asks its callable in one process alone among all.

Values are pickled, as Django's users expect, and signed with a key made of SECRET_KEY, so that nobody who can write to
the cache can have code run here; a value signed with another key counts as absent. `"codec": "json"` does without.

Without a server reads find nothing, and what could not be written is made good later; `add`, `incr` and `has_key`
raise UnavailableError, for their answer cannot be made up.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache import cache as default_cache
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import transaction

from globalcache.client._sync.cache import Cache
from globalcache.errors import LoadError, ReplyError
from globalcache.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAMESPACE = "django"

# Django makes a backend for every thread and every request of an event loop; they share these and their connections.
_caches: dict[Any, Cache] = {}
_lock = threading.Lock()


def _cache_of(urls: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> Cache:
    with _lock:
        known = (urls, options)
        if known not in _caches:
            _caches[known] = Cache(urls or None, **dict(options))
        return _caches[known]


def _secret() -> bytes:
    key = settings.SECRET_KEY
    return hashlib.sha256(b"globalcache.contrib.django" + (key if isinstance(key, bytes) else key.encode())).digest()


class _None:
    """A None that a load gave: it is pickled as None itself, where a load's None would be "there is no such row"."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


class GlobalCache(BaseCache):  # type: ignore[misc]  # Django has no types
    """Django's cache on a globalcache server. `set` and `add` also take tags, by which `invalidate` forgets."""

    def __init__(self, location: str | Iterable[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        places = location.replace(",", ";").split(";") if isinstance(location, str) else location
        options = {"namespace": _NAMESPACE, "codec": "pickle"} | params.get("OPTIONS", {})
        for not_ours in ("MAX_ENTRIES", "CULL_FREQUENCY"):
            options.pop(not_ours, None)
        if options["codec"] == "pickle":
            options.setdefault("secret", _secret())
        self._pickles = options["codec"] == "pickle"
        urls = tuple(place.strip() for place in places if place.strip())
        self._cache = _cache_of(urls, tuple(sorted(options.items())))

    @property
    def _aio(self) -> Any:
        return self._cache.aio

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return seconds; None for ever, 0 for what is not to be kept."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(0.0, float(timeout))

    def _keys(self, keys: Iterable[str], version: int | None) -> dict[str, str]:
        """Return what was asked for by the key that is sent."""
        return {self.make_and_validate_key(key, version=version): key for key in keys}

    # Each call once for threads and once for tasks.

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return a value, else the default."""
        return self._cache.get(self.make_and_validate_key(key, version=version), default)

    async def aget(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return a value, else the default."""
        return await self._aio.get(self.make_and_validate_key(key, version=version), default)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return what there is of these keys."""
        asked = self._keys(keys, version)
        return {asked[name]: value for name, value in self._cache.get_many(asked).items()}

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return what there is of these keys."""
        asked = self._keys(keys, version)
        return {asked[name]: value for name, value in (await self._aio.get_many(asked)).items()}

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Tell whether there is a value. Raises UnavailableError."""
        return self._cache.has(self.make_and_validate_key(key, version=version))

    async def ahas_key(self, key: str, version: int | None = None) -> bool:
        """Tell whether there is a value. Raises UnavailableError."""
        return bool(await self._aio.has(self.make_and_validate_key(key, version=version)))

    def set(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> None:
        """Write a value."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        if ttl == 0:
            self._cache.delete(name)
        else:
            self._cache.set(name, value, policy=Policy(ttl, tags=tags))  # type: ignore[arg-type]  # it takes any

    async def aset(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> None:
        """Write a value."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        if ttl == 0:
            await self._aio.delete(name)
        else:
            await self._aio.set(name, value, policy=Policy(ttl, tags=tags))  # type: ignore[arg-type]

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Write several values; returns the keys if not all of them could be written."""
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:
            self.delete_many(data, version=version)
            return []
        values = {name: data[key] for name, key in self._keys(data, version).items()}
        return [] if self._cache.set_many(values, ttl=ttl) == len(values) else list(data)

    async def aset_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Write several values; returns the keys if not all of them could be written."""
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:
            await self.adelete_many(data, version=version)
            return []
        values = {name: data[key] for name, key in self._keys(data, version).items()}
        return [] if await self._aio.set_many(values, ttl=ttl) == len(values) else list(data)

    def add(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> bool:
        """Write a value only if there is none. Raises UnavailableError."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        return not self._cache.has(name) if ttl == 0 else self._cache.add(name, value, ttl=ttl, tags=tags)

    async def aadd(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> bool:
        """Write a value only if there is none. Raises UnavailableError."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        return not await self._aio.has(name) if ttl == 0 else await self._aio.add(name, value, ttl=ttl, tags=tags)

    def get_or_set(self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Return a value; if there is none, one caller among all processes asks `default` and the others wait."""
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0 or not callable(default) or not self._pickles:
            return super().get_or_set(key, default, timeout, version)
        name = self.make_and_validate_key(key, version=version)
        try:
            value = self._cache.get_or_load(
                name, functools.partial(_load, default), policy=Policy(ttl, jitter=0), guard=self._guard_of(default)
            )
        except LoadError:
            # It failed elsewhere a moment ago; what it raises is what the caller knows how to handle.
            return super().get_or_set(key, default, timeout, version)
        return _shown(value)

    async def aget_or_set(
        self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return a value; if there is none, one caller among all processes asks `default` and the others wait."""
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0 or not callable(default) or not self._pickles:
            return await super().aget_or_set(key, default, timeout, version)
        name = self.make_and_validate_key(key, version=version)

        async def load() -> Any:  # a coroutine, so that `default` runs where Django runs it: in this loop
            return _load(default)

        try:
            value = await self._aio.get_or_load(name, load, policy=Policy(ttl, jitter=0), guard=self._guard_of(default))
        except LoadError:
            return await super().aget_or_set(key, default, timeout, version)
        return _shown(value)

    def _guard_of(self, default: Any) -> Any:
        # Failures are counted for each function that is given, not for the one around it.
        return self._cache._failures.guard_of(default)  # noqa: SLF001

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value another time to live; tells whether there is one."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        return self._cache.delete(name) if ttl == 0 else self._cache.touch(name, ttl)

    async def atouch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value another time to live; tells whether there is one."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        return bool(await (self._aio.delete(name) if ttl == 0 else self._aio.touch(name, ttl)))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a number that is there, else ValueError; TypeError for what is none. Raises UnavailableError."""
        name = self.make_and_validate_key(key, version=version)
        if not self._cache.has(name):
            raise ValueError(f"Key {key!r} not found")
        try:
            # If it went this moment, it begins anew, and does not stay for ever.
            return self._cache.incr(name, delta, ttl=self.get_backend_timeout() or None)
        except ReplyError as error:
            raise _no_number(key, error) from None

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a number that is there, else ValueError; TypeError for what is none. Raises UnavailableError."""
        name = self.make_and_validate_key(key, version=version)
        if not await self._aio.has(name):
            raise ValueError(f"Key {key!r} not found")
        try:
            return int(await self._aio.incr(name, delta, ttl=self.get_backend_timeout() or None))
        except ReplyError as error:
            raise _no_number(key, error) from None

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tells whether there was one."""
        return self._cache.delete(self.make_and_validate_key(key, version=version))

    async def adelete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tells whether there was one."""
        return bool(await self._aio.delete(self.make_and_validate_key(key, version=version)))

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Remove several values."""
        self._cache.delete_many(self._keys(keys, version))

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Remove several values."""
        await self._aio.delete_many(self._keys(keys, version))

    def invalidate(self, *keys: str, tags: str | Iterable[str] = (), version: int | None = None) -> int:
        """Forget keys, and all that has one of these tags; what is being loaded for them is not stored."""
        return self._cache.invalidate(*self._keys(keys, version), tags=tags)

    async def ainvalidate(self, *keys: str, tags: str | Iterable[str] = (), version: int | None = None) -> int:
        """Forget keys, and all that has one of these tags; what is being loaded for them is not stored."""
        return int(await self._aio.invalidate(*self._keys(keys, version), tags=tags))

    def clear(self) -> bool:
        """Forget everything in the namespace, in one step."""
        return bool(self._cache.clear())

    async def aclear(self) -> bool:
        """Forget everything in the namespace, in one step."""
        return bool(await self._aio.clear())


def _no_number(key: str, error: ReplyError) -> Exception:
    return TypeError(f"Key {key!r} holds no whole number") if "not an integer" in str(error) else error


def _load(default: Any) -> Any:
    value = default()
    return _None() if value is None else value


def _shown(value: Any) -> Any:
    return None if type(value) is _None else value


def invalidate_on_commit(
    *keys: str, tags: str | Iterable[str] = (), cache: Any = default_cache, using: str | None = None
) -> None:
    """Invalidate once the transaction of the database `using` is committed; at once if there is none.

    Nothing happens if it is rolled back, or the savepoint within which this was called. `cache` is one of Django's
    caches with this backend, or a globalcache.Cache.
    """
    marks = (tags,) if isinstance(tags, str) else tuple(tags)
    transaction.on_commit(functools.partial(cache.invalidate, *keys, tags=marks), using=using)
