"""The names of a namespace: keys and tags as they are sent, and the servers that keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from globalcache.client.wire import MOST_BYTES, MOST_KEYS, key_batches, tag_name
from globalcache.errors import ConfigError, KeyFormatError, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

S = TypeVar("S")
# A server with keys as they were given and as they are sent.
ServerKeys: TypeAlias = tuple[S, list[str], list[bytes]]

_LONGEST_KEY = 65_535
# Tags that may be given to one item, and those that it may have with those of its namespaces.
_MOST_GIVEN_TAGS, _MOST_TAGS = 16, 17


class Keyspace(Generic[S]):
    """The keys and tags under some names, one within the other. `place_of` returns which of the servers has a key."""

    def __init__(self, names: Sequence[str], servers: Sequence[S], place_of: Callable[[bytes], int]) -> None:
        # A colon in a name is escaped: "a:b" is another namespace than "b" within "a".
        levels = [name.replace("%", "%25").replace(":", "%3A") + ":" for name in names]
        self.prefix = "".join(levels)
        # Every level of names is a tag of all that is written under it, so that each can be cleared. No tag of a user
        # is one (`tag_name`). Clients of the version before write and clear the same.
        self.own_tags = tuple(b"ns:" + "".join(levels[: level + 1]).encode() for level in range(len(levels)))
        self.servers = servers
        # The server of all keys, if there is but one.
        self.only = servers[0] if len(servers) == 1 else None
        self._place_of = place_of

    def name(self, key: str) -> bytes:
        """Return a key as it is sent. Raises KeyFormatError for what is none."""
        if key.__class__ is not str or not key:
            raise KeyFormatError(f"a key is a str that is not empty, not {written(key)}")
        try:
            name = (self.prefix + key).encode()
        except UnicodeEncodeError:
            raise KeyFormatError(f"{written(key)}: a key is UTF-8") from None
        if len(name) > _LONGEST_KEY:
            raise KeyFormatError(f"{key[:40]!r}...: {len(name)} bytes; a key has at most {_LONGEST_KEY}")
        return name

    def names_of(self, keys: Sequence[str]) -> tuple[list[bytes], int]:
        """Return keys as they are sent, and their bytes at most; made together, for each alone costs more."""
        prefix = self.prefix
        try:
            joined = (prefix + f"\0{prefix}".join(keys)).encode()
        except (TypeError, UnicodeEncodeError):
            joined = b""  # one of them is no key: which one is told below
        if all(keys) and 0 < len(joined) <= _LONGEST_KEY:
            names = joined.split(b"\0")
            # More, if a key has a zero itself.
            if len(names) == len(keys):
                return names, len(joined)
        names = [self.name(key) for key in keys]
        return names, sum(map(len, names))

    def key_of(self, name: bytes) -> str:
        """Return a key as callers know it."""
        return name.decode()[len(self.prefix) :]

    def tag_name(self, tag: str) -> bytes:
        """Return a tag as it is sent. Raises KeyFormatError for what is none."""
        if tag.__class__ is not str or not tag:
            raise KeyFormatError(f"a tag is a str that is not empty, not {written(tag)}")
        return tag_name(self.prefix + tag)

    def tag_names(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """Return the tags of what is written: those of the namespace, and these. Raises ConfigError for too many."""
        if not tags:
            return self.own_tags
        given = tuple(map(self.tag_name, tags))
        most = min(_MOST_GIVEN_TAGS, _MOST_TAGS - len(self.own_tags))
        if len(given) > most:
            raise ConfigError(f"tags: {len(given)}: at most {most} here, for each level of namespaces is one as well")
        return (*self.own_tags, *given)

    def server_of(self, name: bytes) -> S:
        """Return the server that keeps a key."""
        return self.only or self.servers[self._place_of(name)]

    def by_server(self, keys: list[str]) -> list[ServerKeys[S]]:
        """Return the servers of these keys, each with keys as they were given and as they are sent, in batches."""
        if not keys:
            return []
        names, size = self.names_of(keys)
        if self.only is not None:
            if len(names) <= MOST_KEYS and size <= MOST_BYTES:
                return [(self.only, keys, names)]
            return _in_batches(self.only, keys, names)
        parts: dict[int, ServerKeys[S]] = {}
        for key, name in zip(keys, names, strict=True):
            place = self._place_of(name)
            part = parts.setdefault(place, (self.servers[place], [], []))
            part[1].append(key)
            part[2].append(name)
        return [batch for part in parts.values() for batch in _in_batches(*part)]


def _in_batches(server: S, keys: list[str], names: list[bytes]) -> list[ServerKeys[S]]:
    """Return keys in parts of which each may be asked for in one request."""
    parts: list[ServerKeys[S]] = []
    start = 0
    for part in key_batches(names):
        parts.append((server, keys[start : start + len(part)], list(part)))
        start += len(part)
    return parts
