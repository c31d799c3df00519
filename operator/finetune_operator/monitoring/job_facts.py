"""Pure: a job's status as numbers, and which jobs get series of their own.

The number of series is bounded: only jobs that are not over, or have ended within the last hour, have any, and at most
MAX_JOBS of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus, Phase, Progress
from finetune_operator.lifecycle import suspension
from finetune_operator.monitoring.gpu_time import gpu_time, queue_seconds
from finetune_operator.observation.observed import Subject
from finetune_operator.status import conditions

MAX_JOBS = 500
# Long enough that an alert and a last look at the curves find what has ended.
FINISHED_FOR = timedelta(hours=1)
# Of a spec that is not valid nobody can tell what it means.
UNKNOWN_METHOD = "unknown"

JobName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Series:
    """A number that every job has a series of, as far as it is known."""

    name: str
    help: str
    read: Callable[[FineTuneJobStatus], float | None]


def _progress(read: Callable[[Progress], float | None]) -> Callable[[FineTuneJobStatus], float | None]:
    return lambda status: read(status.progress) if status.progress is not None else None


def _last_state(status: FineTuneJobStatus) -> float | None:
    return max(
        (found.time.timestamp() for found in status.checkpoints if found.kind != "weights"), default=None
    )


def _progress_ratio(status: FineTuneJobStatus) -> float | None:
    progress = status.progress
    if progress is None or not progress.total_steps:
        return None
    return min(1.0, progress.step / progress.total_steps)


def disruptions(status: FineTuneJobStatus) -> int:
    """Attempts that the cluster ended and that were, or are, followed by another one."""
    followed = status.attempts if status.phase is Phase.RESTARTING else status.attempts[:-1]
    return sum(attempt.counted is False and not suspension.was_cause(attempt) for attempt in followed)


def _seconds_since_epoch(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


START = "finetune_job_start_timestamp_seconds"
SERIES = (
    Series("finetune_job_progress_ratio", "Optimizer steps done, as a share of all of them", _progress_ratio),
    Series("finetune_job_step", "Optimizer steps done", _progress(lambda p: p.step)),
    Series("finetune_job_total_steps", "Optimizer steps to do", _progress(lambda p: p.total_steps)),
    Series("finetune_job_epoch", "Epochs done, with their fraction", _progress(lambda p: p.epoch)),
    Series("finetune_job_loss", "Mean loss per token of the last step", _progress(lambda p: p.loss)),
    Series(
        "finetune_job_validation_loss",
        "Loss on the validation data, as evaluated last",
        lambda s: s.evaluation.validation_loss if s.evaluation else None,
    ),
    Series(
        "finetune_job_learning_rate",
        "Learning rate of the last step",
        _progress(lambda p: p.learning_rate),
    ),
    Series(
        "finetune_job_gradient_norm",
        "Global gradient norm of the last step, before clipping",
        _progress(lambda p: p.grad_norm),
    ),
    Series(
        "finetune_job_tokens_per_second",
        "Tokens trained on per second, over all processes",
        _progress(lambda p: p.tokens_per_second),
    ),
    Series(
        "finetune_job_mfu_ratio",
        "Share of what the GPUs can compute that went into the model",
        _progress(lambda p: p.mfu),
    ),
    Series(
        "finetune_job_peak_memory_bytes",
        "Largest memory use of one process",
        _progress(lambda p: p.peak_memory),
    ),
    Series(
        "finetune_job_estimated_finish_timestamp_seconds",
        "When training will end at the present speed",
        _progress(lambda p: _seconds_since_epoch(p.estimated_finish)),
    ),
    Series(
        "finetune_job_last_report_timestamp_seconds",
        "When the trainer was last heard of",
        _progress(lambda p: _seconds_since_epoch(p.last_report_time)),
    ),
    Series(
        "finetune_job_last_state_timestamp_seconds",
        "When the newest state that a restart goes on from was complete",
        _last_state,
    ),
    Series(
        "finetune_job_attempt_start_timestamp_seconds",
        "When the newest attempt was started",
        lambda s: _seconds_since_epoch(s.attempts[-1].start_time) if s.attempts else None,
    ),
    Series("finetune_job_restarts", "Restarts that were not the cluster's doing", lambda s: s.restarts or 0),
    Series("finetune_job_disruptions", "Attempts that the cluster ended", disruptions),
    Series(
        "finetune_job_preemptions",
        "How often the queue took back what it had given",
        lambda s: s.queue.preemptions if s.queue else 0,
    ),
    Series(
        "finetune_job_stalled",
        "1 where somebody has to do something before the job can go on, and in a job that failed",
        lambda s: conditions.is_true(s.conditions, conditions.STALLED),
    ),
    Series(
        START,
        "When the job began",
        lambda s: _seconds_since_epoch(s.start_time),
    ),
    Series(
        "finetune_job_completion_timestamp_seconds",
        "When the job succeeded or failed",
        lambda s: _seconds_since_epoch(s.completion_time),
    ),
)
GPUS = "finetune_job_gpus"
QUEUE_SECONDS = "finetune_job_queue_wait_seconds"
GPU_SECONDS = "finetune_job_gpu_seconds"
WASTED_SECONDS = "finetune_job_wasted_gpu_seconds"
HELP = {series.name: series.help for series in SERIES} | {
    GPUS: "GPUs of the whole gang, whether it runs or not",
    QUEUE_SECONDS: "Time for which the job has waited in its queue, in all",
    GPU_SECONDS: "GPUs of the gang times the seconds for which it had them",
    WASTED_SECONDS: "GPU-seconds whose work was done again after a restart",
}
"""What each number of a job means."""


@dataclass(frozen=True)
class JobFacts:
    """What the metrics tell of one job: small, for there may be ten thousand."""

    seen: datetime
    phase: Phase
    method: str
    gpus: int
    held: int
    used: float
    wasted: float
    queue_seconds: float
    completed: datetime | None
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    attempt_end: str | None
    """Why it ended; None while it has not."""
    numbers: dict[str, float]
    """By the names of SERIES; what is not known is absent."""

    @property
    def over(self) -> bool:
        """Whether it began, and has succeeded or failed; one that was rejected waits for a better spec."""
        return self.phase.is_terminal and START in self.numbers

    def has_interest(self, now: datetime) -> bool:
        """Whether it is not over, or has ended lately. What has lost its interest does not regain it by itself."""
        return not self.over or (self.completed is not None and now - self.completed < FINISHED_FOR)

    def at(self, now: datetime) -> dict[str, float]:
        """Every number of the job; what rises with the time has gone on rising since it was seen."""
        since = max(0.0, (now - self.seen).total_seconds())
        return self.numbers | {
            GPUS: self.gpus,
            QUEUE_SECONDS: self.queue_seconds + (since if self.phase is Phase.QUEUED else 0),
            GPU_SECONDS: self.used + self.held * since,
            WASTED_SECONDS: self.wasted,
        }


def facts(subject: Subject, status: FineTuneJobStatus, now: datetime) -> JobFacts:
    """What there is to tell of a job whose status is this one now."""
    spec = subject.job.spec if subject.job is not None else None
    gpus = spec.resources.nodes * spec.resources.gpus_per_node if spec is not None else 0
    time = gpu_time(status, gpus, now)
    newest = status.attempts[-1] if status.attempts else None
    read = {series.name: series.read(status) for series in SERIES}
    return JobFacts(
        seen=now,
        phase=status.phase or Phase.PENDING,
        method=str(spec.method) if spec is not None else UNKNOWN_METHOD,
        gpus=gpus,
        held=time.held,
        used=time.used,
        wasted=time.wasted,
        queue_seconds=queue_seconds(status, now),
        completed=status.completion_time,
        attempt=newest.number if newest else 0,
        attempt_end=newest.reason if newest else None,
        numbers={name: float(value) for name, value in read.items() if value is not None},
    )


def with_series(jobs: Mapping[JobName, JobFacts], now: datetime) -> tuple[list[JobName], int]:
    """The jobs that get series of their own, the most interesting first, and how many had to be left out.

    What has GPUs comes before what waits, and that before what is over; the oldest come first, so that a job that has
    series keeps them, and of those that are over the newest.
    """
    shown = [name for name, job in jobs.items() if job.has_interest(now)]

    def rank(name: JobName) -> tuple[bool, bool, float, JobName]:
        job = jobs[name]
        if job.over:
            ended = job.completed.timestamp() if job.completed else 0
            return True, True, -ended, name
        return (
            False,
            job.held == 0,
            job.numbers.get(START, float("inf")),
            name,
        )

    return sorted(shown, key=rank)[:MAX_JOBS], max(0, len(shown) - MAX_JOBS)
