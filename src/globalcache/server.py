"""A server inside any Python process: `with globalcache.Server() as server: ...`.

Its threads are native and never wait for the interpreter.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from globalcache import _core
from globalcache.config import ServerSettings, client_url, load_settings
from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType


def _wrong(error: ValueError) -> ConfigError:
    name, colon, rest = str(error).partition(":")
    return ConfigError(name.replace("_", "-") + colon + rest)


class Server:
    """A running server.

    Takes the options of `globalcache serve` under their names with underscores (`Server(memory="64MiB")`); listens on
    a free port of 127.0.0.1 unless told otherwise. Raises ConfigError for a wrong option and OSError when an address
    cannot be bound. Using it after fork() raises RuntimeError: its threads stay with the parent. If one of its threads
    fails by a fault of the server, it closes its listeners and connections and logs the cause, and every later call
    raises RuntimeError.
    """

    def __init__(self, **options: Any) -> None:
        self.settings: ServerSettings = load_settings(**{"listen": ["127.0.0.1:0"], **options})
        settings = self.settings
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        try:
            self._core = _core.Server(
                listen=settings.listen,
                threads=settings.threads,
                memory=settings.memory,
                evict=settings.eviction == "s3fifo",
                max_value=settings.max_value,
                max_clients=settings.max_clients,
                client_memory=settings.client_memory,
                idle_timeout_ms=int(settings.idle_timeout * 1000),
                insecure=settings.insecure,
                passwords=settings.passwords(),
                users=settings.users(),
                tls=tls,
                loaders=settings.loader,
                load_limit_ms=int(settings.load_timeout * 1000),
                shutdown=settings.shutdown,
                debug_time=settings.debug_time,
            )
        except ValueError as error:
            raise _wrong(error) from None

    @property
    def addresses(self) -> list[str]:
        """Every address it listens on, with the ports that were taken."""
        return self._core.addresses

    @property
    def address(self) -> str:
        """The first address: `127.0.0.1:7411`, `tls://127.0.0.1:7411` or `unix:///path`."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        """What to give a client: `globalcache://127.0.0.1:7411`, `globalcaches://...` or `globalcache+unix:///path`."""
        return client_url(self.address)

    @property
    def redis_url(self) -> str:
        """What to give a Redis client: `redis://127.0.0.1:7411`, `rediss://...` or `unix:///path`."""
        kind, _, place = self.address.rpartition("://")
        return {"unix": "unix://", "tls": "rediss://"}.get(kind, "redis://") + place

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, by `stop()` or by a client that may."""
        return self._core.stopping

    def stats(self) -> dict[str, int]:
        """Return counts since the start (hits, misses, commands ...) and what is held now (items, used_memory ...)."""
        return self._core.stats()

    def reload(self) -> None:
        """Read users and the files of TLS again. Raises ConfigError or OSError; then all stays as it was."""
        try:
            self._core.reload(self.settings.passwords(), self.settings.users())
        except ValueError as error:
            raise _wrong(error) from None

    def stop(self) -> None:
        """Stop it; replies on their way are sent, within five seconds. Stopping twice is fine.

        Raises RuntimeError if it had failed before; its threads have ended in either case.
        """
        self._core.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong in the block says more than that the server has failed.
        with contextlib.suppress(*([] if error is None else [RuntimeError])):
            self.stop()

    def __repr__(self) -> str:
        return f"Server({', '.join(self.addresses)})"
