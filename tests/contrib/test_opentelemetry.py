"""Spans and metrics as an SDK collects them."""

from __future__ import annotations

from typing import Any

import pytest

from globalcache import Cache

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from globalcache.contrib.opentelemetry import Telemetry


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return values by name; of a histogram how many there were."""
    data = reader.get_metrics_data()
    assert data is not None
    found: dict[str, Any] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        point: Any = next(iter(metric.data.data_points))
        found[metric.name] = getattr(point, "count", None) or point.value
    return found


def test_loads_are_spans_and_counts_are_metrics() -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = Telemetry(tracers, MeterProvider([reader]))
    cache = Cache("memory://", on_event=telemetry)
    telemetry.observe(cache)

    def broken() -> int:
        raise OSError("no database")

    with tracers.get_tracer("test").start_as_current_span("request") as request:
        cache.get_or_load("k", lambda: 1)
        cache.get_or_load("k", lambda: 2)
    with pytest.raises(OSError, match="no database"):
        cache.get_or_load("other", broken)
    cache.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))

    loads = [span for span in spans.get_finished_spans() if span.name == "globalcache.load"]
    assert [dict(span.attributes or {}) for span in loads] == [
        {"globalcache.key": "k"},
        {"globalcache.key": "other"},
        {"globalcache.keys": 2},
    ]
    assert loads[0].parent is not None
    assert loads[0].parent.span_id == request.get_span_context().span_id
    assert loads[1].status.description == "OSError: no database"
    found = metrics_of(reader)
    assert found["globalcache.load.duration"] == 2
    assert found["globalcache.load.errors"] == 1
    assert (found["globalcache.hits"], found["globalcache.loads"], found["globalcache.owed"]) == (1, 3, 0)


def test_an_outage_is_counted_once() -> None:
    reader = InMemoryMetricReader()
    cache = Cache("127.0.0.1:1", on_event=Telemetry(meter_provider=MeterProvider([reader])))
    assert [cache.get("a"), cache.get("b")] == [None, None]
    assert metrics_of(reader) == {"globalcache.outages": 1}
