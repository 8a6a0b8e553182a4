"""Functions as keys know them: their names, their parameters and their annotations."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from globalcache.errors import KeyFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


def hints(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the annotations that can be resolved now, each by itself; `names` are looked up after the globals."""
    resolved: dict[str, Any] = {}
    annotations = getattr(function, "__annotations__", {})
    # A decorator may stand in another module than the function whose annotations it shows.
    inner = inspect.unwrap(function)
    source = inner if getattr(inner, "__annotations__", None) == annotations else function
    facts = getattr(source, "__globals__", {})
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved |= typing.get_type_hints(holder, facts, names)
        except Exception:  # noqa: BLE001, S112 - names that exist for type checkers only, or are defined later
            continue
    return resolved


def name_of(function: Any) -> str:
    """Return module and qualified name; the name of the script for a function of `__main__`."""
    return f"{module_of(function)}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def module_of(thing: Any) -> str:
    """Return the module of a function or class as an import of it would be called.

    `__main__` is `__mp_main__` in processes that multiprocessing starts. Without a file it stays `__main__`.
    """
    name = str(thing.__module__)
    if name not in {"__main__", "__mp_main__"}:
        return name
    facts = getattr(inspect.unwrap(thing), "__globals__", None) or vars(sys.modules.get(name, types))
    spec, file = facts.get("__spec__"), facts.get("__file__")
    if spec is not None and spec.name not in {"__main__", "__mp_main__"}:
        return str(spec.name)
    return Path(file).stem if file else "__main__"


def receiver_of(function: Callable[..., Any]) -> str | None:
    """Return how a method names its object or class: `self`, `cls`, or None for a function that is no method."""
    first = next(iter(signature_of(function, name_of(function)).parameters), None)
    scope = function.__qualname__.rpartition(".")[0]
    return first if first in {"self", "cls"} and scope and not scope.endswith("<locals>") else None


def signature_of(function: Callable[..., Any], where: str) -> inspect.Signature:
    """Return the parameters of a function. Raises KeyFormatError if they are not known."""
    try:
        return _called_with(function, where)
    except KeyFormatError:
        raise
    except (TypeError, ValueError):
        raise KeyFormatError(f"{where}: its parameters are not known: write a function around it") from None


def _called_with(function: Callable[..., Any], where: str) -> inspect.Signature:
    """Return the parameters that a call really has: a decorator may name some, and hand on what it does not name."""
    if isinstance(function, types.MethodType):
        inner = _called_with(function.__func__, where)
        first, *others = inner.parameters.values()
        return inner if first.kind is first.VAR_POSITIONAL else inner.replace(parameters=others)
    wrapped = getattr(function, "__wrapped__", None)
    try:
        own = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # an object around a function, such as one that is cached already
        if wrapped is None:
            raise
        return _called_with(wrapped, where)
    if wrapped is None or not any(_is_open(parameter) for parameter in own.parameters.values()):
        return own
    inner = _called_with(wrapped, where)
    for name, parameter in own.parameters.items():
        within = inner.parameters.get(name)
        if within is not None and not _is_open(parameter) and not _has_default_of(parameter, within):
            raise KeyFormatError(
                f"{where}: {name} has another default in the decorator around it, so a call without it would have the "
                "key of another call: write the same default in both"
            )
    return inner


def _is_open(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _has_default_of(one: inspect.Parameter, other: inspect.Parameter) -> bool:
    first, second = one.default, other.default
    return first is second or (type(first) is type(second) and repr(first) == repr(second) and bool(first == second))


def check_callable(function: Any) -> str:
    """Return what a function is called. Raises KeyFormatError for what a cache cannot call as one."""
    if isinstance(function, staticmethod | classmethod | property):
        kind = type(function).__name__
        raise KeyFormatError(f"{name_of(function)}: @{kind} has to stand above the decorator of the cache")
    if not callable(function) or not hasattr(function, "__qualname__"):
        kind = type(function).__qualname__
        raise KeyFormatError(f"{function!r:.80}: a {kind} has no name of its own: write a `def` around it")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise KeyFormatError(f"{name_of(function)}: a generator can be read once only: return a list")
    return name_of(function)


def _layers(function: Any) -> Iterator[Any]:
    """Return a function and what is within it, as decorators say."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def check_name(function: Callable[..., Any], where: str, wanted: Sequence[str], receiver: str | None) -> None:
    """Raise KeyFormatError if the name of a function does not tell it from others."""
    if receiver is not None and receiver in wanted:
        raise KeyFormatError(without_receiver(where, receiver))
    reason = _why_unnamed(function)
    if reason is not None:
        example = ":".join(["name", *(f"{{{name}}}" for name in wanted)])
        raise KeyFormatError(f"{where}: {reason}: write a template such as {example!r}")


def _why_unnamed(function: Callable[..., Any]) -> str | None:
    if any(isinstance(layer, types.MethodType) for layer in _layers(function)):
        return "it belongs to an object, and its name does not tell which"
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    # A method that calls super() has the class around it as a variable.
    is_local = "<locals>" in function.__qualname__
    names = [name for name in getattr(code, "co_freevars", ()) if name != "__class__" or is_local]
    if "<lambda>" in function.__qualname__ or getattr(code, "co_name", "") == "<lambda>":
        return "a lambda has no name of its own"
    if names:
        return f"it uses {', '.join(names)} of the function around it, and its name does not tell which"
    if not isinstance(getattr(function, "__self__", None), types.ModuleType | None):
        return "it belongs to an object, and its name does not tell which"
    if module_of(function) == "__main__" or (
        function.__module__ in {"__main__", "__mp_main__"} and getattr(code, "co_filename", "").startswith("<")
    ):
        return "it was written in a shell or notebook, which has no name"
    return None


def without_receiver(where: str, receiver: str) -> str:
    """Return what to say of a template without the object of a method."""
    return (
        f"{where}: {receiver} is not in the key, so different objects would share an entry: write a template with what "
        f"tells them apart, as {{{receiver}.id}}, or ignore=({receiver!r},)"
    )
