"""A key template bound to the parameters of a function."""

from __future__ import annotations

import inspect
import re
from string import Formatter
from typing import TYPE_CHECKING, Any

from globalcache.errors import KeyFormatError
from globalcache.keys.field import Field
from globalcache.keys.kinds import kind_of, kinds_of
from globalcache.keys.signature import check_callable, check_name, hints, receiver_of, signature_of, without_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

LONGEST = 250
_SHORT = LONGEST // 4  # characters of a key that is not too long, whatever they are
_HASHED = "%h"  # nothing that is escaped looks like it, nor do the marks below: their letters are no digits of 16
_CONVERTERS = {"int": int, "str": str, "path": str}


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
        where = check_callable(function)
        self.signature = signature_of(function, where)
        self._longest = longest
        names = list(self.signature.parameters)
        for name in ignore:
            if name not in names:
                raise KeyFormatError(f"{where}: ignore names {name!r}, which is no parameter")
        wanted = [name for name in names if name not in ignore]
        receiver = receiver_of(function)
        if template is None:
            check_name(function, where, wanted, receiver)
            template = ":".join([where.replace("{", "{{").replace("}", "}}"), *(f"{{{name}}}" for name in wanted)])
        self.template = template
        self._parts = list(_split(template))
        self._fields = self._compile(hints(function), where)
        if not is_tag:
            self._check_complete(wanted, receiver, where)
        self.prefix = self._parts[0][0]
        self._floats = [field.parameter for field in self._fields if field.takes_float and not field.attributes]
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
        self._regex = self._expression()

    @property
    def pattern(self) -> str:
        """What matches all its keys, as a server understands it."""
        return "".join(_glob(literal) + ("*" if name is not None else "") for literal, name, _ in self._parts)

    @property
    def is_constant(self) -> bool:
        """Whether it has one key, whatever the call."""
        return not self._fields

    @property
    def _tail(self) -> str:
        """What all keys end in, unless they are too long."""
        return self._parts[-1][0] if self._parts[-1][1] is None else ""

    def _check_complete(self, wanted: Sequence[str], receiver: str | None, where: str) -> None:
        """Raise KeyFormatError if two calls that differ could have one key."""
        named = {field.parameter for field in self._fields if field.attributes or field.parameter != receiver}
        missing = [name for name in wanted if name not in named]
        if receiver is not None and receiver in missing:
            raise KeyFormatError(without_receiver(where, receiver))
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

    def _atoms(self, prefix: str) -> list[str | Field]:
        """Return the characters and fields of a key in their order."""
        atoms: list[str | Field] = [*prefix]
        fields = iter(self._fields)
        for literal, name, _ in self._parts:
            atoms += literal
            atoms += [next(fields)] if name is not None else []
        return atoms

    @staticmethod
    def names(template: str) -> list[str]:
        """Return the fields of a template in their order; raises KeyFormatError if it is none."""
        return [name for _, name, _ in _split(template) if name is not None]

    def _compile(self, annotations: Mapping[str, Any], where: str) -> list[Field]:
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
            kinds = (
                (_CONVERTERS[converter],) if converter else () if attributes else kinds_of(annotations.get(parameter))
            )
            marks = separators.replace(":", "") if converter == "path" else separators
            compiled.append(Field(parameter, tuple(attributes), kinds, marks, converter == "path"))
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
            if kind_of(bound.arguments.get(name)) is int:
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


def _meet(one: Sequence[str | Field], other: Sequence[str | Field]) -> bool:
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


def _steps(one: Sequence[str | Field], other: Sequence[str | Field], i: int, j: int) -> list[tuple[int, int]]:
    """Return where the next character of a common text may lead; a field ends, or takes what the other has there."""
    first = one[i] if i < len(one) else None
    second = other[j] if j < len(other) else None
    steps = [(i + 1, j)] * isinstance(first, Field) + [(i, j + 1)] * isinstance(second, Field)
    if isinstance(first, Field) and isinstance(second, str) and first.may_hold(second):
        steps.append((i, j + 1))
    elif isinstance(second, Field) and isinstance(first, str) and second.may_hold(first):
        steps.append((i + 1, j))
    elif first is not None and first == second:
        steps.append((i + 1, j + 1))
    return steps


def _glob(literal: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", literal)
