"""What Prometheus reads of the operator."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

WATCH_AGE = "finetune_watch_last_event_age_seconds"


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "finetune_reconcile_seconds",
            "Time to reconcile one FineTuneJob once, by result: idle, changed, gone, conflict or error",
            ["result"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self.api_writes = Counter(
            "finetune_api_writes_total",
            "Write requests to the API server",
            ["verb", "resource"],
            registry=self.registry,
        )
        self.reports = Counter(
            "finetune_reports_total",
            "Reports that trainers posted, by HTTP status of the answer",
            ["code"],
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "finetune_queue_depth", "FineTuneJobs that wait for a worker", registry=self.registry
        )

    def watch_ages(self, ages: Callable[[], Mapping[str, float]]) -> None:
        """Show, whenever metrics are read, how long ago each watch brought its last event."""
        self.registry.register(_WatchAges(ages))

    def text(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)


class _WatchAges(Collector):
    def __init__(self, ages: Callable[[], Mapping[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(WATCH_AGE, "Time since a watch brought an event", labels=["watch"])
        for watch, age in self._ages().items():
            family.add_metric([watch], age)
        yield family
