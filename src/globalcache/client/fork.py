"""What has to be done in a child process after fork(): its copies of connections and locks are the parent's.

A lock that another thread of the parent holds at that moment stays locked in the child, where that thread is not: each
is another one there. A test looks for locks in all that the client has.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from globalcache.client import lookup

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")

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


class ProcessLock:
    """A lock, `own`, that is another one in every child process."""

    __slots__ = ("__weakref__", "own")

    def __init__(self) -> None:
        self.after_fork()
        when_forked(self)

    def after_fork(self) -> None:
        """Have a lock of one's own."""
        self.own = threading.Lock()


class lazy(Generic[T]):  # noqa: N801 - a decorator
    """A property that is made when it is first asked for; all threads get the same one.

    functools.cached_property has a lock in Python 3.11, one for all objects of a class, and none later: then two
    threads may get two results.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, _: type) -> Self: ...
    @overload
    def __get__(self, instance: object, _: type) -> T: ...
    def __get__(self, instance: Any, _: type) -> Any:
        # It is found in the dict of the object from now on.
        return self if instance is None else instance.__dict__.setdefault(self._name, self._make(instance))
