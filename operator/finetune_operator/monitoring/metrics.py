"""What Prometheus reads of the operator."""

import asyncio
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_operator.monitoring.job_metrics import JobMetrics

WATCH_AGE = "finetune_watch_last_event_age_seconds"
WATCH_ALIVE = "finetune_watch_alive"
# In the place of an HTTP status, where there was no answer at all.
NO_ANSWER = "none"
# From an idle turn to one that waits for an overloaded API server.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def _now() -> datetime:
    return datetime.now(UTC)


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        # One more series for every series, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "finetune_reconcile_seconds",
            "Time to reconcile one FineTuneJob once, by result: idle, changed, gone, conflict, unavailable or error",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        for result in ("idle", "changed", "gone", "conflict", "unavailable", "error"):
            # So that the first error is a rise from 0, and not a series that begins.
            self.reconcile_seconds.labels(result=result)
        self._api_requests = Counter(
            "finetune_api_requests_total",
            "Requests to the API server, by HTTP status of the answer; what the watches ask for is not counted",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._api_request_seconds = Histogram(
            "finetune_api_request_seconds",
            "Time until the API server has answered",
            ["verb", "resource"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.reports = Counter(
            "finetune_reports_total",
            "Reports that trainers posted, by HTTP status of the answer",
            ["code"],
            registry=self.registry,
        )
        self.reports.labels(code=200)
        self.reporting_gangs = Gauge(
            "finetune_reporting_gangs",
            "Gangs that were heard of within the last two minutes",
            registry=self.registry,
        )
        self.unheard_gangs = Gauge(
            "finetune_unheard_gangs",
            "Gangs of which none is heard, in the cluster or in a namespace: none of them is taken for hung meanwhile",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "finetune_queue_depth", "FineTuneJobs that wait for a worker", registry=self.registry
        )
        self.queue_in_flight = Gauge(
            "finetune_queue_in_flight", "FineTuneJobs that workers have in hand", registry=self.registry
        )
        self.queue_wait_seconds = Histogram(
            "finetune_queue_wait_seconds",
            "Time that a FineTuneJob waited for a worker",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.loop_lag_seconds = Histogram(
            "finetune_event_loop_lag_seconds",
            "Time by which the event loop came too late, ten times a second: whatever comes meanwhile has to wait",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.last_list = Gauge(
            "finetune_last_list_timestamp_seconds",
            "When the operator last listed all that it watches, to check the watches by; its start, at first",
            registry=self.registry,
        )
        self.last_list.set_to_current_time()
        self.last_resync = Gauge(
            "finetune_last_resync_timestamp_seconds",
            "When the operator last had every FineTuneJob looked at again; its start, at first",
            registry=self.registry,
        )
        self.last_resync.set_to_current_time()
        self.certificate_expiry = Gauge(
            "finetune_certificate_expiry_timestamp_seconds",
            "Until when the certificate of the report endpoint and of the webhook is valid; 0 where it is of no use",
            registry=self.registry,
        )
        build = Gauge(
            "finetune_build_info",
            "1; the operator's version, and that of Python",
            ["version", "python_version"],
            registry=self.registry,
        )
        version = importlib.metadata.version("finetune-operator")
        build.labels(version=version, python_version=platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        self.jobs = JobMetrics(self.registry, clock)

    def api_request(self, method: str, resource: str, code: str, seconds: float) -> None:
        """A request to the API server is over; `code` is the HTTP status, or NO_ANSWER."""
        verb = method.lower()
        self._api_requests.labels(verb=verb, resource=resource, code=code).inc()
        self._api_request_seconds.labels(verb=verb, resource=resource).observe(seconds)

    def watches(
        self, ages: Callable[[], Mapping[str, float]], alive: Callable[[], Mapping[str, bool]]
    ) -> None:
        """Show, whenever metrics are read, how long ago each watch brought its last event, and which one is dead."""
        self.registry.register(_Watches(ages, alive))

    async def text(self) -> bytes:
        """Everything in the Prometheus text format.

        With thousands of jobs that is nearly a megabyte: others of the event loop have their turn after each metric.
        """
        parts = []
        for metric in self.registry.collect():
            parts.append(generate_latest(_Collected(metric)))
            await asyncio.sleep(0)
        return b"".join(parts)


class _Collected(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class _Watches(Collector):
    def __init__(
        self, ages: Callable[[], Mapping[str, float]], alive: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._ages = ages
        self._alive = alive

    def collect(self) -> Iterable[Metric]:
        age = GaugeMetricFamily(WATCH_AGE, "Time since a watch brought an event", labels=["watch"])
        alive = GaugeMetricFamily(
            WATCH_ALIVE, "0 for a watch that has stopped bringing events", labels=["watch"]
        )
        for watch, seconds in self._ages().items():
            age.add_metric([watch], seconds)
        for watch, lives in self._alive().items():
            alive.add_metric([watch], lives)
        yield from (age, alive)
