"""The metrics of a replica, which Ray's exporter on its node shows to Prometheus, with `ray_` before their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util import metrics

from serving.metrics import ALL, Metric


class RayExporter:
    """See `serving.metrics.Exporter`; the metrics of a replica are told apart by Ray, by its process."""

    def __init__(self) -> None:
        self._made = {metric.name: _make(metric) for metric in ALL}

    def write(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, set a gauge, or put into a histogram."""
        made, tags = self._made[metric.name], dict(labels)
        if metric.kind == "counter":
            made.inc(value, tags)
        elif metric.kind == "gauge":
            made.set(value, tags)
        else:
            made.observe(value, tags)


def _make(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.help, boundaries=list(metric.buckets), tag_keys=metric.labels)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.help, tag_keys=metric.labels)
