"""What a function says about its exceptions: which of them mean "no such row", and which are no failure of the load.

An absence is stored under the qualified name of its class, so that a hit in any process raises the same class as the
call that found no row. Knows no servers.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from globalcache.errors import ConfigError, LoadError, written

Maker: TypeAlias = Callable[[str], BaseException]
Classes: TypeAlias = Sequence[type[BaseException]]

# A name of more bytes is cut, wherever it is sent; and characters of a line in a log.
LONGEST_NAME = 200


class Absent:
    """A row that does not exist, and the exception that said so.

    `name` is the qualified name of the class; `error` the exception itself, in the process that ran the function.
    """

    __slots__ = ("error", "name")

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        self.name = name
        self.error = error


class Guard:
    """What one function says about its exceptions. Compared by identity: each function has its own.

    `is_direct`: it is given to each call, so that what it reads around it may change as soon as the call has ended.
    """

    def __init__(
        self,
        name: str,
        absent: Classes | Mapping[type[BaseException], Maker] = (),
        pass_through: Classes = (),
        *,
        is_direct: bool = False,
    ) -> None:
        self.name = name
        self.is_direct = is_direct
        self.absent = _classes(name, "absent", absent)
        self.pass_through = _classes(name, "pass_through", pass_through)
        makers = absent if isinstance(absent, Mapping) else {kind: _maker(name, kind) for kind in self.absent}
        self._names = {kind: qualified(kind) for kind in self.absent}
        self._makers: dict[str, Maker] = {self._names[kind]: maker for kind, maker in makers.items()}

    def absence(self, error: BaseException) -> Absent:
        """Return what is stored for an exception among `absent`."""
        # The class nearest to that of the exception: a reader knows only those that were named.
        kind = next(base for base in type(error).__mro__ if base in self._names)
        return Absent(self._names[kind], error)

    @property
    def parts(self) -> tuple[Any, ...]:
        """What tells guards apart: which exceptions say that there is no row, and the code that makes them."""
        return self.absent, tuple(self._makers.items())

    def missing(self, key: str, name: str = "") -> BaseException:
        """Return the exception of a key without a row; of the class of that name, or of the first one without it."""
        maker = self._makers.get(name) if name else next(iter(self._makers.values()))
        if maker is None:
            return LoadError(f"{key}: no such row: {name}, which absent= does not name", key=key, cause_class=name)
        return maker(key)

    def __repr__(self) -> str:
        return f"Guard({self.name})"


def value_or_absence(key: str, value: Any, guard: Guard | None) -> Any:
    """Return a value, or None for a row that does not exist; raise the exception that the function has for that."""
    if value.__class__ is not Absent:
        return value
    if guard is None or not guard.absent:
        return None
    raise value.error or guard.missing(key, value.name)


def qualified(kind: type[BaseException]) -> str:
    """Return module and name of a class, as `shop.errors.NoRow`; without the module for those of Python itself."""
    module = kind.__module__
    whole = kind.__qualname__ if module == builtins.__name__ else f"{module}.{kind.__qualname__}"
    # In bytes, since servers cut what is longer than they keep, and with it what stands behind the name.
    return whole.encode(errors="backslashreplace")[:LONGEST_NAME].decode(errors="ignore")


def text_of(error: BaseException) -> str:
    """Return the text of an exception as UTF-8 can write it, even if its own __str__ raises."""
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - code of the application
        return "(its text could not be made)"


def cause_of(error: BaseException) -> str:
    """Return class and text of an exception in one line, for logs and hooks of this process."""
    return f"{type(error).__name__}: {text_of(error)}"[:LONGEST_NAME]


def _classes(name: str, option: str, given: Any) -> tuple[type[BaseException], ...]:
    kinds = (given,) if isinstance(given, type) else tuple(given)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigError(f"{name}: {option}: {written(kind)} is no class of exceptions")
    return kinds


def _maker(name: str, kind: type[BaseException]) -> Maker:
    """Return the class itself if it can be made from the key alone."""
    if _has_own_constructor(kind) or not _takes_a_text(kind):
        raise ConfigError(
            f"{name}: absent: {kind.__name__} has a constructor of its own; say how it is made from the key: "
            f"absent={{{kind.__name__}: lambda key: {kind.__name__}(...)}}"
        )
    return kind


def _has_own_constructor(kind: type[BaseException]) -> bool:
    own = (vars(base) for base in kind.__mro__ if base.__module__ != builtins.__name__)
    return any(not _takes_anything(names[word]) for names in own for word in ("__init__", "__new__") if word in names)


def _takes_anything(constructor: Any) -> bool:
    """Return whether it has only *args and keywords, which it hands on, as many libraries' base classes do."""
    try:
        _, *parameters = inspect.signature(constructor).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD}
        or (one.kind == one.KEYWORD_ONLY and one.default is not one.empty)
        for one in parameters
    )


def _takes_a_text(kind: type[BaseException]) -> bool:
    try:
        kind("a key")
    except TypeError:
        return False
    return True
