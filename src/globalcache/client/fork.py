"""What has to be done in a child process after fork(): its copies of connections and locks are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Any

from globalcache.client import lookup

# After fork() the child must neither send nor read on connections of its parent.
_forked: weakref.WeakSet[Any] = weakref.WeakSet()


def when_forked(server: Any) -> None:
    """Have `server.after_fork()` called in every child process."""
    _forked.add(server)


def _after_fork() -> None:
    lookup.after_fork()
    for server in list(_forked):
        server.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
