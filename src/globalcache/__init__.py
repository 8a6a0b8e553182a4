"""globalcache: one shared cache for all nodes of an application.

The public names load what they need when they are first used, so importing this package costs next to nothing and
does not need the native module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from globalcache.errors import (
    AuthError,
    CacheError,
    ConfigError,
    DeadlineError,
    KeyFormatError,
    LoadError,
    ReplyError,
    UnavailableError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from globalcache.client._async.cache import AsyncCache
    from globalcache.client._sync.cache import Cache
    from globalcache.client.entry import Entry
    from globalcache.policy import Policy
    from globalcache.server import Server
    from globalcache.store import Store

__all__ = [
    "AsyncCache",
    "AuthError",
    "Cache",
    "CacheError",
    "ConfigError",
    "DeadlineError",
    "Entry",
    "KeyFormatError",
    "LoadError",
    "Policy",
    "ReplyError",
    "Server",
    "Store",
    "UnavailableError",
    "ValueTooLargeError",
]

_LAZY = {
    "AsyncCache": "globalcache.client._async.cache",
    "Cache": "globalcache.client._sync.cache",
    "Entry": "globalcache.client.entry",
    "Policy": "globalcache.policy",
    "Server": "globalcache.server",
    "Store": "globalcache.store",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that has it."""
    if name not in _LAZY:
        raise AttributeError(f"module 'globalcache' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
