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

Without a server the application goes on as with Django's dummy cache: reads find nothing, writes are dropped (what was
there is invalidated before the server is read again), `add` says that it wrote, so that a session can begin, and `incr`
raises ValueError as for a key that is not there. With `"on_error": "raise"` all of these raise UnavailableError.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache import cache as default_cache
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import transaction

from globalcache.client._sync.cache import Cache
from globalcache.client.fork import ProcessLock
from globalcache.errors import AWAY, ReplyError, written
from globalcache.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAMESPACE = "django"
# Seconds; what is to live for less than the server can measure is gone at once, as in Django's own backends.
_SHORTEST = 0.001

# Django makes a backend for every thread and every request of an event loop; they share these and their connections.
_caches: dict[Any, Cache] = {}
_lock = ProcessLock()


def _cache_of(urls: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> Cache:
    with _lock.own:
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
        self._raises = options.get("on_error") == "raise"
        urls = tuple(place.strip() for place in places if place.strip())
        self._cache = _cache_of(urls, tuple(sorted(options.items())))

    @property
    def _aio(self) -> Any:
        return self._cache.aio

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return seconds; None for ever, 0 for what is not to be kept."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return None
        return float(timeout) if timeout >= _SHORTEST else 0.0

    def _without(self, error: Exception, answer: Any) -> Any:
        """Return what a call answers while there is no server, or raise, as `on_error` says."""
        if self._raises:
            raise error
        return answer

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
        """Tell whether there is a value; without a server there is none."""
        try:
            return self._cache.has(self.make_and_validate_key(key, version=version))
        except AWAY as error:
            return bool(self._without(error, answer=False))

    async def ahas_key(self, key: str, version: int | None = None) -> bool:
        """Tell whether there is a value; without a server there is none."""
        try:
            return bool(await self._aio.has(self.make_and_validate_key(key, version=version)))
        except AWAY as error:
            return bool(self._without(error, answer=False))

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
        """Write a value only if there is none; tells whether it was written, and says so without a server too."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        try:
            return not self._cache.has(name) if ttl == 0 else self._cache.add(name, value, ttl=ttl, tags=tags)
        except AWAY as error:
            return bool(self._without(error, answer=True))

    async def aadd(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> bool:
        """Write a value only if there is none; tells whether it was written, and says so without a server too."""
        name, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        try:
            return not await self._aio.has(name) if ttl == 0 else await self._aio.add(name, value, ttl=ttl, tags=tags)
        except AWAY as error:
            return bool(self._without(error, answer=True))

    def get_or_set(self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Return a value; if there is none, one caller among all processes asks `default` and the others wait."""
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0 or not callable(default) or not self._pickles:
            return super().get_or_set(key, default, timeout, version)
        name = self.make_and_validate_key(key, version=version)
        policy, guard = Policy(ttl, jitter=0), self._guard_of(default)
        asked = False

        def load() -> Any:
            nonlocal asked
            asked = True
            return _load(default())

        try:
            return _shown(self._cache.get_or_load(name, load, policy=policy, guard=guard))
        except Exception:
            # What its callable raises is what a caller knows how to handle, not what another one raised for this key.
            if asked:
                raise
        return super().get_or_set(key, default, timeout, version)

    async def aget_or_set(
        self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return a value; if there is none, one caller among all processes asks `default` and the others wait.

        `default` may be a coroutine function.
        """
        asked = False

        async def load() -> Any:  # a coroutine, so that `default` runs where Django runs it: in this loop
            nonlocal asked
            asked = True
            value = default()
            return await value if inspect.isawaitable(value) else value

        async def load_shown() -> Any:
            return _load(await load())

        ttl = self.get_backend_timeout(timeout)
        if ttl == 0 or not callable(default) or not self._pickles:
            return await self._get_or_add(key, load if callable(default) else default, timeout, version)
        name = self.make_and_validate_key(key, version=version)
        policy, guard = Policy(ttl, jitter=0), self._guard_of(default)
        try:
            return _shown(await self._aio.get_or_load(name, load_shown, policy=policy, guard=guard))
        except Exception:
            if asked:
                raise
        return await self._get_or_add(key, load, timeout, version)

    async def _get_or_add(self, key: str, default: Any, timeout: Any, version: int | None) -> Any:
        """Do as Django does where loads are not joined: read, else ask and add what came."""
        value = await self.aget(key, self._missing_key, version=version)
        if value is not self._missing_key:
            return value
        if callable(default):
            default = await default()
        if default is not None:
            await self.aadd(key, default, timeout=timeout, version=version)
        return await self.aget(key, default, version=version)

    def _guard_of(self, default: Any) -> Any:
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
        """Add to a whole number that is there, else ValueError; TypeError for what is none."""
        name, delta = self.make_and_validate_key(key, version=version), _whole(delta)
        try:
            _check_number(key, self._cache.get(name, self._missing_key), self._missing_key)
            # If it went this moment, it begins anew, and does not stay for ever.
            return self._cache.incr(name, delta, ttl=self.get_backend_timeout() or None)
        except AWAY as error:
            raise self._without(error, _no_key(key)) from None
        except ReplyError as error:
            raise _no_number(key, error) from None

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a whole number that is there, else ValueError; TypeError for what is none."""
        name, delta = self.make_and_validate_key(key, version=version), _whole(delta)
        try:
            _check_number(key, await self._aio.get(name, self._missing_key), self._missing_key)
            return int(await self._aio.incr(name, delta, ttl=self.get_backend_timeout() or None))
        except AWAY as error:
            raise self._without(error, _no_key(key)) from None
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


def _no_key(key: str) -> ValueError:
    return ValueError(f"Key {written(key)} not found")


def _whole(delta: int) -> int:
    if not isinstance(delta, int):
        raise TypeError(f"delta: {written(delta)}: should be a whole number")
    if abs(delta) >> 63:
        raise OverflowError(f"delta: {delta}: numbers in the cache have 64 bits")
    return delta


def _check_number(key: str, value: Any, missing: object) -> None:
    """Raise for what is not there, and for what is no number. The server counts on bytes too that look like one."""
    if value is missing:
        raise _no_key(key)
    if type(value) is not int:
        raise TypeError(f"Key {written(key)} holds no whole number")
    if not -(1 << 63) <= value < 1 << 63:
        raise _overflow(key)


def _overflow(key: str) -> OverflowError:
    return OverflowError(f"Key {written(key)}: numbers in the cache have 64 bits")


def _no_number(key: str, error: ReplyError) -> Exception:
    """Return what Django's callers expect for a number that cannot be counted on."""
    text = str(error)
    if "overflow" in text:
        return _overflow(key)
    return TypeError(f"Key {written(key)} holds no whole number") if "not an integer" in text else error


def _load(value: Any) -> Any:
    """Return what is stored for the result of a callable."""
    return _None() if value is None else value


def _shown(value: Any) -> Any:
    return None if type(value) is _None else value


def invalidate_on_commit(
    *keys: str, tags: str | Iterable[str] = (), cache: Any = default_cache, using: str | None = None
) -> None:
    """Invalidate once the transaction of the database `using` is committed; at once if there is none.

    Nothing happens if it is rolled back, or the savepoint within which this was called. `cache` is one of Django's
    caches with this backend, a globalcache.Cache or an AsyncCache. Raises TypeError for another one, and for keys and
    tags that are no texts. Django runs what waits for a commit in order, and stops at the first that raises: it is
    lost if something before it raises, unless that was given robust=True.
    """
    marks = (tags,) if isinstance(tags, str) else tuple(tags)
    for what, names in (("keys", keys), ("tags", marks)):
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"invalidate_on_commit: {what} are texts, one by one, not {written(name)}")
    # An AsyncCache has a face for plain functions, which is what Django calls.
    invalidate = getattr(getattr(cache, "sync", cache), "invalidate", None)
    if invalidate is None:
        raise TypeError(f"invalidate_on_commit: {type(cache).__name__} is no cache of this backend or of globalcache")
    transaction.on_commit(functools.partial(invalidate, *keys, tags=marks), using=using)
