"""Whether two functions give the same, and whether two values of their defaults and variables are the same.

Functions are compared by what they consist of: code, defaults, attributes, and the variables that they read. How far
their values are looked into depends on how the two came about:

    ONCE    one code made both: a factory was called twice. It may be called for "eu" and for "us", so classes, and
            objects that can change, are the same as none but themselves.
    ANEW    their code was made once more: importlib.reload, a cell of a notebook that is run again, code that is
            executed for "eu" and for "us". Its classes are made once more too, and compared by what stands in them.
    BODY    they stand in such a class: what can change there, as a table, is compared by what it holds.
    AGAIN   their file was executed again, with variables of its own: a script that is a module too, a module that was
            removed and imported again. What can change there is compared by what it holds, as late as possible.

A variable may be set after a function was decorated, as that of a function further down, and so may what it holds. So
functions are compared twice: when the second is decorated, where a variable that is not set yet is no difference, and
when it is called first (`is_final`), where all counts. What cannot be seen, as a connection to a database, is the same
as none but itself.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
import threading
import types
import typing
import weakref
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from globalcache.keys import module_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Immutable values that are the same if they are equal, and those that are if they are written the same: 0.0 == -0.0.
_EQUAL: frozenset[type] = frozenset({str, int, bool, bytes, date, timedelta, UUID, re.Pattern})
_WRITTEN: frozenset[type] = frozenset(
    {float, complex, Decimal, range, timezone, type(Path()), type(PurePath()), type(None)}
)
_LRU_CACHE = type(functools.lru_cache(lambda: None))
_DESCRIPTORS: tuple[type, ...] = (types.MemberDescriptorType, types.GetSetDescriptorType)
_UNSET = object()
# How code reads variables of its module, and how it does without naming them.
_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_UNSEEN = (globals, eval, exec)
# What Python and libraries add to a class, made from what is compared, or no part of a result.
_ADDED = frozenset(
    {
        "__module__",  # the class is known by its name
        "__dict__",
        "__weakref__",
        "__annotations__",  # read by themselves
        "__annotations_cache__",
        "__annotate__",
        "__annotate_func__",
        "__firstlineno__",
        "__static_attributes__",
        "__signature__",
        "__slotnames__",
        "_abc_impl",
        "__msgspec_cache__",
        "__pydantic_complete__",
        "__pydantic_core_schema__",
        "__pydantic_parent_namespace__",
        "__pydantic_serializer__",
        "__pydantic_validator__",
    }
)
_NAME = re.compile(r"[^\W\d]\w*")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Made(IntEnum):
    """How two values came about."""

    ONCE = 0
    ANEW = 1
    BODY = 2
    AGAIN = 3


class Comparable:
    """An object that can tell whether another one of its class gives the same."""

    def _is_same(self, other: Any, comparison: Comparison, made: Made) -> bool:
        raise NotImplementedError

    def _given(self) -> tuple[Any, ...]:
        """Return the attributes that an application gave it."""
        own = {"claims", "loader", "loaders"}
        return tuple(pair for pair in vars(self).items() if not pair[0].startswith("_") and pair[0] not in own)


class Comparison:
    """A comparison of two functions. `is_final`: they are called now, and nothing that they use is set later."""

    def __init__(self, *, is_final: bool) -> None:
        self.is_final = is_final
        # Pairs that are the same, and those that are compared: a function that calls itself is if all else in it is.
        # With the values, so that nothing else has their addresses meanwhile.
        self._pairs: dict[tuple[int, int, Made], tuple[Any, Any]] = {}
        # The variables of the modules of the functions that are compared.
        self._names: tuple[dict[str, Any], dict[str, Any]] = {}, {}

    def holds(self, one: Any, other: Any) -> bool:
        """Tell whether two functions are the same."""
        try:
            return self.same(one, other)
        except Exception:  # noqa: BLE001 - code of the application, and objects that lie too deep
            return False

    def same(self, one: Any, other: Any, made: Made = Made.ANEW) -> bool:
        """Tell whether two values are one object, or cannot be told apart."""
        pair = id(one), id(other), made
        if one is other or pair in self._pairs:
            return True
        count = len(self._pairs)
        self._pairs[pair] = one, other
        if self._same(one, other, made):
            return True
        while len(self._pairs) > count:  # what was the same within may have been so only if these are
            self._pairs.popitem()
        return False

    def _all(self, ones: Iterable[Any], others: Iterable[Any], made: Made) -> bool:
        first, second = tuple(ones), tuple(others)
        return len(first) == len(second) and all(self.same(*pair, made) for pair in zip(first, second, strict=True))

    def _same(self, one: Any, other: Any, made: Made) -> bool:
        kind = type(one)
        if made is Made.AGAIN and (one is None or other is None):  # as a variable that is set later often is
            return not self.is_final
        if kind is not type(other) and not self.same(kind, type(other), made):
            return False
        if kind in _EQUAL:
            return bool(one == other)
        if kind in _WRITTEN:
            return repr(one) == repr(other)
        compare = _found(self._COMPARED, kind) or Comparison._same_objects
        return bool(compare(self, one, other, made))

    def _same_objects(self, one: Any, other: Any, made: Made) -> bool:
        kind = type(one)
        if kind.__module__ == "typing" and repr(one) == repr(other) and bool(one == other):
            return True
        if issubclass(kind, Enum):  # members are what their class is, and that was compared
            made = max(made, Made.BODY)
        parts, its = _parts(one), _parts(other)
        if parts is None:
            if made is Made.AGAIN and not self.is_final:
                return True
            is_called = isinstance(getattr(kind, "__call__", None), types.FunctionType)  # noqa: B004
            parts, its = (_held(one), _held(other)) if is_called or made >= Made.BODY else (None, None)
        return parts is not None and its is not None and self._all(parts, its, _made(made, parts, its, made))

    def _same_functions(self, one: types.FunctionType, other: types.FunctionType, made: Made) -> bool:
        if not self.same(one.__code__, other.__code__):
            return False
        ones, others, names = _given(one), _given(other), (one.__globals__, other.__globals__)
        is_other_module = names[0] is not names[1]
        for first, second in _cells(one, other) + (_globals(one, other) if is_other_module else []):
            if first is not _UNSET and second is not _UNSET:
                ones, others = (*ones, first), (*others, second)
            elif first is not second and self.is_final:
                return False
        file = names[0].get("__file__")
        if is_other_module and file is not None and file == names[1].get("__file__"):
            made = Made.AGAIN
        elif one.__code__ is not other.__code__:
            made = max(made, Made.ANEW)
        else:
            made = _made(made, ones, others, Made.ONCE)
        if is_other_module and any(value is unseen for value in ones for unseen in _UNSEEN):
            return made is Made.AGAIN and not self.is_final
        before, self._names = self._names, names
        try:
            return self._all(ones, others, made)
        finally:
            self._names = before

    def _same_classes(self, one: type, other: type, made: Made) -> bool:
        """Compare what stands in two classes and in their bases."""
        if made is Made.ONCE or not _has_same_name(one, other):
            return False
        made = max(made, Made.BODY)
        first, second = _body(one), _body(other)
        if first.keys() != second.keys() and (made is not Made.AGAIN or self.is_final):
            return False
        words = set().union(*(_words(annotation) for _, annotation in first["__annotations__"]))
        mine, its = self._names
        return (
            self._all(one.__bases__, other.__bases__, made)
            and all(self.same(member, second[name], made) for name, member in first.items() if name in second)
            and all(self.same(mine[name], its[name], made) for name in words if name in mine and name in its)
        )

    def _same_sets(self, one: frozenset[Any], other: frozenset[Any], made: Made) -> bool:
        if not self._all(_own(one), _own(other), made):
            return False
        if all(map(_is_immutable, one)):
            return sorted(map(repr, one)) == sorted(map(repr, other))
        return len(one) == len(other) and all(any(self.same(item, its, made) for its in other) for item in one)

    def _same_comparable(self, one: Comparable, other: Comparable, made: Made) -> bool:
        return one._is_same(other, self, made)  # noqa: SLF001 - for this

    def _same_silent(self, one: Any, other: Any, made: Made) -> bool:  # noqa: ARG002 - whatever they are
        return True

    _COMPARED: ClassVar[dict[type, Callable[[Comparison, Any, Any, Made], bool]]] = {
        types.FunctionType: _same_functions,
        type: _same_classes,
        frozenset: _same_sets,
        Comparable: _same_comparable,
        # What has no part in a result.
        type(threading.Lock()): _same_silent,
        type(threading.RLock()): _same_silent,
        logging.Logger: _same_silent,
    }


def _found(table: dict[type, Any], kind: type) -> Any:
    """Return what a table has for a class or for the nearest of its bases; None if there is nothing."""
    return next((table[base] for base in kind.__mro__ if base in table), None)


def _made(made: Made, ones: Iterable[Any], others: Iterable[Any], otherwise: Made) -> Made:
    """Tell how parts came about: with the functions among them, whose code was made once more or not."""
    if made > Made.ANEW:
        return made
    pairs = zip(_functions(ones), _functions(others), strict=False)
    codes = [one.__code__ is other.__code__ for one, other in pairs]
    return otherwise if not codes else Made.ONCE if all(codes) else Made.ANEW


def _functions(values: Iterable[Any]) -> Iterator[types.FunctionType]:
    for value in values:
        if type(value) is types.FunctionType:
            yield value
        elif type(value) is tuple:
            yield from _functions(value)


def _given(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what a function was given beside its code and the variables around it."""
    return (
        *(function.__name__, function.__qualname__, function.__doc__, function.__defaults__),
        *(_items(function.__kwdefaults__), _items(vars(function)), _items(_annotations(function))),
    )


