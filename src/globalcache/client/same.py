"""Whether two functions give the same, and whether two values of their defaults and variables are the same.

A module that is imported anew (importlib.reload, a server that reloads, a cell of a notebook that is run again) makes
every function and class of it once more. So functions and callable objects are compared by what they consist of, and
a class of a module by its name and fields, as a function knows it by its name too. All else that can change is the same
as none but itself: what is equal now may differ when it is used.

A class is only taken for another one where code was made once more too. A function that is called for "eu" and for "us"
may make a class Region in each call, and decorate a function that uses it:

    both decorated functions have one code, so no module was imported anew -> their classes are two
    their codes are two                                                    -> their classes may be one, imported anew

Two functions with variables of their own (`__globals__`) are of a module that was removed and imported anew, or code
that was executed for "eu" and for "us". Of the second kind what they read there is compared as well.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import struct
import sys
import types
import typing
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from importlib.machinery import ModuleSpec
from typing import Any
from uuid import UUID

from globalcache.keys import name_of

# Immutable values that are the same if they are equal, and those that are if they are written the same: 0.0 == -0.0.
_EQUAL = frozenset({str, int, bool, bytes, date, timedelta, UUID})
_WRITTEN = frozenset({float, complex, Decimal})
# What a callable object takes over from the function that it calls, and says nothing of what it does.
_COPIED = frozenset(functools.WRAPPER_ASSIGNMENTS)
_LRU_CACHE = type(functools.lru_cache(lambda: None))
_POINTER = struct.calcsize("P")


class Comparable:
    """A callable object that can tell whether another one of its class gives the same."""

    def _is_same(self, other: Any) -> bool:
        raise NotImplementedError


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two functions give the same: by name, code, defaults and the variables that they use around them."""
    try:
        return same_values(one, other)
    except RecursionError:  # each holds itself
        return False


def same_values(one: Any, other: Any, *, anew: bool = True) -> bool:  # noqa: PLR0911 - a kind of values each
    """Tell whether two values are one object, or the same immutable value.

    `anew`: the code that made them may have been imported anew, with its classes.
    """
    kind: Any = type(one)
    if one is other or not _same_classes(kind, type(other), anew=anew):
        return one is other
    if kind in _WRITTEN:
        return repr(one) == repr(other)
    if kind in _EQUAL:
        return bool(one == other)
    if kind is frozenset:
        return all(map(_is_immutable, one)) and sorted(map(repr, one)) == sorted(map(repr, other))
    if kind is types.CodeType:
        return _same_code(one, other)
    if typing.get_origin(one) is not None:  # what values are read as
        return _same_types(one, other, anew=anew)
    parts = _parts(one)
    return _same_callables(one, other, anew=anew) if parts is None else _same_parts(parts, _parts(other), anew=anew)


