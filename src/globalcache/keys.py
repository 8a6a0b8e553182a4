"""Key templates: `user:{id:int}` and the arguments of a function, both ways.

Rules, so that two different calls never share an entry:

* Arguments are bound as Python binds them, with defaults applied: positional and keyword calls are one.
* The arguments are those that the call really has: of the outermost decorator that names its parameters, and of the
  function within where it takes *args and **kwargs.
* Every parameter is in the key, or named in `ignore`; `self` and `cls` of a method are only by their attributes, as
  `{self.id}`.
* Without a template the key is the module, the qualified name and all arguments; a script's name stands for
  `__main__`. A function whose name does not tell what it does needs a template: a lambda, one that uses variables of a
  function around it, a bound method, and one that was typed into a shell or notebook.
* A field takes the types of its converter (`{id:int}`, `{sku:str}`, `{rest:path}`), else of its annotation, else any
  of those listed in `_KINDS`. Where it takes several, a text that reads as another type is marked: 1 is `1`, "1" is
  `%s1`.
* A whole number where `float` is annotated is that float: 1 and 1.0 are one call, and loads are given 1.0.
* A value of a subclass, such as `class UserId(int)`, is written as its base if the class adds nothing to what values
  do. Any other is refused, as are times in a zone that has no name in the IANA database and no fixed offset.
* In a field, `:`, `%`, blanks, control characters and whatever the template puts between fields are escaped as in URLs.
  A `path` keeps `:`.
* A key of more than 250 bytes, memcached's limit, ends in a hash.

Knows nothing of caches.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec

from globalcache.errors import KeyFormatError, written

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

LONGEST = 250
_SHORT = LONGEST // 4  # characters of a key that is not too long, whatever they are
_HASHED = "%h"  # nothing that is escaped looks like it, nor do the marks below: their letters are no digits of 16
_CONVERTERS = {"int": int, "str": str, "path": str}
_INT = re.compile(r"0|-?[1-9][0-9]*")
_PLAIN = re.compile(r"[A-Za-z0-9_.~/@=,+-]*")


class _Kind(msgspec.Struct, frozen=True):
    """How values of a type are written and read, and what marks them where a field takes several types."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]
    mark: str = ""


def _read_int(text: str) -> int:
    if _INT.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _read_bool(text: str) -> bool:
    return {"True": True, "False": False}[text]


def _read_none(text: str) -> None:
    return {"None": None}[text]


def _read_bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def _write_datetime(value: datetime) -> str:
    """Write a time as RFC 9557 does, with the name of its zone: what a function makes of it may depend on that.

    A time without a zone that is the later one of two, when clocks are set back, ends in `[1]`.
    """
    zone = getattr(value.tzinfo, "key", None)
    if zone and type(value.tzinfo).__module__ == "zoneinfo":
        return f"{value.isoformat()}[{zone}]"
    if value.tzinfo is not None and not _is_offset(value):
        kind = type(value.tzinfo)
        raise TypeError(
            f"the zone of {value} is a {kind.__module__}.{kind.__qualname__}, which its offset does not tell: take "
            "zoneinfo.ZoneInfo, or write it in UTC, by .astimezone(datetime.UTC)"
        )
    return value.isoformat() + "[1]" * (value.fold and value.tzinfo is None)


def _is_offset(value: datetime) -> bool:
    """Tell whether the zone of a time is the same offset at every date, and called by that alone."""
    zone = value.tzinfo
    offset = None if zone is None else zone.utcoffset(None)  # None where it depends on the date
    return offset is not None and value.tzname() == timezone(offset).tzname(None)


def _read_datetime(text: str) -> datetime:
    time, _, zone = text.removesuffix("]").partition("[")
    value = datetime.fromisoformat(time)
    if zone in {"", "1"}:
        return value.replace(fold=int(zone or 0))
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - slow to import, and few keys have times with a zone

    there = value.replace(tzinfo=ZoneInfo(zone))
    return there if there.utcoffset() == value.utcoffset() else there.replace(fold=1)


