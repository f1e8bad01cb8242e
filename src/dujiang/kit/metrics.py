"""Figures about the platform itself, in Prometheus form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ANSWER_BUCKETS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics:
    """The platform's own series; one object per process, handed in."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests_total = Counter(
            "dujiang_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "dujiang_http_request_seconds", "Time to answer a request.", ["route"], buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.ticks_total = Counter(
            "dujiang_loop_ticks", "Ticks of a reconcile loop.", ["loop", "outcome"], registry=self.registry
        )
        self.tick_seconds = Histogram(
            "dujiang_loop_tick_seconds",
            "Time of one tick.",
            ["loop"],
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self.steps_total = Counter(
            "dujiang_loop_steps", "Steps that loops took.", ["loop", "step"], registry=self.registry
        )
        self.jobs = Gauge("dujiang_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self.allocated_gpu_milli = Gauge(
            "dujiang_allocated_gpu_milli", "Thousandths of devices held by live allocations.", ["cluster"],
            registry=self.registry,
        )  # fmt: skip
        self.cluster_up = Gauge(
            "dujiang_cluster_up", "1 where new work may be put: the cluster answers.", ["cluster"],
            registry=self.registry,
        )  # fmt: skip
        self.cluster_answer_seconds = Histogram(
            "dujiang_cluster_answer_seconds", "Time until an engine answered a call.", ["cluster", "call"],
            buckets=ANSWER_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.leader = Gauge("dujiang_leader", "1 where this process runs the loops.", registry=self.registry)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)
