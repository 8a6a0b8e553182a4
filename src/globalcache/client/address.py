"""Where a server is and how to log in, read from a URL.

    globalcache://[USER:PASSWORD@]HOST[:PORT][/DB]     also redis://
    globalcaches://...                                 TLS; also rediss://
    globalcache+unix:///PATH                           also redis+unix:// and unix://
    memory://                                          a cache of this object alone; memory://NAME: of this process
    null://                                            nothing is kept: the switch to turn caching off

`?timeout=500ms&namespace=shop&db=1` may follow each, and `?ca=ca.pem&cert=me.pem&key=me.key` those with TLS. Knows no
sockets.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from globalcache.errors import ConfigError
from globalcache.units import parse_duration

DEFAULT_URL = "globalcache://127.0.0.1:7411"
DEFAULT_PORT = 7411
_TCP = {"globalcache": False, "redis": False, "globalcaches": True, "rediss": True}
_UNIX = ("globalcache+unix", "redis+unix", "unix")
_ALLOWED = (
    "allowed are globalcache://HOST:PORT/DB, globalcaches:// (TLS), globalcache+unix:///path, redis://, memory:// "
    "and null://"
)

_HINT = "write %3A for :, %2F for /, %40 for @ and %23 for # in a user or password"
# A host or a path as they usually are, with a port that is a number: what a message may show.
_PLACE = re.compile(r"[\w.-]+(:\d{0,5})?(/\d{0,3})?|\[[\da-fA-F:.]+\](:\d{0,5})?(/\d{0,3})?|/[\w./-]*")


class Address(msgspec.Struct, frozen=True):
    """One server. `kind` is "tcp", "unix", "memory" or "null"; `name` is what keys are spread by."""

    kind: str = "tcp"
    host: str = "127.0.0.1"
    port: int = 7411
    path: str = ""
    tls: bool = False
    user: str | None = None
    password: str | None = None
    db: int = 0
    timeout: float | None = None
    namespace: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, url: str | None) -> Address:
        """Read a URL; None is $GLOBALCACHE_URL, and without that the default. Raises ConfigError."""
        text = url or os.environ.get("GLOBALCACHE_URL") or DEFAULT_URL
        text = text if "://" in text else f"globalcache://{text}"
        try:
            return cls._parse(text)
        except _InvalidUrlError as error:
            raise ConfigError(f"{_without_secret(text)}: {error}; {_ALLOWED}") from None
        except ValueError:
            # The texts of urllib and int() quote what they could not read, which may be a part of a password.
            raise ConfigError(f"{_without_secret(text)}: not a URL: {_HINT}; {_ALLOWED}") from None

    @classmethod
    def _parse(cls, text: str) -> Address:
        parts = urlsplit(text)
        if "#" in text:
            raise _InvalidUrlError("a URL has no #; write %23 for one in a password")
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        timeout = options.pop("timeout", None)
        namespace = options.pop("namespace", None)
        db = options.pop("db", "")
        files = {name: options.pop(name, None) for name in ("ca", "cert", "key")}
        if any(files.values()) and not _TCP.get(parts.scheme):
            raise _InvalidUrlError("ca, cert and key belong to globalcaches://")
        if files["key"] and not files["cert"]:
            raise _InvalidUrlError("key: there is no cert that it belongs to")
        if options:
            raise _InvalidUrlError(f"{_printable(next(iter(options)), parts.query)} is no option of a URL")
        seconds = None if timeout is None else _timeout(timeout)
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if user is not None and password is None:
            raise _InvalidUrlError("a user without a password")
        common = {"user": user, "password": password, "timeout": seconds, "namespace": namespace, **files}
        if parts.scheme in _TCP:
            number = _database(parts.path.strip("/") or db)
            tls, host = _TCP[parts.scheme], _host(parts.hostname or "127.0.0.1")
            return cls("tcp", host, _port(parts), "", tls, db=number, **common)  # type: ignore[arg-type]
        if parts.scheme in _UNIX and parts.path:
            if parts.netloc and not parts.netloc.endswith("@"):
                raise _InvalidUrlError("a path begins with / right after :// or after the @ that ends a password")
            return cls("unix", path=unquote(parts.path), db=_database(db), **common)  # type: ignore[arg-type]
        if parts.scheme in {"memory", "null"}:
            return cls(parts.scheme, path=parts.netloc + parts.path, **common)  # type: ignore[arg-type]
        raise _InvalidUrlError("no such kind of URL")

    @property
    def name(self) -> str:
        """The server as configured, without user and password: what keys are spread by."""
        where = self.path if self.kind == "unix" else f"{self.host}:{self.port}"
        return f"{where}/{self.db}" if self.db else where

    def __str__(self) -> str:
        """Write it without user and password."""
        if self.kind in {"memory", "null"}:
            return f"{self.kind}://{self.path}"
        return self.name

    __repr__ = __str__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show it as text: the form that msgspec would give has the password."""
        return [("name", str(self))]


class _InvalidUrlError(ValueError):
    """A URL that cannot be used; its text is free of secrets."""


def _printable(option: str, query: str) -> str:
    # With an @ behind it the ? may stand in a password.
    return option if option.isidentifier() and "@" not in query else "what follows ?"


def _timeout(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise _InvalidUrlError("timeout: should be a time such as 500ms") from None


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise _InvalidUrlError("a database is a number")
    return int(text or 0)


def _host(name: str) -> str:
    try:
        name.encode("idna")
    except UnicodeError:
        raise _InvalidUrlError("no such host can exist: a label of its name is empty or too long") from None
    return name


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or DEFAULT_PORT
    except ValueError:
        raise _InvalidUrlError("a port is a number from 1 to 65535; write %3A, %2F and %40 in a password") from None


def _without_secret(text: str) -> str:
    """Return the URL without what may be a user, a password or an option."""
    scheme, _, rest = text.partition("://")
    head, at, tail = rest.rpartition("@")
    place = (tail if at else head or tail).partition("?")[0].partition("#")[0]
    if at:
        return f"{scheme}://...@{place}"
    # Without an @ a password may stand anywhere in what should be the place.
    return f"{scheme}://{place}" if _PLACE.fullmatch(place) else f"{scheme}://..."
