"""What the sync and async faces of one cache share: servers, values, counts. Made from options; opens nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from globalcache.client._sync.transport import NullTransport
from globalcache.client.address import Address
from globalcache.client.claims import Claims
from globalcache.client.endpoint import Endpoint
from globalcache.client.failures import Failures
from globalcache.client.flights import Flights
from globalcache.client.fork import lazy
from globalcache.client.options import CacheOptions
from globalcache.client.refresher import Refresher
from globalcache.client.runner import Runner
from globalcache.client.single_flight import SingleFlight
from globalcache.client.stats import Events, Stats
from globalcache.client.tls import check_tls
from globalcache.client.unstored import Unstored
from globalcache.client.values import Values
from globalcache.errors import CacheError, ConfigError
from globalcache.policy import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Unpack

    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client._sync.transport import Transport
    from globalcache.client.loader import Loader
    from globalcache.client.local import LocalServer
    from globalcache.client.refresher_tasks import AsyncRefresher
    from globalcache.client.runner_tasks import AsyncRunner
    from globalcache.client.single_flight_tasks import AsyncSingleFlight

# Seconds: a call to the cache, and the wait for somebody else's load.
TIMEOUT, WAIT = 1.0, 30.0
# Systems do not wait for a socket for much longer than some weeks; nobody who asks a cache does for a day.
LONGEST_TIMEOUT = 86_400.0
# Loads that run at a time in this process while a server is away, so that the database survives.
LOCAL_LOADS = 32


class CacheState:
    """The configuration of a cache and all that its sync and async faces and its namespaces share."""

    def __init__(self, url: str | Sequence[str] | None = None, **options: Unpack[CacheOptions]) -> None:
        if unknown := options.keys() - CacheOptions.__optional_keys__:
            raise TypeError(
                f"Cache has no option {min(unknown)!r}; it has {', '.join(sorted(CacheOptions.__optional_keys__))}"
            )
        on_error = options.get("on_error", "miss")
        clock, timeout, tls = options.get("clock"), options.get("timeout"), options.get("tls")
        if on_error not in {"miss", "raise"}:
            raise ConfigError("on_error: should be miss or raise")
        urls = [url] if url is None or isinstance(url, str) else list(url)
        if not urls:
            raise ConfigError("url: no server is named")
        self.addresses = [Address.parse(one) for one in urls]
        self.raises = on_error == "raise"
        self.values = Values(
            options.get("codec", "json"), compress_over=options.get("compress_over"), secret=options.get("secret")
        )
        self.stats = Stats()
        self.events = Events(options.get("on_event"))
        self.wait = seconds("wait", options.get("wait", WAIT))
        ttl = options.get("default_ttl")
        self.default_ttl = None if ttl is None else seconds("default_ttl", ttl, least=0.001)
        given = timeout if timeout is not None else self.addresses[0].timeout
        self.timeout = seconds("timeout", TIMEOUT if given is None else given, least=0.001, most=LONGEST_TIMEOUT)
        self.tell_text = options.get("tell_text", False)
        check_tls(tls)
        self.tls = tls
        self.failures = Failures(time.monotonic if clock is None else clock, tell_text=self.tell_text)
        self.flights = Flights(options.get("local_loads", LOCAL_LOADS))
        self.runner = Runner(options.get("around_load"))
        self.single_flight = SingleFlight(self.flights)
        self.refresher = Refresher()
        self.unstored = Unstored()
        # By the names of the namespace they belong to, so that a worker of the cache finds those of its namespaces too.
        self.loaders: dict[tuple[str, ...], dict[str, Loader]] = {}
        # Which function has which keys, in all faces and namespaces.
        stores = self._stores(clock)
        self.claims = Claims(stores)
        # Equal keys are the same key where these are equal: one that no other cache uses is equal to none.
        self._places: Sequence[object] = stores or [object()]
        self._make_servers(clock)

    def _stores(self, clock: Callable[[], float] | None) -> list[str]:
        """Return the names of the stores that other caches of this process may use too."""
        first = self.addresses[0]
        if first.kind == "null" or (first.kind == "memory" and (clock is not None or not first.path)):
            return []
        return [str(address) for address in self.addresses]

    def _make_servers(self, clock: Callable[[], float] | None) -> None:
        kinds = {address.kind for address in self.addresses}
        if kinds & {"memory", "null"} and len(self.addresses) > 1:
            raise ConfigError("url: memory:// and null:// stand alone")
        if clock is not None and kinds != {"memory"}:
            raise ConfigError("clock: only memory:// has one")
        self.endpoints: list[Endpoint] = []
        self.transports: Sequence[Transport] = [NullTransport()]
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
            stats=self.stats,
            events=self.events,
            tls=self.tls,
            local=local,
            list_hash=list_hash,
        )

    @lazy
    def async_transports(self) -> Sequence[AsyncTransport]:
        """The servers for tasks; threads need no asyncio, which takes long to import."""
        if not self.endpoints:
            from globalcache.client._async.transport import AsyncNullTransport  # noqa: PLC0415

            return [AsyncNullTransport()]
        if (local := self.endpoints[0].local) is not None:
            from globalcache.client.local_tasks import LocalMultiplexedTransport  # noqa: PLC0415

            return [LocalMultiplexedTransport(self.endpoints[0], local)]
        from globalcache.client.multiplexed import MultiplexedTransport  # noqa: PLC0415

        return [MultiplexedTransport(endpoint) for endpoint in self.endpoints]

    @lazy
    def async_runner(self) -> AsyncRunner:
        """What runs loads, for tasks."""
        from globalcache.client.runner_tasks import AsyncRunner  # noqa: PLC0415

        return AsyncRunner()

    @lazy
    def async_single_flight(self) -> AsyncSingleFlight:
        """What leads and joins the flights of this cache, for tasks."""
        from globalcache.client.single_flight_tasks import AsyncSingleFlight  # noqa: PLC0415

        return AsyncSingleFlight(self.flights)

    @lazy
    def async_refresher(self) -> AsyncRefresher:
        """What refreshes in the background, for tasks."""
        from globalcache.client.refresher_tasks import AsyncRefresher  # noqa: PLC0415

        return AsyncRefresher()

    def forget_loads(self, keys: Iterable[bytes] | None) -> None:
        """Let nobody join a load of these keys that has begun in this process; None: of any key.

        Whoever asks after a write of this process must not see what was before it.
        """
        self.flights.forget(keys)
        self.unstored.forget(keys)

    def on_unavailable(self, error: CacheError) -> None:
        """Go on without the server, or raise, as `on_error` says."""
        self.stats.errors += 1
        if self.raises:
            raise error

    def is_too_long(self, most: int | None, function: str, key: str, data: bytes) -> bool:
        """Tell whether a server would not take a value, and warn if so; `most` is its `max_value`."""
        if most is None or len(data) <= most:
            return False
        self.unstored.warn(function, key, len(data), most, time.monotonic())
        return True

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
        return self._places[self.place_of(key) if len(self._places) > 1 else 0]

    def counts(self) -> dict[str, Any]:
        """Return what was counted, and how many invalidations are pending (`owed`)."""
        return self.stats.as_dict() | {"owed": sum(len(endpoint.pending) for endpoint in self.endpoints)}

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))
