"""Figures of the serving process: counted in plain integers on the way, written out in Prometheus form when asked.

The client library's own counters take a lock and a label lookup each, several microseconds a request; only its
exposition is used here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Tally:
    """A histogram of one series."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them: each with all below it."""
        running = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            buckets.append((bound, running))
        return buckets


@dataclass(slots=True)
class ModelFigures:
    """What is counted of one model version; of everything that names no served model, both names are empty."""

    model: str
    version: str
    codes: dict[int, int] = field(default_factory=dict)
    latency: Tally = field(default_factory=lambda: Tally(LATENCY_BUCKETS_S))
    batch: Tally = field(default_factory=lambda: Tally(BATCH_BUCKETS))
    run_seconds: float = 0.0

    def answered(self, code: int, seconds: float) -> None:
        """Count one inference request."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.latency.observe(seconds)

    def ran(self, rows: int, seconds: float) -> None:
        """Count one run of the model."""
        self.batch.observe(rows)
        self.run_seconds += seconds


class Exposition(Collector):
    """Writes the figures of all models."""

    def __init__(self, models: Sequence[tuple[ModelFigures, Callable[[], int]]]) -> None:
        """Take each model's figures with a function that says how many of its requests wait now."""
        self._models = models
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; called by the registry."""
        labels = ["model", "version"]
        requests = CounterMetricFamily(
            "dujiang_serving_requests", "Inference requests answered.", labels=[*labels, "code"]
        )
        runs = CounterMetricFamily("dujiang_serving_run_seconds", "Time spent inside the model.", labels=labels)
        depth = GaugeMetricFamily("dujiang_serving_queue_depth", "Requests waiting to be run.", labels=labels)
        latency = HistogramMetricFamily(
            "dujiang_serving_request_seconds", "Time from the request's head to its answer.", labels=labels
        )
        batch = HistogramMetricFamily("dujiang_serving_batch_rows", "Rows run together.", labels=labels)
        for figures, waiting in self._models:
            names = [figures.model, figures.version]
            for code, count in sorted(figures.codes.items()):
                requests.add_metric([*names, str(code)], count)
            runs.add_metric(names, figures.run_seconds)
            depth.add_metric(names, waiting())
            latency.add_metric(names, buckets=figures.latency.cumulative(), sum_value=figures.latency.total)
            batch.add_metric(names, buckets=figures.batch.cumulative(), sum_value=figures.batch.total)
        return iter((requests, runs, depth, latency, batch))
