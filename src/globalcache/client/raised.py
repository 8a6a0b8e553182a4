"""Exceptions that several callers are given: one object for all, without anything of a caller that others could see.

Python adds to an exception wherever it is raised: the frames that it passes on its way, and as `__context__` what the
code that raises it handles at that moment. Both belong to one caller.

    A handles PermissionError("ann"), and its load raises OSError  -> OSError.__context__ is PermissionError("ann")
    B asks for the same key                                        -> B's log must show neither A's frames nor "ann"
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import TracebackType


# What a class does when its attributes are set, as a frozen dataclass, is not meant for these.
_set = object.__setattr__


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
    """An exception as it was when the load raised it."""

    __slots__ = ("_cause", "_context", "_is_suppressed", "_trace", "error")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._trace: TracebackType | None = error.__traceback__
        self._cause = error.__cause__
        self._context = error.__context__
        self._is_suppressed = error.__suppress_context__

    def restore(self) -> None:
        """Undo what raising it in a caller has added."""
        error = self.error
        _set(error, "__traceback__", self._trace)
        _set(error, "__cause__", self._cause)
        _set(error, "__context__", self._context)
        _set(error, "__suppress_context__", self._is_suppressed)

    def again(self) -> NoReturn:
        """Raise it for another caller."""
        try:
            self.restore()
            raise self.error
        finally:
            # `raise` has made what this caller handles its context.
            _set(self.error, "__context__", self._context)
            # The traceback holds this frame, which must not hold the exception.
            del self