# In this order, since True is an int and a datetime is a date.
_KINDS: dict[type, _Kind] = {
    type(None): _Kind(str, _read_none),
    bool: _Kind(str, _read_bool),
    int: _Kind(int.__repr__, _read_int),
    float: _Kind(float.__repr__, float),
    str: _Kind(str.__str__, str, "%s"),  # marked only where it reads as another type
    bytes: _Kind(bytes.hex, _read_bytes, "%y"),
    UUID: _Kind(str, UUID, "%u"),
    datetime: _Kind(_write_datetime, _read_datetime, "%t"),
    date: _Kind(date.isoformat, date.fromisoformat, "%k"),
    Decimal: _Kind(str, Decimal, "%n"),
}
_UNMARKED = tuple(kind for kind, how in _KINDS.items() if not how.mark)
ALLOWED = "None, bool, int, float, str, bytes, UUID, date, datetime, Decimal and members of an Enum"


# Subclasses with code of their own that changes nothing in what their values do.
_AS_THEIR_BASE = frozenset(
    {
        "asyncpg.pgproto.pgproto.UUID",
        "bson.int64.Int64",
        "freezegun.api.FakeDate",
        "freezegun.api.FakeDatetime",
    }
)
# What any class has, and what makes values rather than being done with them.
_OF_ANY_CLASS = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__slots__", "__dict__", "__weakref__", "__init__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
        *("__orig_bases__", "__parameters__", "__type_params__", "__firstlineno__", "__static_attributes__"),
    }
)


def _is_more(value: object) -> bool:
    """Tell whether a value of a subclass does or holds more than one of its base."""
    return bool(getattr(value, "__dict__", None)) or not _adds_nothing(type(value))  # type: ignore[arg-type]  # of classes


@functools.lru_cache(maxsize=1000)
def _adds_nothing(kind: type[Any]) -> bool:
    """Tell whether the values of a subclass do what those of its base do."""
    if f"{kind.__module__}.{kind.__qualname__}" in _AS_THEIR_BASE:
        return True
    return all(
        name in _OF_ANY_CLASS or isinstance(item, staticmethod | classmethod)
        for base in kind.__mro__
        if base not in _KINDS and base is not object
        for name, item in vars(base).items()
    )


def _kind_of(value: object) -> type | None:
    if isinstance(value, Enum):
        return type(value)
    exact = type(value)
    return exact if exact in _KINDS else next((kind for kind in _KINDS if isinstance(value, kind)), None)


