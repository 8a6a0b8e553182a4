"""A plain client over one blocking socket: one request, one reply. What the command line uses.

Speaks RESP2. Knows nothing of pools, pipelines or retries.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from globalcache.errors import CacheError, ConfigError, DeadlineError, ReplyError, UnavailableError

if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_URL = "globalcache://127.0.0.1:7411"
_TCP = ("globalcache", "redis")
_UNIX = ("globalcache+unix", "redis+unix", "unix")

Reply: TypeAlias = "bytes | int | str | list[Reply] | None"


@dataclass(frozen=True)
class Address:
    """Where a server is: host and port, or the path of a socket, and the number of the database."""

    host: str = "127.0.0.1"
    port: int = 7411
    path: str | None = None
    db: int = 0

    @classmethod
    def parse(cls, url: str | None) -> Address:
        """Read a URL; None is $GLOBALCACHE_URL, and without that the default. Raises ConfigError."""
        text = url or os.environ.get("GLOBALCACHE_URL") or DEFAULT_URL
        allowed = "allowed are globalcache://HOST:PORT/DB, redis://HOST:PORT/DB and globalcache+unix:///path"
        try:
            parts = urlsplit(text if "://" in text else f"globalcache://{text}")
            if parts.scheme in _UNIX and parts.path:
                return cls(path=unquote(parts.path))
            if parts.scheme in _TCP:
                db = parts.path.strip("/")
                return cls(parts.hostname or "127.0.0.1", parts.port or 7411, None, int(db) if db else 0)
        except ValueError as error:
            raise ConfigError(f"{text}: {error}; {allowed}") from None
        raise ConfigError(f"{text}: {allowed}")

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class PlainClient:
    """One connection. Every call raises UnavailableError, DeadlineError or ReplyError."""

    def __init__(self, url: str | None = None, *, timeout: float = 1.0) -> None:
        self.address = Address.parse(url)
        try:
            self._socket = self._connect(timeout)
        except TimeoutError as error:
            raise DeadlineError(f"{self.address}: no connection in {timeout:g} s") from error
        except OSError as error:
            raise UnavailableError(f"{self.address}: {error.strerror or error}") from error
        self._input = self._socket.makefile("rb")
        if self.address.db:
            self.call("SELECT", str(self.address.db))

    def _connect(self, timeout: float) -> socket.socket:
        if self.address.path is None:
            return socket.create_connection((self.address.host, self.address.port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(self.address.path)
        return connection

    def call(self, *words: str | bytes) -> Reply:
        """Ask for one command and return its reply: bytes, a number, a word, a list of these or None."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        try:
            self._socket.sendall(request)
            return self._reply()
        except TimeoutError as error:
            raise DeadlineError(f"{self.address}: no answer in {self._socket.gettimeout():g} s") from error
        except OSError as error:
            raise UnavailableError(f"{self.address}: {error.strerror or error}") from error

    def _reply(self) -> Reply:
        line = self._input.readline()
        if not line.endswith(b"\r\n"):
            raise UnavailableError(f"{self.address}: the server closed the connection")
        kind, text = line[:1], line[1:-2]
        match kind:
            case b"+":
                return text.decode()
            case b"-":
                raise ReplyError(text.decode(errors="replace"))
            case b":":
                return int(text)
            case b"$":
                return None if text == b"-1" else self._input.read(int(text) + 2)[:-2]
            case b"*":
                return [self._reply() for _ in range(int(text))]
        raise CacheError(f"{self.address}: no Redis protocol: {line[:40]!r}")

    def close(self) -> None:
        """Close the connection."""
        self._input.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
