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
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from globalcache.errors import ConfigError
from globalcache.units import parse_duration

DEFAULT_URL = "globalcache://127.0.0.1:7411"
_TCP = {"globalcache": False, "redis": False, "globalcaches": True, "rediss": True}
_UNIX = ("globalcache+unix", "redis+unix", "unix")
_ALLOWED = (
    "allowed are globalcache://HOST:PORT/DB, globalcaches:// (TLS), globalcache+unix:///path, redis://, memory:// "
    "and null://"
)


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
        try:
            return cls._parse(text if "://" in text else f"globalcache://{text}")
        except ValueError as error:
            # Never the URL itself: it may hold a password.
            raise ConfigError(f"{_without_secret(text)}: {error}; {_ALLOWED}") from None

    @classmethod
    def _parse(cls, text: str) -> Address:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        timeout = options.pop("timeout", None)
        namespace = options.pop("namespace", None)
        db = options.pop("db", "")
        files = {name: options.pop(name, None) for name in ("ca", "cert", "key")}
        if any(files.values()) and not _TCP.get(parts.scheme):
            raise ValueError("ca, cert and key belong to globalcaches://")
        if files["key"] and not files["cert"]:
            raise ValueError("key: there is no cert that it belongs to")
        if options:
            raise ValueError(f"{next(iter(options))} is no option of a URL")
        seconds = None if timeout is None else parse_duration(timeout)
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if user is not None and password is None:
            raise ValueError("a user without a password")
        common = {"user": user, "password": password, "timeout": seconds, "namespace": namespace, **files}
        if parts.scheme in _TCP:
            number = int(parts.path.strip("/") or db or 0)
            tls = _TCP[parts.scheme]
            return cls("tcp", parts.hostname or "127.0.0.1", parts.port or 7411, "", tls, db=number, **common)  # type: ignore[arg-type]
        if parts.scheme in _UNIX and parts.path:
            return cls("unix", path=unquote(parts.path), db=int(db or 0), **common)  # type: ignore[arg-type]
        if parts.scheme in {"memory", "null"}:
            return cls(parts.scheme, path=parts.netloc + parts.path, **common)  # type: ignore[arg-type]
        raise ValueError("no such kind of URL")

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


def _without_secret(text: str) -> str:
    head, at, tail = text.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else text
