"""What the sync and async faces of one cache share: servers, values, counts. Made from options; opens nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from globalcache.client.claims import Claims
from globalcache.client.failures import Failures
from globalcache.client.flights import Flights
from globalcache.client.fork import lazy
from globalcache.client.options import CacheOptions
from globalcache.client.refresher import Refresher
from globalcache.client.runner import Runner
from globalcache.client.servers import Servers
from globalcache.client.single_flight import SingleFlight
from globalcache.client.stats import Events, Stats
from globalcache.client.unstored import Unstored
from globalcache.client.values import Values
from globalcache.errors import CacheError, ConfigError
from globalcache.policy import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    from globalcache.client.loader import Loader
    from globalcache.client.refresher_tasks import AsyncRefresher
    from globalcache.client.runner_tasks import AsyncRunner
    from globalcache.client.single_flight_tasks import AsyncSingleFlight

# Seconds of the wait for somebody else's load.
WAIT = 30.0
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
        clock = options.get("clock")
        if on_error not in {"miss", "raise"}:
            raise ConfigError("on_error: should be miss or raise")
        self.raises = on_error == "raise"
        self.values = Values(
            options.get("codec", "json"), compress_over=options.get("compress_over"), secret=options.get("secret")
        )
        self.stats = Stats()
        self.events = Events(options.get("on_event"))
        self.wait = seconds("wait", options.get("wait", WAIT))
        ttl = options.get("default_ttl")
        self.default_ttl = None if ttl is None else seconds("default_ttl", ttl, least=0.001)
        self.servers = Servers(
            url,
            timeout=options.get("timeout"),
            tls=options.get("tls"),
            clock=clock,
            stats=self.stats,
            events=self.events,
        )
        self.failures = Failures(time.monotonic if clock is None else clock, tell_text=options.get("tell_text", False))
        self.flights = Flights(options.get("local_loads", LOCAL_LOADS))
        self.runner = Runner(options.get("around_load"))
        self.single_flight = SingleFlight(self.flights)
        self.refresher = Refresher()
        self.unstored = Unstored()
        # By the names of the namespace they belong to, so that a worker of the cache finds those of its namespaces too.
        self.loaders: dict[tuple[str, ...], dict[str, Loader]] = {}
        # Which function has which keys, in all faces and namespaces.
        self.claims = Claims(self.servers.shared_names)

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
        self.warn_too_long(most, function, key, data)
        return True

    def warn_too_long(self, most: int, function: str, key: str, data: bytes) -> None:
        """Warn that a server would not take a value."""
        self.unstored.warn(function, key, len(data), most, time.monotonic())

    def counts(self) -> dict[str, Any]:
        """Return what was counted, and how many invalidations are pending (`owed`)."""
        return self.stats.as_dict() | {"owed": sum(len(endpoint.pending) for endpoint in self.servers.endpoints)}

    def __str__(self) -> str:
        return str(self.servers)
