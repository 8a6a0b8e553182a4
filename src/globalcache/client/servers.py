"""The servers of a cache: how threads and tasks reach them, and which of them keeps a key. Opens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from globalcache.client._sync.transport import NullTransport
from globalcache.client.address import Address
from globalcache.client.endpoint import Endpoint
from globalcache.client.fork import lazy
from globalcache.client.tls import check_tls
from globalcache.errors import ConfigError
from globalcache.policy import Duration, seconds

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client._sync.transport import Transport
    from globalcache.client.local import LocalServer
    from globalcache.client.stats import Events, Stats

# Seconds of a call to the cache.
TIMEOUT = 1.0
# Systems do not wait for a socket for much longer than some weeks; nobody who asks a cache does for a day.
LONGEST_TIMEOUT = 86_400.0


class Servers:
    """The servers of one cache, for its faces and its namespaces."""

    def __init__(  # noqa: PLR0913 - an option each
        self,
        url: str | Sequence[str] | None,
        *,
        timeout: Duration | None,
        tls: ssl.SSLContext | str | None,
        clock: Callable[[], float] | None,
        stats: Stats,
        events: Events,
    ) -> None:
        urls = [url] if url is None or isinstance(url, str) else list(url)
        if not urls:
            raise ConfigError("url: no server is named")
        self.addresses = [Address.parse(one) for one in urls]
        given = timeout if timeout is not None else self.addresses[0].timeout
        self.timeout = seconds("timeout", TIMEOUT if given is None else given, least=0.001, most=LONGEST_TIMEOUT)
        check_tls(tls)
        self.tls = tls
        self._stats, self._events = stats, events
        # The names of those that other caches of this process may use too.
        self.shared_names = self._shared_names(clock)
        # Equal keys are the same key where these are equal: one that no other cache uses is equal to none.
        self._stores: Sequence[object] = self.shared_names or [object()]
        self.endpoints: list[Endpoint] = []
        self.transports: Sequence[Transport] = [NullTransport()]
        self._connect_later(clock)

    def _connect_later(self, clock: Callable[[], float] | None) -> None:
        kinds = {address.kind for address in self.addresses}
        if kinds & {"memory", "null"} and len(self.addresses) > 1:
            raise ConfigError("url: memory:// and null:// stand alone")
        if clock is not None and kinds != {"memory"}:
            raise ConfigError("clock: only memory:// has one")
        if "null" in kinds:
            return
        from globalcache.client.connection_pool import ConnectionPool  # noqa: PLC0415 - null:// needs none

        names = [address.name for address in self.addresses]
        if len(set(names)) < len(names):
            raise ConfigError("url: a server is named twice")
        list_hash = None
        if len(names) > 1:
            import hashlib  # noqa: PLC0415 - slow to import, and one server has no need of it

            self._hash = hashlib.blake2b
            self._seeds = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names]
            list_hash = hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=8).hexdigest().encode()
        self.endpoints = [self.endpoint(address, list_hash=list_hash) for address in self.addresses]
        if kinds == {"memory"}:
            from globalcache.client.local import LocalConnectionPool, LocalServer, local_server  # noqa: PLC0415 - few need it

            local = local_server(self.addresses[0].path) if clock is None else LocalServer(clock)
            self.endpoints[0].local = local
            self.transports = [LocalConnectionPool(self.endpoints[0], local)]
            return
        self.transports = [ConnectionPool(endpoint) for endpoint in self.endpoints]

    def endpoint(
        self, address: Address, *, local: LocalServer | None = None, list_hash: bytes | None = None
    ) -> Endpoint:
        """Return what the connections to a server share."""
        return Endpoint(
            address,
            timeout=self.timeout,
            stats=self._stats,
            events=self._events,
            tls=self.tls,
            local=local,
            list_hash=list_hash,
        )

    @lazy
    def async_transports(self) -> Sequence[AsyncTransport]:
        """How tasks reach them; threads need no asyncio, which takes long to import."""
        if not self.endpoints:
            from globalcache.client._async.transport import AsyncNullTransport  # noqa: PLC0415

            return [AsyncNullTransport()]
        if (local := self.endpoints[0].local) is not None:
            from globalcache.client.local_tasks import LocalMultiplexedTransport  # noqa: PLC0415

            return [LocalMultiplexedTransport(self.endpoints[0], local)]
        from globalcache.client.multiplexed import MultiplexedTransport  # noqa: PLC0415

        return [MultiplexedTransport(endpoint) for endpoint in self.endpoints]

    def place_of(self, key: bytes) -> int:
        """Return the place of the server that keeps a key: by rendezvous, so a server less moves its share alone."""
        best, place = b"", 0
        for index, seed in enumerate(self._seeds):
            score = self._hash(key, digest_size=8, key=seed).digest()
            if score > best:
                best, place = score, index
        return place

    def store_of(self, key: bytes) -> object:
        """Return what stands for the place where a key is stored; it is equal in all caches that use that."""
        return self._stores[self.place_of(key) if len(self._stores) > 1 else 0]

    def _shared_names(self, clock: Callable[[], float] | None) -> list[str]:
        first = self.addresses[0]
        if first.kind == "null" or (first.kind == "memory" and (clock is not None or not first.path)):
            return []
        return [str(address) for address in self.addresses]

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))
