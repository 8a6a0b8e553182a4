"""A place in a template: which argument stands there, and how it is written in the key."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import msgspec

from globalcache.errors import written
from globalcache.keys.kinds import (
    ALLOWED,
    KINDS,
    UNMARKED,
    is_float,
    is_more,
    kind_of,
    loses,
    member_of,
    name_of_member,
    read_int,
    read_member,
)
from globalcache.keys.signature import module_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN = re.compile(r"[A-Za-z0-9_.~/@=,+-]*")


class Field(msgspec.Struct, frozen=True):
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
        """Return the value that stands here, from the arguments by name."""
        return self.pick_from(arguments[self.parameter])

    def pick_from(self, value: Any) -> Any:
        """Return the value that stands here, from the argument."""
        for name in self.attributes:
            value = getattr(value, name)
        return value

    def write(self, value: Any) -> str:
        """Return a value as it is written. Raises TypeError for what cannot be part of a key."""
        kind = kind_of(value)
        if kind is None:
            raise TypeError(f"{self.name}: {type(value).__name__} cannot be part of a key; allowed are {ALLOWED}")
        if self.kinds and kind not in self.kinds:
            if kind is not int or not self.takes_float or not is_float(value):
                allowed = " or ".join(kind.__name__.replace("NoneType", "None") for kind in self.kinds)
                raise TypeError(f"{self.name}: {written(value)} is no {allowed}")
            kind, value = float, float(value)
        is_sole = len(self.kinds) == 1
        if issubclass(kind, Enum):
            name = name_of_member(value)
            return (
                self._escape(name) if is_sole else "%m" + self._escape(f"{module_of(kind)}.{kind.__qualname__}.{name}")
            )
        how = KINDS[kind]
        try:
            plain = how.write(value)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        if type(value) is not kind and (is_more(value) or loses(how, plain, value)):
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
            return read_int(text)
        value = self._read(text)
        if self.write(value) != text:
            raise ValueError(f"{text!r} is not how a value is written there")
        return value

    def _read(self, text: str) -> Any:
        plain = unquote_to_bytes(text).decode("utf-8", "surrogatepass")
        kinds = self.kinds or tuple(KINDS)
        if len(kinds) == 1:
            (kind,) = kinds
            return read_member(kind, plain) if issubclass(kind, Enum) else KINDS[kind].read(plain)
        for kind in kinds:
            if issubclass(kind, Enum):
                name = plain.removeprefix("%m").removeprefix(f"{module_of(kind)}.{kind.__qualname__}.")
                if (
                    text.startswith("%m")
                    and (member := member_of(kind, name)) is not None
                    and self.write(member) == text
                ):
                    return member
            elif (mark := KINDS[kind].mark) and text.startswith(mark):
                return KINDS[kind].read(unquote_to_bytes(text[2:]).decode())
        for kind in UNMARKED:
            if kind in kinds and (value := self._attempt(kind, text)) is not self:
                return value
        return plain

    def _attempt(self, kind: type, text: str) -> Any:
        """Read an unescaped value of a type, or return the field itself if it is none."""
        how = KINDS[kind]
        try:
            value = how.read(unquote_to_bytes(text).decode())
        except (ValueError, KeyError):
            return self
        return value if self._escape(how.write(value)) == text else self

    def _reads_as_another(self, text: str) -> bool:
        kinds = self.kinds or tuple(KINDS)
        return any(kind in kinds and self._attempt(kind, text) is not self for kind in UNMARKED)

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
        """What the template calls it, as `id` or `self.id`."""
        return ".".join((self.parameter, *self.attributes))


def _escaped(data: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in data)
