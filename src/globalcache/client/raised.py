"""Exceptions that several callers are given: one object for all, without anything of a caller that others could see.

Python adds to an exception wherever it is raised: the frames that it passes on its way, and as `__context__` what the
code that raises it handles at that moment. Callers add notes and causes. All of that belongs to one caller.

    A handles PermissionError("ann"), and its load raises OSError  -> OSError.__context__ is PermissionError("ann")
    B asks for the same key                                        -> B's log must show neither A's frames nor "ann"
"""

from __future__ import annotations

import sys
from typing import NoReturn

from globalcache.errors import CacheError

# What a class does when its attributes are set, as a frozen dataclass, is not meant for these.
_set = object.__setattr__
# What Python writes to an exception; the last one is set by the cause.
_STATE = "__traceback__", "__cause__", "__context__", "__suppress_context__"


class Handled:
    """The exception that a caller handles while it loads, which is no part of what the load raises."""

    __slots__ = ("_error",)

    def __init__(self) -> None:
        self._error = sys.exception()

    def cut_from(self, error: BaseException) -> None:
        """Take it out of the chains of `error`, and forget it: frames that a traceback holds refer to this object."""
        handled, self._error = self._error, None
        if handled is None or error is handled:
            return
        seen, left = {id(handled)}, [error]
        while left:
            one = left.pop()
            seen.add(id(one))
            if one.__context__ is handled:
                _set(one, "__context__", None)
            parts = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [
                other
                for other in (one.__context__, one.__cause__, *parts)
                if other is not None and id(other) not in seen
            ]


class Raised:
    """An exception as it was when the load raised it: the same object for all, without what others have added."""

    __slots__ = ("_notes", "_state", "error")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._state = [(name, getattr(error, name)) for name in _STATE]
        notes = vars(error).get("__notes__")
        self._notes = list(notes) if isinstance(notes, list) else None

    def restore(self) -> None:
        """Undo what callers have added: frames, cause, context and notes."""
        for name, value in self._state:
            _set(self.error, name, value)
        attributes = vars(self.error)
        attributes.pop("__notes__", None)
        if self._notes is not None:
            attributes["__notes__"] = list(self._notes)

    def again(self) -> NoReturn:
        """Raise it for another caller."""
        context = dict(self._state)["__context__"]
        try:
            self.restore()
            raise self.error
        finally:
            # `raise` has made what this caller handles its context.
            _set(self.error, "__context__", context)
            # The traceback holds this frame, which must not hold the exception.
            del self, context


def fresh(error: BaseException) -> BaseException:
    """Return an error of ours anew, with its cause: each of those who share a connection writes to one of its own."""
    again = type(error)(*error.args) if isinstance(error, CacheError) else error
    again.__cause__ = error.__cause__
    return again