def _cells(one: types.FunctionType, other: types.FunctionType) -> list[tuple[Any, Any]]:
    """Return the variables of the functions around two functions, except those that they share."""
    pairs = zip(one.__closure__ or (), other.__closure__ or (), strict=True)
    return [(_content(mine), _content(its)) for mine, its in pairs if mine is not its]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _UNSET


def _globals(one: types.FunctionType, other: types.FunctionType) -> list[tuple[Any, Any]]:
    """Return the variables of their modules that two functions read, or their annotations name."""
    names = _read(one.__code__).union(*map(_words, _annotations(one).values()))
    return [(_global(one, name), _global(other, name)) for name in names]


def _global(function: Any, name: str) -> Any:
    try:
        return function.__globals__[name]  # which may be a dict that makes what is missing
    except KeyError:
        return function.__builtins__.get(name, _UNSET)


def _read(code: types.CodeType) -> set[str]:
    """Return the variables of the module that code reads, and the functions and classes within it."""
    import dis  # noqa: PLC0415 - few need it

    steps = list(dis.get_instructions(code))
    own = {step.argval for step in steps if step.opname in _READS}
    # A relative import: its level is put down two steps before.
    if any(step.opname == "IMPORT_NAME" and steps[place - 2].argval for place, step in enumerate(steps)):
        own.add("__package__")
    return own.union(*(_read(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _annotations(thing: Any) -> dict[str, Any]:
    try:
        return inspect.get_annotations(thing)
    except Exception:  # noqa: BLE001 - a name that is not there
        return {}


def _words(annotation: Any) -> set[str]:
    """Return the names in what is written as text in an annotation."""
    text = annotation.__forward_arg__ if type(annotation) is typing.ForwardRef else annotation
    found = set(_NAME.findall(text)) if type(text) is str else set()
    return found.union(*map(_words, typing.get_args(annotation)))


def _has_same_name(one: type, other: type) -> bool:
    """Tell whether two classes have one name in one module, which may be the script as well."""
    first, second = (getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in (one, other))
    is_one_module = module_of(one) == module_of(other) or (first is not None and first == second)
    return one.__qualname__ == other.__qualname__ and is_one_module


def _body(kind: type) -> dict[str, Any]:
    """Return what stands in a class, without what Python and libraries make from that."""
    body = {name: member for name, member in vars(kind).items() if name not in _ADDED}
    # That of a dataclass shows defaults, and some have an address.
    body["__doc__"] = _ADDRESS.sub("", kind.__doc__) if isinstance(kind.__doc__, str) else kind.__doc__
    body["__annotations__"] = _items(_annotations(kind))
    return _shown(kind) | body


def _shown(thing: Any) -> dict[str, Any]:
    """Return what the class of a thing shows of it, as of what msgspec keeps out of sight: the defaults of a class."""
    bases = [base for base in type(thing).__mro__ if base not in {type, object}]
    names = {name for base in bases for name, item in vars(base).items() if isinstance(item, _DESCRIPTORS)}
    return {name: getattr(thing, name, None) for name in sorted(names - _ADDED)}


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what a value consists of that cannot change, or that others are made of; None for other objects."""
    kind: Any = type(value)
    parts = _found(_PARTS, kind)
    if parts is not None:
        return typing.cast("tuple[Any, ...] | None", parts(value))
    if kind.__module__ == "typing":
        return _type(value)
    parameters = getattr(kind, "__dataclass_params__", None)
    return _held(value) if parameters is not None and parameters.frozen else None


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Return what a function does, without the lines on which it stands."""
    return (
        *(code.co_name, code.co_qualname, code.co_code, code.co_exceptiontable, code.co_flags, code.co_consts),
        *(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
    )


def _time(value: Any) -> tuple[Any, ...] | None:
    return (repr(value.replace(tzinfo=None)), value.tzinfo) if type(value) in {datetime, time} else None


def _type(value: Any) -> tuple[Any, ...] | None:
    origin, within = typing.get_origin(value), typing.get_args(value)
    return None if origin is None else (origin, *(tuple(each) if type(each) is list else each for each in within))


def _member(member: Any) -> tuple[Any, ...]:
    """Return what a member of an enum has: attributes, and as a text or number what need not be its value."""
    arguments = getattr(member._member_type_, "__getnewargs__", None)
    return *_own(member), *(arguments(member) if arguments else ())


def _variable(value: Any) -> tuple[Any, ...]:
    says = ("__bound__", "__constraints__", "__default__", "__supertype__", "__value__")
    return value.__name__, *(getattr(value, name, None) for name in says)


def _own(value: Any) -> tuple[Any, ...]:
    """Return the attributes of an object."""
    return *_items(getattr(value, "__dict__", None)), *_slots(value)


def _slots(value: Any) -> tuple[Any, ...]:
    classes = [base for base in type(value).__mro__ if "__slots__" in vars(base)]
    names = [name for base in classes for name, item in vars(base).items() if type(item) is types.MemberDescriptorType]
    return tuple((name, getattr(value, name, _UNSET)) for name in names)


def _items(named: dict[str, Any] | None) -> tuple[Any, ...]:
    """Return names and values. The module is left out, for a script may be a module too."""
    items = ((name, _items(item) if name == "__annotations__" else item) for name, item in (named or {}).items())
    return tuple(pair for pair in items if pair[0] != "__module__")


_PARTS: dict[type, Callable[[Any], tuple[Any, ...] | None]] = {
    types.CodeType: _code,
    types.MethodType: lambda method: (method.__self__, method.__func__),
    types.BuiltinMethodType: lambda method: (method.__self__, method.__name__),
    functools.partial: lambda partial: (partial.func, partial.args, _items(partial.keywords), *_own(partial)),
    _LRU_CACHE: lambda cached: _own(cached) if "__wrapped__" in vars(cached) else (id(cached),),
    staticmethod: lambda method: (method.__func__, *_own(method)),
    classmethod: lambda method: (method.__func__, *_own(method)),
    property: lambda own: (own.fget, own.fset, own.fdel, own.__doc__, *_own(own)),
    types.MemberDescriptorType: lambda slot: (slot.__name__,),
    types.GetSetDescriptorType: lambda slot: (slot.__name__,),
    Enum: _member,
    tuple: lambda items: (*tuple.__iter__(items), *_own(items)),
    slice: lambda part: (part.start, part.stop, part.step),
    datetime: _time,
    time: _time,
    types.GenericAlias: _type,
    types.UnionType: _type,
    typing.ForwardRef: lambda annotation: (annotation.__forward_arg__,),
    typing.NewType: _variable,
    typing.ParamSpec: _variable,
    typing.TypeVar: _variable,
    typing.TypeVarTuple: _variable,
    getattr(typing, "TypeAliasType", typing.TypeVar): _variable,
}


def _held(value: Any) -> tuple[Any, ...] | None:
    """Return what an object holds; None where that cannot be seen."""
    held = _found(_HELD, type(value)) or (_shown_items if type(value).__module__.startswith("msgspec.") else _pickled)
    try:
        return typing.cast("tuple[Any, ...]", held(value))
    except Exception:  # noqa: BLE001 - code of the application, and what cannot be pickled
        return None


def _shown_items(value: Any) -> tuple[Any, ...]:
    return _items(_shown(value))


def _pickled(value: Any) -> tuple[Any, ...]:
    """Return what pickle would write of an object. Raises an exception where that is nothing."""
    made: Any = value.__reduce_ex__(4)
    if isinstance(made, str):  # the name of a variable that has it
        raise TypeError(made)
    make, args, state, items, pairs = (*made, None, None, None)[:5]
    states = state if isinstance(state, tuple) else (state,)
    shown = [_items(each) if type(each) is dict else tuple(each) if type(each) is list else each for each in states]
    if hasattr(value, "cls_ref") and type(value).__module__.startswith("pydantic."):  # the address of a class
        return make, tuple(pair for each in shown for pair in each or () if pair[0] != "cls_ref")
    # A base in C need not know what its subclass has besides.
    methods = (getattr(type(value), name, None) for name in ("__reduce__", "__reduce_ex__", "__getstate__"))
    own = () if any(isinstance(method, types.FunctionType) for method in methods) else _own(value)
    # How Python itself makes an object says nothing of how that came about.
    maker = None if getattr(make, "__module__", None) == "copyreg" else make
    return maker, tuple(args), tuple(shown), tuple(items or ()), tuple(pairs or ()), own


_HELD: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    types.MappingProxyType: lambda view: tuple(view.items()),
    weakref.ref: lambda reference: (reference(),),
    threading.local: lambda local: _items(vars(local)),  # those of this thread
    set: lambda items: (frozenset(items), *_own(items)),
}


def _is_immutable(value: Any) -> bool:
    kind = type(value)
    return all(map(_is_immutable, value)) if kind in {tuple, frozenset} else kind in _EQUAL or kind in _WRITTEN
