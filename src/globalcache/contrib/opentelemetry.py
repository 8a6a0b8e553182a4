"""Spans and metrics of a cache for OpenTelemetry. Needs opentelemetry-api, which the extra `otel` brings.

    telemetry = Telemetry()
    cache = Cache(on_event=telemetry)
    telemetry.observe(cache)

A span for each load (`globalcache.load`, beneath the span of whoever asked; with the key, or how many keys),
and an event of the current span when a server goes away or is back.

Metrics: the histogram `globalcache.load.duration` in seconds, the counters `globalcache.load.errors`,
`globalcache.fill.errors` and `globalcache.outages`, and what `cache.stats()` counts under its name, `globalcache.hits`
for instance. Keys stand in spans only: metrics would have too many attributes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from globalcache import AsyncCache, Cache

_SCOPE = "globalcache"
# Counts that may fall are gauges.
_GAUGES = {"owed"}


class Telemetry:
    """What to give a cache as on_event=. The providers are the global ones unless others are given."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._durations = self._meter.create_histogram("globalcache.load.duration", "s", "How long loads took")
        self._load_errors = self._meter.create_counter("globalcache.load.errors", "1", "Loads that failed")
        self._fill_errors = self._meter.create_counter("globalcache.fill.errors", "1", "Loaded, but not stored")
        self._outages = self._meter.create_counter("globalcache.outages", "1", "Times that a server went away")

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Record what a cache tells."""
        shown = {f"globalcache.{name}": value for name, value in facts.items() if name not in {"seconds", "error"}}
        if event == "load":
            self._span(shown, facts["seconds"])
            self._durations.record(facts["seconds"])
        elif event == "load_error":
            self._span(shown, 0.0, facts["error"])
            self._load_errors.add(1)
        elif event == "fill_error":
            self._fill_errors.add(1)
        elif event in {"away", "back"}:
            if event == "away":
                self._outages.add(1)
            trace.get_current_span().add_event(f"globalcache.{event}", shown)

    def _span(self, shown: dict[str, Any], seconds: float, error: str | None = None) -> None:
        end = time.time_ns()
        begun = end - int(seconds * 1e9)
        span = self._tracer.start_span("globalcache.load", attributes=shown, start_time=begun)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end)

    def observe(self, cache: Cache | AsyncCache) -> None:
        """Have the counts of a cache read whenever metrics are collected. Once for a cache and its namespaces."""
        for name in cache.stats():
            make = self._meter.create_observable_gauge if name in _GAUGES else self._meter.create_observable_counter
            make(f"globalcache.{name}", [_reader(cache, name)], "s" if name.endswith("seconds") else "1")


def _reader(cache: Cache | AsyncCache, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(cache.stats()[name])]
