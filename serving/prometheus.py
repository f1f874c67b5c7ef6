"""The metrics of one process, as Prometheus reads them: `GET /metrics` of `python -m serving.http`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import prometheus_client
from starlette.types import Receive, Scope, Send

from serving.metrics import ALL, Metric

PATH = "/metrics"


class PrometheusExporter:
    """Holds the metrics, and answers whoever reads them; see `serving.metrics.Exporter`."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._made = {metric.name: self._make(metric) for metric in ALL}
        self._app = prometheus_client.make_asgi_app(self._registry)

    def _make(self, metric: Metric) -> Any:
        given = (metric.name, metric.help, metric.labels)
        if metric.kind == "histogram":
            return prometheus_client.Histogram(*given, registry=self._registry, buckets=metric.buckets)
        kind = prometheus_client.Counter if metric.kind == "counter" else prometheus_client.Gauge
        return kind(*given, registry=self._registry)

    def write(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, set a gauge, or put into a histogram."""
        series = self._made[metric.name].labels(**labels)
        if metric.kind == "counter":
            series.inc(value)
        elif metric.kind == "gauge":
            series.set(value)
        else:
            series.observe(value)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with all metrics as text."""
        await self._app(scope, receive, send)
