"""A server inside any Python process: `with globalcache.Server() as server: ...`.

Its threads are native and never wait for the interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from globalcache import _core
from globalcache.config import ServerSettings, load_settings
from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType


class Server:
    """A running server.

    Takes the options of `globalcache serve` under their names with underscores (`Server(memory="64MiB")`); listens on
    a free port of 127.0.0.1 unless told otherwise. Raises ConfigError for a wrong option and OSError when an address
    cannot be bound. Using it after fork() raises RuntimeError: its threads stay with the parent.
    """

    def __init__(self, **options: Any) -> None:
        self.settings: ServerSettings = load_settings(**{"listen": ["127.0.0.1:0"], **options})
        settings = self.settings
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
                loaders=settings.loader,
                load_limit_ms=int(settings.load_timeout * 1000),
                shutdown=settings.shutdown,
                debug_time=settings.debug_time,
            )
        except ValueError as error:
            raise ConfigError(str(error).replace("_", "-")) from None

    @property
    def addresses(self) -> list[str]:
        """Every address it listens on, with the ports that were taken."""
        return self._core.addresses

    @property
    def address(self) -> str:
        """The first address: `127.0.0.1:7411`, or `unix:///path`."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        """What to give a client: `globalcache://127.0.0.1:7411`, or `globalcache+unix:///path`."""
        return self._url("globalcache://", "globalcache+unix://")

    @property
    def redis_url(self) -> str:
        """What to give a Redis client: `redis://127.0.0.1:7411`, or `unix:///path`."""
        return self._url("redis://", "unix://")

    def _url(self, tcp: str, unix: str) -> str:
        path = self.address.removeprefix("unix://")
        return unix + path if path != self.address else tcp + path

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, by `stop()` or by a client that may."""
        return self._core.stopping

    def stats(self) -> dict[str, int]:
        """Return counts since the start (hits, misses, commands ...) and what is held now (items, used_memory ...)."""
        return self._core.stats()

    def stop(self) -> None:
        """Stop it; replies on their way are sent, within five seconds. Stopping twice is fine."""
        self._core.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server({', '.join(self.addresses)})"
