"""The options of a cache and of its loads as types, for editors and type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from globalcache.client.guard import Guard
    from globalcache.policy import Duration, Policy


class CacheOptions(TypedDict, total=False):
    """The options of a cache beside its servers and its namespace; `Cache` says what they mean."""

    timeout: Duration | None
    wait: Duration
    default_ttl: Duration | None
    on_error: Literal["miss", "raise"]
    codec: Literal["json", "msgpack", "pickle"]
    secret: bytes | str | None
    compress_over: int | None
    local_loads: int
    on_event: Callable[[str, dict[str, Any]], object] | None
    tls: ssl.SSLContext | str | None
    tell_text: bool
    # Runs what it is given, a load of a thread in the background, for instance with a database session of its own.
    around_load: Callable[[Callable[[], Any]], Any] | None
    # The time of memory:// in seconds.
    clock: Callable[[], float] | None


class _LoadingOptions(TypedDict, total=False):
    ttl: Duration | None
    refresh_after: Duration | None
    stale_if_error: Duration | None
    negative_ttl: Duration | None
    tags: str | Iterable[str]
    type: Any
    wait: Duration | None
    guard: Guard | None


class LoadManyOptions(_LoadingOptions, total=False):
    """The options of get_or_load_many, which says what they mean."""

    policy: Policy | None


class LoadOptions(_LoadingOptions, total=False):
    """The options of get_or_load, which says what they mean."""

    policy: Policy | Callable[[], Policy] | None
