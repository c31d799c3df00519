"""What Prometheus reads of the jobs: the statuses that the operator saw last, as samples."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.job_facts import HELP, MAX_JOBS, JobFacts, JobName, facts, with_series
from finetune_operator.observed import Subject

LABELS = ("namespace", "name", "method")


class JobMetrics(Collector):
    """The samples of all jobs. A job that goes takes its series with it.

    The counters count what happens while this operator looks on: they begin at 0 with it, as counters do.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._jobs: dict[JobName, JobFacts] = {}
        self._gpu_seconds = Counter(
            "finetune_gpu_seconds_total",
            "GPU-seconds that jobs had since this operator runs",
            ["namespace"],
            registry=registry,
        )
        self._wasted_gpu_seconds = Counter(
            "finetune_wasted_gpu_seconds_total",
            "GPU-seconds whose work was done again after a restart, since this operator runs",
            ["namespace"],
            registry=registry,
        )
        self._jobs_ended = Counter(
            "finetune_jobs_ended_total", "Jobs that ended, by phase", ["phase"], registry=registry
        )
        self._attempts_ended = Counter(
            "finetune_attempts_ended_total",
            "Attempts that ended, by the reason in status.attempts",
            ["reason"],
            registry=registry,
        )
        for phase in (Phase.SUCCEEDED, Phase.FAILED):
            self._jobs_ended.labels(phase=phase.value)
        registry.register(self)

    def see(self, subject: Subject, status: FineTuneJobStatus) -> None:
        """This is the status of a job now."""
        name = (subject.namespace, subject.name)
        new = facts(subject, status, self._clock())
        old, self._jobs[name] = self._jobs.get(name), new
        self._count(subject.namespace, old, new)

    def forget(self, namespace: str, name: str) -> None:
        """The job is gone."""
        self._jobs.pop((namespace, name), None)

    def _count(self, namespace: str, old: JobFacts | None, new: JobFacts) -> None:
        # What a job had before this operator saw it was counted by the one before.
        used, wasted = (new.used - old.used, new.wasted - old.wasted) if old else (0.0, 0.0)
        self._gpu_seconds.labels(namespace=namespace).inc(max(0.0, used))
        self._wasted_gpu_seconds.labels(namespace=namespace).inc(max(0.0, wasted))
        if old is None:
            return
        if new.over and not old.over:
            self._jobs_ended.labels(phase=new.phase.value).inc()
        same = new.attempt == old.attempt
        if new.attempt_end is not None and not (same and old.attempt_end is not None):
            self._attempts_ended.labels(reason=new.attempt_end).inc()

    def collect(self) -> Iterable[Metric]:
        """All samples, made of what was seen last."""
        now = self._clock()
        yield from self._totals()
        names, left_out = with_series(self._jobs, now)
        gauge = GaugeMetricFamily(
            "finetune_jobs_without_series", f"Jobs that have no series, for there are more than {MAX_JOBS}"
        )
        gauge.add_metric([], left_out)
        yield gauge
        phase = GaugeMetricFamily(
            "finetune_job_phase", "1 for the phase in which a job is", labels=(*LABELS, "phase")
        )
        families = {name: GaugeMetricFamily(name, help, labels=LABELS) for name, help in HELP.items()}
        for namespace, name in names:
            job = self._jobs[namespace, name]
            phase.add_metric([namespace, name, job.method, job.phase.value], 1)
            for number, value in job.at(now).items():
                families[number].add_metric([namespace, name, job.method], value)
        yield phase
        yield from families.values()

    def _totals(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase", labels=["phase"])
        tally = Tally(job.phase for job in self._jobs.values())
        for phase in Phase:
            jobs.add_metric([phase.value], tally[phase])
        yield jobs
        in_use = GaugeMetricFamily(
            "finetune_gpus_in_use", "GPUs of all gangs that have them", labels=["namespace"]
        )
        held: Tally[str] = Tally()
        for (namespace, _), job in self._jobs.items():
            held[namespace] += job.held
        for namespace in sorted(held):
            in_use.add_metric([namespace], held[namespace])
        yield in_use