class _Field(msgspec.Struct, frozen=True):
    """A place in a template: which argument stands there, and how it is written."""

    parameter: str
    attributes: tuple[str, ...]
    kinds: tuple[type, ...]  # that it takes; none named: all
    separators: str  # characters that a value must not contain as they are
    is_path: bool

    @property
    def takes_int(self) -> bool:
        """Whether a whole number is written as Python writes it, with nothing to look at."""
        return (not self.kinds or int in self.kinds) and "-" not in self.separators

    @property
    def takes_float(self) -> bool:
        """Whether a whole number is written as a float."""
        return float in self.kinds and int not in self.kinds

    def may_hold(self, character: str) -> bool:
        """Whether the character can be in what is written here."""
        if self.kinds == (int,):
            return character in "-0123456789"
        return character not in self.separators and (character != ":" or self.is_path)

    def pick(self, arguments: Mapping[str, Any]) -> Any:
        return self.pick_from(arguments[self.parameter])

    def pick_from(self, value: Any) -> Any:
        for name in self.attributes:
            value = getattr(value, name)
        return value

    def write(self, value: Any) -> str:
        kind = _kind_of(value)
        if kind is None:
            raise TypeError(f"{self.name}: {type(value).__name__} cannot be part of a key; allowed are {ALLOWED}")
        if self.kinds and kind not in self.kinds:
            if kind is not int or not self.takes_float or not _is_float(value):
                allowed = " or ".join(kind.__name__.replace("NoneType", "None") for kind in self.kinds)
                raise TypeError(f"{self.name}: {written(value)} is no {allowed}")
            kind, value = float, float(value)
        is_sole = len(self.kinds) == 1
        if issubclass(kind, Enum):
            name = _name_of_member(value)
            return self._escape(name) if is_sole else "%m" + self._escape(f"{_module(kind)}.{kind.__qualname__}.{name}")
        how = _KINDS[kind]
        try:
            plain = how.write(value)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        if type(value) is not kind and (_is_more(value) or _loses(how, plain, value)):
            raise TypeError(
                f"{self.name}: {type(value).__name__} {written(value)} is more than the {kind.__name__} that would "
                f"stand in the key: pass a {kind.__name__}"
            )
        text = self._escape(plain)
        is_clear = is_sole or (kind is str and not self._reads_as_another(text))
        return text if is_clear else how.mark + text

    def read(self, text: str) -> Any:
        """Return the value, or raise ValueError: for another spelling than `write` gives as well."""
        if self.kinds == (int,) and "-" not in self.separators:
            return _read_int(text)
        value = self._read(text)
        if self.write(value) != text:
            raise ValueError(f"{text!r} is not how a value is written there")
        return value

    def _read(self, text: str) -> Any:
        plain = unquote_to_bytes(text).decode("utf-8", "surrogatepass")
        kinds = self.kinds or tuple(_KINDS)
        if len(kinds) == 1:
            (kind,) = kinds
            return _read_member(kind, plain) if issubclass(kind, Enum) else _KINDS[kind].read(plain)
        for kind in kinds:
            if issubclass(kind, Enum):
                name = plain.removeprefix("%m").removeprefix(f"{_module(kind)}.{kind.__qualname__}.")
                if text.startswith("%m") and (member := _member(kind, name)) is not None and self.write(member) == text:
                    return member
            elif (mark := _KINDS[kind].mark) and text.startswith(mark):
                return _KINDS[kind].read(unquote_to_bytes(text[2:]).decode())
        for kind in _UNMARKED:
            if kind in kinds and (value := self._attempt(kind, text)) is not self:
                return value
        return plain

    def _attempt(self, kind: type, text: str) -> Any:
        """Read an unescaped value of a type, or return the field itself if it is none."""
        how = _KINDS[kind]
        try:
            value = how.read(unquote_to_bytes(text).decode())
        except (ValueError, KeyError):
            return self
        return value if self._escape(how.write(value)) == text else self

    def _reads_as_another(self, text: str) -> bool:
        kinds = self.kinds or tuple(_KINDS)
        return any(kind in kinds and self._attempt(kind, text) is not self for kind in _UNMARKED)

    def _escape(self, text: str) -> str:
        if _PLAIN.fullmatch(text) and not any(mark in text for mark in self.separators):
            return text
        kept = ":" if self.is_path else ""
        return "".join(
            c if c == kept or self._is_plain(c) else _escaped(c.encode("utf-8", "surrogatepass")) for c in text
        )

    def _is_plain(self, character: str) -> bool:
        return (
            character not in ":%"
            and character not in self.separators
            and character.isprintable()
            and not character.isspace()
        )

    @property
    def name(self) -> str:
        return ".".join((self.parameter, *self.attributes))


def _is_float(number: int) -> bool:
    """Tell whether a whole number is a float exactly."""
    try:
        return float(number) == number
    except OverflowError:
        return False


def _name_of_member(member: Enum) -> str:
    """Return the name of a member, the names of several flags with `|`, or the number of flags that have no name."""
    return member.name if member.name is not None else str(member.value)


def _read_member(kind: type[Enum], name: str) -> Enum:
    """Return what has this name; raises KeyError or ValueError if there is nothing."""
    if name in kind.__members__ or not issubclass(kind, Flag):
        return kind[name]
    value = 0
    for part in name.split("|"):
        value |= kind[part].value if part in kind.__members__ else _read_int(part)
    return kind(value)


def _member(kind: type[Enum], name: str) -> Enum | None:
    try:
        return _read_member(kind, name)
    except (KeyError, ValueError):
        return None


def _loses(how: _Kind, text: str, value: Any) -> bool:
    """Tell whether a value of a subclass is more than what is written of it, as a time with nanoseconds."""
    # `==` and not `!=`: a subclass may have written only that. And nan is no value of which more is known.
    return bool(value == value) and not bool(how.read(text) == value)  # noqa: PLR0124


def _escaped(data: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in data)


