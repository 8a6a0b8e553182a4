"""Which function has which keys, and whether two functions give the same.

Keys belong to the function that was decorated first, in all caches of the process that use the same store: the same
server by its name and database, or the same memory://NAME. Another function whose keys look the same is refused unless
they are shared, because each would return what the other stored. Caches that are gone claim nothing.
"""

from __future__ import annotations

import gc
import threading
import types
import typing
import weakref
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from globalcache.errors import KeyFormatError
from globalcache.keys import KeyTemplate, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

# Immutable values that are the same if they are equal, and those that are if they are written the same: 0.0 == -0.0.
_EQUAL = frozenset({str, int, bool, bytes, date, timedelta, UUID})
_WRITTEN = frozenset({float, complex, Decimal})


class Claim(msgspec.Struct, frozen=True, eq=False):
    """The keys of a function: those of a template behind the names of a namespace."""

    prefix: str
    keys: KeyTemplate
    function: Any  # or, of an SQL loader, its name and all that makes the result

    @property
    def name(self) -> str:
        """Module and qualified name of the function."""
        return str(self.function[0]) if isinstance(self.function, tuple) else name_of(self.function)

    def meets(self, other: Claim) -> bool:
        """Tell whether the functions have a key in common."""
        return self.keys.meets(self.prefix, other.keys, other.prefix)

    def has_keys_of(self, other: Claim) -> bool:
        """Tell whether the templates are one."""
        return self.prefix + self.keys.template == other.prefix + other.keys.template

    def is_same(self, other: Claim) -> bool:
        """Tell whether equal keys stand for equal results."""
        return self.has_keys_of(other) and same_values(self.function, other.function)

    def refusal(self, other: Claim) -> str:
        """Say whose keys these are already, and what to do."""
        owner = "other code of that name or the same with other variables" if other.name == self.name else other.name
        return (
            f"{self.name}: keys of {self.keys.template!r} can be those of {owner}, {other.keys.template!r}, and each "
            "would return what the other stored: take another template, or shared=True if both return the same"
        )


class Claims:
    """The claims of one cache with its namespaces. `stores` names where its values are; none: nowhere else."""

    def __init__(self, stores: Iterable[str] = ()) -> None:
        self._own: list[Claim] = []
        self._stores = tuple(stores)
        with _lock:
            for store in self._stores:
                _caches.setdefault(store, weakref.WeakSet()).add(self)

    def __len__(self) -> int:
        return len(self._own)

    def all(self) -> list[Claim]:
        """Return the claims as they are now."""
        return [*self._own]

    def add(self, claim: Claim, *, shared: bool) -> None:
        """Give keys to a function. Raises KeyFormatError if another one has some of them and they are not shared."""
        met = self._met(claim)
        if met and not shared and not any(map(claim.is_same, met)):
            gc.collect()  # a cache that nobody uses any more may not be deleted yet
            met = self._met(claim)
            if met:
                raise KeyFormatError(claim.refusal(met[0]))
        # A function that is decorated again and again within another one leaves one claim.
        if not any(claim.has_keys_of(known) for known in self._own):
            self._own.append(claim)

    def _met(self, claim: Claim) -> list[Claim]:
        """Return the claims on keys of this one, those of this cache first."""
        with _lock:
            others = {id(each): each for store in self._stores for each in _caches.get(store, ()) if each is not self}
        met = [known for known in self.all() if claim.meets(known)]
        # A factory of applications, or a file that is a script and a module, decorates one function for several caches.
        return met + [
            known
            for each in others.values()
            for known in each.all()
            if claim.meets(known) and not _is_written_once(claim.function, known.function)
        ]


def _is_written_once(one: Any, other: Any) -> bool:
    """Tell whether two functions come from one place of one file."""
    if not isinstance(one, types.FunctionType) or not isinstance(other, types.FunctionType):
        return False
    first, second = (
        (code.co_filename, code.co_firstlineno, code.co_qualname) for code in (one.__code__, other.__code__)
    )
    return first == second


_lock = threading.Lock()
_caches: dict[str, weakref.WeakSet[Claims]] = {}


class Comparable:
    """A callable object that can tell whether another one of its class gives the same."""

    def _is_same(self, other: Any) -> bool:
        raise NotImplementedError


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two functions give the same: by name, code, defaults and the variables that they use around them.

    An object that can change is the same as none but itself: what is equal now may differ when it is used.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, types.FunctionType):
        return _same_functions(one, other)
    if isinstance(one, types.MethodType):
        return same_values(one.__self__, other.__self__) and is_same(one.__func__, other.__func__)
    return isinstance(one, Comparable) and one._is_same(other)  # noqa: SLF001 - for this


def _same_functions(one: types.FunctionType, other: types.FunctionType) -> bool:
    code = one.__code__
    # A function that calls itself is a variable of the function around it, and has no value yet at decoration.
    is_local = code.co_qualname.endswith(f"<locals>.{code.co_name}")
    return (
        name_of(one) == name_of(other)
        and _same_code(code, other.__code__)
        and same_values(one.__defaults__, other.__defaults__)
        and same_values(_items(one.__kwdefaults__), _items(other.__kwdefaults__))
        and all(
            (is_local and name == code.co_name) or _same_cells(first, second)
            for name, first, second in zip(
                code.co_freevars, one.__closure__ or (), other.__closure__ or (), strict=True
            )
        )
    )


def _items(defaults: dict[str, Any] | None) -> tuple[Any, ...]:
    return tuple((defaults or {}).items())


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Compare what two functions do, without the lines on which they stand."""
    names = (one.co_code, one.co_names, one.co_varnames, one.co_freevars)
    return names == (other.co_code, other.co_names, other.co_varnames, other.co_freevars) and same_values(
        one.co_consts, other.co_consts
    )


def _same_cells(one: types.CellType, other: types.CellType) -> bool:
    """Compare a variable of the functions around; one that is set later is the same as none."""
    try:
        return same_values(one.cell_contents, other.cell_contents)
    except ValueError:
        return one is other


def same_values(one: Any, other: Any) -> bool:  # noqa: PLR0911 - a kind of values each
    """Tell whether two values are one object, or the same immutable value."""
    kind: Any = type(one)
    if one is other or kind is not type(other):
        return one is other
    if kind is tuple:
        return len(one) == len(other) and all(map(same_values, one, other))
    if kind is frozenset:
        return all(map(_is_immutable, one)) and sorted(map(repr, one)) == sorted(map(repr, other))
    if kind is types.CodeType:
        return _same_code(one, other)
    if typing.get_origin(one) is not None:  # what values are read as
        return repr(one) == repr(other) and bool(one == other)
    if kind in _WRITTEN:
        return repr(one) == repr(other)
    return bool(one == other) if kind in _EQUAL else is_same(one, other)


def _is_immutable(value: Any) -> bool:
    kind = type(value)
    return all(map(_is_immutable, value)) if kind in {tuple, frozenset} else value is None or kind in _EQUAL | _WRITTEN