def _same_parts(one: tuple[Any, ...], other: tuple[Any, ...] | None, *, anew: bool) -> bool:
    if other is None or len(one) != len(other):
        return False
    codes = [
        pair[0].__code__ is pair[1].__code__
        for pair in zip(one, other, strict=True)
        if isinstance(pair[0], types.FunctionType) and isinstance(pair[1], types.FunctionType)
    ]
    if codes:
        anew = not all(codes)
    return all(same_values(*pair, anew=anew) for pair in zip(one, other, strict=True))


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what an immutable value consists of; None if it is none."""
    kind: Any = type(value)
    if isinstance(value, Enum):
        return value.name, value.value
    named = _items(getattr(value, "__dict__", None))
    if isinstance(value, tuple):
        return *value, *named
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        return *(getattr(value, field.name) for field in dataclasses.fields(kind)), *named
    return None


def _same_callables(one: Any, other: Any, *, anew: bool) -> bool:
    if isinstance(one, Comparable):
        return one._is_same(other)  # noqa: SLF001 - for this
    if isinstance(one, types.FunctionType):
        return _same_functions(one, other)
    if isinstance(one, types.MethodType):
        return _same_parts((one.__self__, one.__func__), (other.__self__, other.__func__), anew=anew)
    if isinstance(one, type):
        return _same_classes(one, other, anew=anew)
    held = _held(one)
    return held is not None and name_of(one) == name_of(other) and _same_parts(held, _held(other), anew=anew)


def _same_functions(one: types.FunctionType, other: types.FunctionType) -> bool:
    code, anew = one.__code__, one.__code__ is not other.__code__
    is_local = "<locals>" in code.co_qualname
    # A function that calls itself is a variable of the function around it, and has no value yet at decoration. Nor has
    # the class that super() needs, but a class of a module is known by the name of its method.
    unset = code.co_name if code.co_qualname.endswith(f"<locals>.{code.co_name}") else None if is_local else "__class__"
    return (
        name_of(one) == name_of(other)
        and _same_code(code, other.__code__)
        and all(same_values(*pair, anew=anew) for pair in zip(_given(one), _given(other), strict=True))
        and _same_globals(one, other, anew=anew)
        and all(
            name == unset or _same_cells(first, second, anew=anew)
            for name, first, second in zip(
                code.co_freevars, one.__closure__ or (), other.__closure__ or (), strict=True
            )
        )
    )


def _same_globals(one: types.FunctionType, other: types.FunctionType, *, anew: bool) -> bool:
    """Compare the variables of their modules that two functions read; those of one module are the same ones."""
    first, second = one.__globals__, other.__globals__
    if first is second or _is_imported_anew(first, second):
        return True
    found = [(_global(first, name), _global(second, name)) for name in _read(one.__code__)]
    return all(same_values(*pair, anew=anew) for pair in found)


def _is_imported_anew(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether the variables of one module are those of the other before it was removed and imported again."""
    modules = [sys.modules.get(str(names.get("__name__"))) for names in (one, other)]
    specs: list[Any] = [one.get("__spec__"), other.get("__spec__")]
    return (
        any(vars(module) is names for module, names in zip(modules, (one, other), strict=True) if module is not None)
        and all(isinstance(spec, ModuleSpec) for spec in specs)
        and specs[0] is not specs[1]  # a copy of the variables has the same one
        and (specs[0].name, specs[0].origin) == (specs[1].name, specs[1].origin)
    )


def _global(names: dict[str, Any], name: str) -> Any:
    return names.get(name, getattr(builtins, name, None))


