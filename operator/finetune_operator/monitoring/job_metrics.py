"""What Prometheus reads of the jobs: the statuses that the operator saw last, as samples."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.monitoring.job_facts import HELP, MAX_JOBS, JobFacts, JobName, facts, with_series
from finetune_operator.observation.observed import Subject

LABELS = ("namespace", "name", "method")


class JobMetrics(Collector):
    """The samples of all jobs. A job that goes takes its series with it.

    The counters count what happens while this operator looks on: they begin at 0 with it, as counters do.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._jobs: dict[JobName, JobFacts] = {}
        # What a scrape needs of them, kept up to date: it must not go through ten thousand jobs that are over.
        self._of_interest: dict[JobName, JobFacts] = {}
        self._phases: Tally[Phase] = Tally()
        self._in_namespace: Tally[str] = Tally()
        self._held: Tally[str] = Tally()
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
        name, now = (subject.namespace, subject.name), self._clock()
        new = facts(subject, status, now)
        old = self._drop(name)
        self._jobs[name] = new
        self._phases[new.phase] += 1
        self._in_namespace[subject.namespace] += 1
        self._held[subject.namespace] += new.held
        if new.has_interest(now):
            self._of_interest[name] = new
        self._count(subject.namespace, old, new)

    def knows(self, namespace: str, name: str) -> bool:
        """Whether a job was seen, and has not gone."""
        return (namespace, name) in self._jobs

    def forget(self, namespace: str, name: str) -> None:
        """The job is gone."""
        self._drop((namespace, name))

    def _drop(self, name: JobName) -> JobFacts | None:
        self._of_interest.pop(name, None)
        old = self._jobs.pop(name, None)
        if old is not None:
            self._phases[old.phase] -= 1
            self._in_namespace[name[0]] -= 1
            self._held[name[0]] -= old.held
        return old

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
        """All samples, made of what was seen last, one family after the other as they are asked for."""
        now = self._clock()
        yield from self._totals()
        for name in [name for name, job in self._of_interest.items() if not job.has_interest(now)]:
            del self._of_interest[name]
        names, left_out = with_series(self._of_interest, now)
        gauge = GaugeMetricFamily(
            "finetune_jobs_without_series", f"Jobs that have no series, for there are more than {MAX_JOBS}"
        )
        gauge.add_metric([], left_out)
        yield gauge
        # Whoever asks may take its time, and jobs change meanwhile.
        shown = [(name, self._of_interest[name]) for name in names]
        phase = GaugeMetricFamily(
            "finetune_job_phase", "1 for the phase in which a job is", labels=(*LABELS, "phase")
        )
        for name, job in shown:
            phase.add_metric([*name, job.method, job.phase.value], 1)
        yield phase
        numbers = [([*name, job.method], job.at(now)) for name, job in shown]
        for number, about in HELP.items():
            family = GaugeMetricFamily(number, about, labels=LABELS)
            for labels, known in numbers:
                if number in known:
                    family.add_metric(labels, known[number])
            yield family

    def _totals(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase", labels=["phase"])
        for phase in Phase:
            jobs.add_metric([phase.value], self._phases[phase])
        yield jobs
        in_use = GaugeMetricFamily(
            "finetune_gpus_in_use", "GPUs of all gangs that have them", labels=["namespace"]
        )
        for namespace in sorted(+self._in_namespace):
            in_use.add_metric([namespace], self._held[namespace])
        yield in_use
