"""globalcache: one shared cache for all nodes of an application.

The public names load what they need when they are first used, so importing this package costs next to nothing and
does not need the native module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from globalcache.errors import CacheError, ConfigError, DeadlineError, ReplyError, UnavailableError

if TYPE_CHECKING:
    from globalcache.server import Server
    from globalcache.store import Store

__all__ = ["CacheError", "ConfigError", "DeadlineError", "ReplyError", "Server", "Store", "UnavailableError"]

_LAZY = {"Server": "globalcache.server", "Store": "globalcache.store"}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that has it."""
    if name not in _LAZY:
        raise AttributeError(f"module 'globalcache' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