def _read(code: types.CodeType) -> set[str]:
    """Return the variables of the module that code reads, and the functions and classes within it."""
    import dis  # noqa: PLC0415 - few need it

    own = {step.argval for step in dis.get_instructions(code) if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    inner = [_read(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return own.union(*inner)


def _given(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what a function was given beside its code and the variables around it: defaults and attributes."""
    return function.__defaults__, _items(function.__kwdefaults__), _items(function.__dict__)


def _items(named: dict[str, Any] | None) -> tuple[Any, ...]:
    return tuple((named or {}).items())


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Compare what two functions do, without the lines on which they stand."""
    names = (one.co_code, one.co_names, one.co_varnames, one.co_freevars)
    return names == (other.co_code, other.co_names, other.co_varnames, other.co_freevars) and same_values(
        one.co_consts, other.co_consts
    )


def _same_cells(one: types.CellType, other: types.CellType, *, anew: bool) -> bool:
    """Compare a variable of the functions around; one that is set later is the same as none."""
    try:
        return same_values(one.cell_contents, other.cell_contents, anew=anew)
    except ValueError:
        return one is other


def _same_classes(one: type, other: type, *, anew: bool) -> bool:
    """Tell whether two classes are one, or the same class of a module that was imported anew."""
    return one is other or (
        anew
        and "<locals>" not in one.__qualname__
        and name_of(one) == name_of(other)
        and _words(one) == _words(other)
        and _same_code_of_call(one, other)
        and all(base is its or _same_bodies(base, its) for base, its in zip(one.__mro__, other.__mro__, strict=True))
    )


def _words(kind: type) -> tuple[Any, ...]:
    """Return the bases, attributes and annotations of a class, without those that Python and libraries add later."""
    try:
        annotations = repr(inspect.get_annotations(kind))
    except Exception:  # noqa: BLE001 - a name that is not there
        annotations = ""
    bases = [base.__qualname__ for base in kind.__mro__]
    return bases, annotations, {name for name in vars(kind) if not name.startswith("__")}


def _same_bodies(one: type, other: type) -> bool:
    """Compare what stands in two classes; of methods with names such as __init__, which libraries make, the code."""
    first, second = vars(one), vars(other)
    if issubclass(one, Enum) and issubclass(other, Enum):
        members = [tuple((name, member.value) for name, member in kind.__members__.items()) for kind in (one, other)]
        if not same_values(*members):
            return False
    made = _made(one)
    return all(
        _same_code_if_any(member, second.get(name)) if name.startswith("__") else _same_in_classes(member, second[name])
        for name, member in first.items()
        if name not in made and not name.startswith("_abc_")
    )


def _made(kind: Any) -> set[str]:
    """Return the names that Python has made in an enum or a named tuple from what is compared otherwise."""
    if issubclass(kind, Enum):
        return {name for name in vars(kind) if name in kind.__members__ or (name[0] == name[-1] == "_")}
    return {"_make", "_replace", "_asdict", *getattr(kind, "_fields", ())} if issubclass(kind, tuple) else set()


def _same_code_if_any(one: Any, other: Any) -> bool:
    if not isinstance(one, types.FunctionType):
        return True
    return isinstance(other, types.FunctionType) and _same_code(one.__code__, other.__code__)


def _same_in_classes(one: Any, other: Any) -> bool:
    """Compare what two classes have under one name; what is no code and equal now is the same, as a table may be."""
    if type(one).__qualname__ != type(other).__qualname__:
        return False
    inner = _inside(one)
    if inner is not None:
        return _same_parts(inner, _inside(other), anew=True)
    if isinstance(one, types.MemberDescriptorType | types.GetSetDescriptorType):
        return True
    return same_values(one, other) or (not callable(one) and _are_equal(one, other))


def _inside(member: Any) -> tuple[Any, ...] | None:
    """Return the functions of what a class has around them; None where there are none."""
    if isinstance(member, staticmethod | classmethod):
        return (member.__func__,)
    if isinstance(member, property):
        return member.fget, member.fset, member.fdel
    return (member.func,) if isinstance(member, functools.cached_property) else None


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001 - code of the application
        return False


def _same_code_of_call(one: type, other: type) -> bool:
    """Compare what calls of two classes do. One that both inherit was not made once more, as they are."""
    first, second = _call_of(one), _call_of(other)
    if isinstance(first, types.FunctionType) and isinstance(second, types.FunctionType):
        return first.__code__ is not second.__code__ and _same_functions(first, second)
    return first is second


def _call_of(kind: type) -> Any:
    """Return what a call of an object runs, as the class has it; of no metaclass."""
    return next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)


def _same_types(one: Any, other: Any, *, anew: bool) -> bool:
    """Compare types such as list[Row], whose parts may belong to a module that was imported anew."""
    if repr(one) == repr(other) and bool(one == other):
        return True
    return typing.get_origin(one) is typing.get_origin(other) and _same_parts(
        typing.get_args(one), typing.get_args(other), anew=anew
    )


def _held(thing: Any) -> tuple[Any, ...] | None:
    """Return what an object holds that is called as a function; None for others, and where that cannot be seen."""
    kind: Any = type(thing)
    if kind is functools.partial:
        parts = [thing.func, thing.args, _items(thing.keywords)]
    elif kind is _LRU_CACHE:
        parts = []
    else:
        slots = [name for base in kind.__mro__ for name in _slots(base)]
        is_called = isinstance(_call_of(kind), types.FunctionType)
        if not is_called or not _hides_nothing(kind, len(slots)):
            return None
        parts = [getattr(thing, name, None) for name in slots]
    return *parts, *(pair for pair in _items(getattr(thing, "__dict__", None)) if pair[0] not in _COPIED)


def _hides_nothing(kind: type, slots: int) -> bool:
    """Tell whether objects of a class hold nothing but their attributes, as the value of a subclass of int."""
    pointers = (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0) + slots
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= object.__basicsize__ + pointers * _POINTER


def _slots(kind: type) -> list[str]:
    return [name for name, item in vars(kind).items() if isinstance(item, types.MemberDescriptorType)]


def _is_immutable(value: Any) -> bool:
    kind = type(value)
    return all(map(_is_immutable, value)) if kind in {tuple, frozenset} else value is None or kind in _EQUAL | _WRITTEN
