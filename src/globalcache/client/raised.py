"""Exceptions that several callers are given: a copy for each, without anything of a caller that others could see.

Callers write to an exception: notes, a cause, attributes. And Python adds to an exception wherever it is raised: the
frames that it passes on its way, and as `__context__` what the code that raises it handles at that moment. All of that
belongs to one caller.

    A handles PermissionError("ann"), and its load raises OSError  -> OSError.__context__ is PermissionError("ann")
    B asks for the same key                                        -> B's log must show neither A's frames nor "ann"
"""

from __future__ import annotations

import builtins
import struct
import sys
import types
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import TracebackType


# What a class does when its attributes are set, as a frozen dataclass, is not meant for these.
_set = object.__setattr__
# What Python writes to an exception; the last one is set by the cause.
_STATE = "__traceback__", "__cause__", "__context__", "__suppress_context__"
_UNSET: Any = object()  # the value of a slot that has none
_POINTER = struct.calcsize("P")


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
    """An exception as it was when the load raised it. Each caller is given a copy, and the load's own the original.

    One that cannot be copied, because its class is written in C and hides what it holds, is shared by all callers;
    what they have added is taken off before the next one gets it.
    """

    __slots__ = ("_error", "_is_shared", "_notes", "_state")

    def __init__(self, error: BaseException) -> None:
        self._error = copy_of(error)
        self._is_shared = self._error is error
        self._state = [(name, getattr(error, name)) for name in _STATE]
        self._notes = _notes_of(error)

    def again(self) -> NoReturn:
        """Raise it for another caller."""
        error = self._restored() if self._is_shared else copy_of(self._error)
        context = error.__context__
        try:
            raise error
        finally:
            # `raise` has made what this caller handles its context.
            _set(error, "__context__", context)
            # The traceback holds this frame, which must not hold the exception.
            del self, error, context

    def _restored(self) -> BaseException:
        """Undo what the callers have added."""
        for name, value in self._state:
            _set(self._error, name, value)
        vars(self._error).pop("__notes__", None)
        if self._notes is not None:
            vars(self._error)["__notes__"] = list(self._notes)
        return self._error


def is_one(error: BaseException, other: BaseException) -> bool:
    """Tell whether two exceptions were raised by one load: their tracebacks end in the same place of the same call."""
    return error is other or (type(error) is type(other) and _end_of(error) is _end_of(other) is not None)


def _end_of(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _notes_of(error: BaseException) -> list[str] | None:
    notes = vars(error).get("__notes__")
    return list(notes) if isinstance(notes, list) else None


def copy_of(error: BaseException) -> BaseException:
    """Return a copy of an exception with its chain, made without code of its class; itself if that cannot be done."""
    try:
        return _copied(error, {})
    except RecursionError:  # a chain of hundreds
        return error


def _copied(error: BaseException, known: dict[int, BaseException]) -> BaseException:
    """Return the copy of an exception; `known` has those of the chain that were copied already, by their ids."""
    if id(error) in known:
        return known[id(error)]
    known[id(error)] = error  # until there is a copy, and if there will be none
    made = _made(error, known)
    if made is None or not _takes_members(made, error):
        return error
    known[id(error)] = made
    vars(made).update({name: _part(value, known) for name, value in vars(error).items()})
    if (notes := _notes_of(error)) is not None:
        vars(made)["__notes__"] = notes
    _set(made, "args", made.args if isinstance(made, BaseExceptionGroup) else _part(error.args, known))
    for name in _STATE:
        value = getattr(error, name)
        _set(made, name, _copied(value, known) if isinstance(value, BaseException) else value)
    return made


def _part(value: Any, known: dict[int, BaseException]) -> Any:
    """Return what an exception holds: an exception of its chain is the copy there too."""
    if type(value) is tuple:
        return tuple([_part(item, known) for item in value])
    return _copied(value, known) if isinstance(value, BaseException) else value


def _made(error: BaseException, known: dict[int, BaseException]) -> BaseException | None:
    """Return a new object of the same class, without its attributes; None if Python cannot make one."""
    kind = type(error)
    base = next(one for one in kind.__mro__ if one.__module__ == builtins.__name__)
    members = sum(isinstance(item, types.MemberDescriptorType) for one in _own(kind) for item in vars(one).values())
    pointers = (kind.__weakrefoffset__ > base.__weakrefoffset__) + members
    if kind.__basicsize__ > base.__basicsize__ + pointers * _POINTER:
        return None
    args: tuple[Any, ...] = error.args
    if isinstance(error, BaseExceptionGroup):
        args = error.message, [_copied(part, known) for part in error.exceptions]
    try:
        made: Any = base.__new__(kind, *args)
    except TypeError:
        return None
    return made if type(made) is kind else None


def _own(kind: type) -> list[type]:
    """Return the classes of an exception that are none of Python's own."""
    return [one for one in kind.__mro__ if one.__module__ != builtins.__name__]


def _takes_members(made: BaseException, error: BaseException) -> bool:
    """Copy what stands in no `__dict__`: slots, and fields such as `errno`. False if some of it cannot be set."""
    for kind in type(error).__mro__[:-1]:
        for name, item in vars(kind).items():
            if isinstance(item, types.MemberDescriptorType) and name != "exceptions" and not _takes(item, made, error):
                return False
    return True


def _takes(item: types.MemberDescriptorType, made: BaseException, error: BaseException) -> bool:
    value = _value(item, error)
    try:
        # Most have it from their arguments. And what is written as None differs from what was never written.
        if _value(item, made) is not value:
            item.__set__(made, value)
    except (AttributeError, TypeError):
        return False
    return True


def _value(item: types.MemberDescriptorType, error: BaseException) -> Any:
    try:
        return item.__get__(error)
    except AttributeError:
        return _UNSET