class KeyTemplate:
    """A template bound to the parameters of a function.

    `pattern` is the Redis glob that its keys match, `prefix` what they all begin with. Raises KeyFormatError when the
    template does not fit the function, so at decoration.
    """

    def __init__(
        self,
        template: str | None,
        function: Callable[..., Any],
        *,
        ignore: Collection[str] = (),
        is_tag: bool = False,
        longest: int | None = LONGEST,
    ) -> None:
        where = _check_callable(function)
        self.signature = _signature(function, where)
        self._longest = longest
        names = list(self.signature.parameters)
        for name in ignore:
            if name not in names:
                raise KeyFormatError(f"{where}: ignore names {name!r}, which is no parameter")
        wanted = [name for name in names if name not in ignore]
        receiver = receiver_of(function)
        if template is None:
            _check_name(function, where, wanted, receiver)
            template = ":".join([where.replace("{", "{{").replace("}", "}}"), *(f"{{{name}}}" for name in wanted)])
        self.template = template
        self._parts = list(_split(template))
        self._fields = self._compile(hints(function), where)
        if not is_tag:
            self._check_complete(wanted, receiver, where)
        self.prefix = self._parts[0][0]
        # What all keys end in, unless they are too long.
        self._tail = self._parts[-1][0] if self._parts[-1][1] is None else ""
        self._floats = [field.parameter for field in self._fields if field.takes_float and not field.attributes]
        self.is_constant = not self._fields
        self._form = "".join(literal + ("%s" if name is not None else "") for literal, name, _ in self._parts)
        # For calls without keywords of functions without * and **: how many arguments there are, those that may be
        # left out, and which of them stand in the key.
        parameters = list(self.signature.parameters.values())
        self._names = tuple(names)
        self._defaults = tuple(p.default for p in parameters if p.default is not p.empty)
        is_plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        self._most = len(names) if is_plain else -1
        self._least = len(names) - len(self._defaults)
        self._places = [
            (names.index(field.parameter), field.takes_int and not field.attributes, field) for field in self._fields
        ]
        # Most have one field.
        self._sole = self._places[0] if len(self._places) == 1 else None
        self.pattern = "".join(_glob(literal) + ("*" if name is not None else "") for literal, name, _ in self._parts)
        self._regex = self._expression()

    def _check_complete(self, wanted: Sequence[str], receiver: str | None, where: str) -> None:
        """Raise KeyFormatError if two calls that differ could have one key."""
        named = {field.parameter for field in self._fields if field.attributes or field.parameter != receiver}
        missing = [name for name in wanted if name not in named]
        if receiver is not None and receiver in missing:
            raise KeyFormatError(_without_receiver(where, receiver))
        if missing:
            raise KeyFormatError(
                f"{where}: {', '.join(missing)} not in {self.template!r}: calls that differ there would share an "
                f"entry; put it into the template or name it in ignore=({missing[0]!r},)"
            )

    def meets(self, prefix: str, other: KeyTemplate, other_prefix: str) -> bool:
        """Tell whether a key of this template can be one of the other's, each behind its prefix."""
        head, other_head = prefix + self.prefix, other_prefix + other.prefix
        if not head.startswith(other_head) and not other_head.startswith(head):
            return False
        if not self._tail.endswith(other._tail) and not other._tail.endswith(self._tail):
            return False
        return _meet(self._atoms(prefix), other._atoms(other_prefix))

    def _atoms(self, prefix: str) -> list[str | _Field]:
        """Return the characters and fields of a key in their order."""
        atoms: list[str | _Field] = [*prefix]
        fields = iter(self._fields)
        for literal, name, _ in self._parts:
            atoms += literal
            atoms += [next(fields)] if name is not None else []
        return atoms

    @staticmethod
    def names(template: str) -> list[str]:
        """Return the fields of a template in their order; raises KeyFormatError if it is none."""
        return [name for _, name, _ in _split(template) if name is not None]

    def _compile(self, annotations: Mapping[str, Any], where: str) -> list[_Field]:
        fields = [(name, converter) for _, name, converter in self._parts if name is not None]
        between = [literal for literal, name, _ in self._parts[1:] if name is not None]
        if any(not literal or literal[0].isalnum() or not literal.isascii() for literal in between):
            raise KeyFormatError(f"{where}: {self.template!r}: between two fields stands a sign such as ':'")
        separators = "".join({literal[0] for literal in between})
        if [converter for _, converter in fields].count("path") > 1:
            raise KeyFormatError(f"{where}: {self.template!r}: only one field can be a path")
        compiled = []
        for name, converter in fields:
            parameter, *attributes = name.split(".")
            found = self.signature.parameters.get(parameter)
            if found is None:
                raise KeyFormatError(f"{where}: {self.template!r} names {parameter!r}, which is no parameter")
            if found.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise KeyFormatError(f"{where}: {found} cannot be part of a key; name it in ignore=({parameter!r},)")
            if converter and converter not in _CONVERTERS:
                raise KeyFormatError(f"{where}: {{{name}:{converter}}}: there are {', '.join(_CONVERTERS)}")
            kinds = (_CONVERTERS[converter],) if converter else () if attributes else _kinds(annotations.get(parameter))
            marks = separators.replace(":", "") if converter == "path" else separators
            compiled.append(_Field(parameter, tuple(attributes), kinds, marks, converter == "path"))
        return compiled

    def _expression(self) -> re.Pattern[str]:
        any_text = iter(["(.*)" if field.is_path else "([^:]*)" for field in self._fields])
        return re.compile(
            "".join(
                re.escape(literal) + (next(any_text) if name is not None else "") for literal, name, _ in self._parts
            ),
            re.DOTALL,
        )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by their names, defaults applied; raises TypeError as the call would."""
        if not kwargs and self._least <= len(args) <= self._most:
            return dict(zip(self._names, args + self._defaults[len(args) - self._least :], strict=True))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def as_written(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as the key has them: whole numbers where `float` is annotated as floats."""
        if not self._floats:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        for name in self._floats:
            if _kind_of(bound.arguments.get(name)) is int:
                bound.arguments[name] = float(bound.arguments[name])
        return bound.args, bound.kwargs

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call. Raises TypeError for an argument that cannot be part of a key."""
        # Whole numbers, the most frequent, are written by % without a call.
        if not kwargs and len(args) == self._most and self._sole is not None:
            at, takes_int, field = self._sole
            value = args[at]
            key = self._form % (value if takes_int and type(value) is int else field.write(field.pick_from(value)),)
            return key if len(key) <= _SHORT else self._shortened(key)
        if kwargs or not self._least <= len(args) <= self._most:
            return self.format(self.bind(args, kwargs))
        if len(args) < self._most:
            args += self._defaults[len(args) - self._least :]
        return self._join(
            tuple(
                [
                    args[at] if takes_int and type(args[at]) is int else field.write(field.pick_from(args[at]))
                    for at, takes_int, field in self._places
                ]
            )
        )

    def format(self, arguments: Mapping[str, Any]) -> str:
        """Return the key for arguments by their names."""
        return self._join(tuple([field.write(field.pick(arguments)) for field in self._fields]))

    def format_values(self, values: Sequence[Any]) -> str:
        """Return the key for values in the order of the fields."""
        return self._join(tuple([field.write(value) for field, value in zip(self._fields, values, strict=True)]))

    def _join(self, texts: tuple[Any, ...]) -> str:
        key = self._form % texts
        return key if len(key) <= _SHORT else self._shortened(key)

    def _shortened(self, key: str) -> str:
        """Return a key, with a hash for its end if it is too long."""
        if self._longest is None or len(key.encode()) <= self._longest:
            return key
        import hashlib  # noqa: PLC0415 - slow to import, and most keys are short

        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.prefix.encode()[: self._longest - 42].decode(errors="ignore") + _HASHED + digest

    @property
    def field_names(self) -> list[str]:
        """The fields in their order, as `id` or `self.id`."""
        return [field.name for field in self._fields]

    def parse(self, key: str) -> list[Any]:
        """Return the values of the fields that give this key. Raises KeyFormatError if there are none."""
        match = self._regex.fullmatch(key)
        if match is None:
            raise KeyFormatError(f"{key}: no key of {self.template}")
        try:
            return [field.read(text) for field, text in zip(self._fields, match.groups(), strict=True)]
        except (ValueError, KeyError, ArithmeticError, TypeError) as error:
            raise KeyFormatError(f"{key}: no key of {self.template}: {error}") from None

    def __repr__(self) -> str:
        return f"KeyTemplate({self.template!r})"


def _split(template: str) -> list[tuple[str, str | None, str]]:
    """Take a template apart: literal, name of the field behind it, its converter."""
    try:
        parts = [(literal, name, spec or "") for literal, name, spec, _ in Formatter().parse(template)]
    except ValueError as error:
        raise KeyFormatError(f"{template!r}: {error}") from None
    merged: list[tuple[str, str | None, str]] = []
    for literal, name, spec in parts or [("", None, "")]:
        if any(c == "%" or c.isspace() or not c.isprintable() for c in literal):
            raise KeyFormatError(f"{template!r}: no blanks, control characters or % between fields")
        if name is not None and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) is None:
            raise KeyFormatError(f"{template!r}: a field is the name of a parameter, as {{id}}")
        # An escaped brace ends a part without a field.
        if merged and merged[-1][1] is None:
            literal = merged.pop()[0] + literal  # noqa: PLW2901
        merged.append((literal, name, spec))
    return merged


def _meet(one: Sequence[str | _Field], other: Sequence[str | _Field]) -> bool:
    """Tell whether two templates, character by character and field by field, have a text in common."""
    seen, left = {(0, 0)}, [(0, 0)]
    while left:
        place = left.pop()
        if place == (len(one), len(other)):
            return True
        for following in _steps(one, other, *place):
            if following not in seen:
                seen.add(following)
                left.append(following)
    return False


def _steps(one: Sequence[str | _Field], other: Sequence[str | _Field], i: int, j: int) -> list[tuple[int, int]]:
    """Return where the next character of a common text may lead; a field ends, or takes what the other has there."""
    first = one[i] if i < len(one) else None
    second = other[j] if j < len(other) else None
    steps = [(i + 1, j)] * isinstance(first, _Field) + [(i, j + 1)] * isinstance(second, _Field)
    if isinstance(first, _Field) and isinstance(second, str) and first.may_hold(second):
        steps.append((i, j + 1))
    elif isinstance(second, _Field) and isinstance(first, str) and second.may_hold(first):
        steps.append((i + 1, j))
    elif first is not None and first == second:
        steps.append((i + 1, j + 1))
    return steps


def _glob(literal: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", literal)


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
    return f"{_module(function)}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _module(thing: Any) -> str:
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
    first = next(iter(_signature(function, name_of(function)).parameters), None)
    scope = function.__qualname__.rpartition(".")[0]
    return first if first in {"self", "cls"} and scope and not scope.endswith("<locals>") else None


def _signature(function: Callable[..., Any], where: str) -> inspect.Signature:
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


def _check_callable(function: Any) -> str:
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


def _check_name(function: Callable[..., Any], where: str, wanted: Sequence[str], receiver: str | None) -> None:
    """Raise KeyFormatError if the name of a function does not tell it from others."""
    if receiver is not None and receiver in wanted:
        raise KeyFormatError(_without_receiver(where, receiver))
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
    if _module(function) == "__main__" or (
        function.__module__ in {"__main__", "__mp_main__"} and getattr(code, "co_filename", "").startswith("<")
    ):
        return "it was written in a shell or notebook, which has no name"
    return None


def _without_receiver(where: str, receiver: str) -> str:
    return (
        f"{where}: {receiver} is not in the key, so different objects would share an entry: write a template with what "
        f"tells them apart, as {{{receiver}.id}}, or ignore=({receiver!r},)"
    )


def _kinds(annotation: Any) -> tuple[type, ...]:
    """Return the types that an annotation allows in a key; none if it does not tell."""
    if annotation is None:
        return ()
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [_kinds(member) for member in typing.get_args(annotation)]
        return tuple(kind for member in members for kind in member) if all(members) else ()
    if typing.get_origin(annotation) is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if isinstance(annotation, typing.NewType):
        return _kinds(annotation.__supertype__)
    is_listed = annotation in _KINDS or (isinstance(annotation, type) and issubclass(annotation, Enum))
    return (annotation,) if is_listed else ()
