"""Pure: what there is of a FineTuneJob, as plain values to decide on; reading.py makes them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.defaults import Defaults
from finetune_api.failure import PodEnd
from finetune_api.report import Report
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus

# No trainer is asked to wait for longer between two Reports.
MAX_REPORT_INTERVAL_SECONDS = 300.0


@dataclass(frozen=True)
class Subject:
    """A FineTuneJob as the API server has it."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    job: FineTuneJob | None
    """None: the spec is invalid, see `problems`."""
    problems: tuple[str, ...]
    status: FineTuneJobStatus
    defaults: Defaults | None = None
    """What the administrator's policy has filled in of it."""
    refusal: str | None = None
    """Why that policy lets no more pods be made of it."""


@dataclass(frozen=True)
class GangJob:
    """The batch/v1 Job of an attempt, or of another step."""

    name: str
    uid: str
    attempt: int
    deleting: bool = False
    complete: bool = False
    failed: bool = False
    words: str = ""
    """Why it failed, as the Job controller says it."""
    created: datetime | None = None
    """When it was made."""
    config: str | None = None
    """The ConfigMap that its pods ask for."""
    queue: str | None = None
    """The queue of Kueue that it has to go through."""
    priority: str | None = None
    """The WorkloadPriorityClass that it names there."""
    suspended: bool = False
    """It is not to have pods: Kueue has not let it go on."""
    started: datetime | None = None
    """When it was last let go on, as the Job controller says once it has made all pods; Kueue takes that back."""
    hindered: tuple[str, str] | None = None
    """Why the Job controller cannot make all of its pods, as a word and a sentence."""

    @property
    def waits(self) -> bool:
        """Whether it is in its queue, or has been let go, and nobody says since when."""
        return self.queue is not None and (self.suspended or self.started is None) and not self.over

    @property
    def over(self) -> bool:
        """Whether no pod of it will run any more."""
        return self.complete or self.failed


def newest(jobs: Iterable[GangJob]) -> GangJob | None:
    """Of the Jobs of a FineTuneJob, the one that comes last in its life."""
    # What follows training has numbers that fall (see finetune_api.names).
    return max(jobs, key=lambda job: (job.attempt < 0, abs(job.attempt)), default=None)


@dataclass(frozen=True)
class Pod:
    """A pod of a gang, or one that takes another step alone."""

    name: str
    job_uid: str
    """The Job that controls it."""
    index: int | None
    """Its rank among the gang's nodes; None for one that is alone."""
    running: bool
    """Its container runs, or ran to a good end."""
    waiting: tuple[str, str] | None = None
    """Why it does not run yet: a word, and the words of the kubelet or of the scheduler."""
    end: PodEnd | None = None
    """How it failed, or is about to."""
    node: str | None = None
    """Where it runs, or is to run."""
    deleting: bool = False
    """It was asked to go, and has not gone yet."""
    asked: datetime | None = None
    """When that was."""
    due: datetime | None = None
    """When it should have gone: then its grace period is over."""
    created: datetime | None = None
    """When it was made."""
    started: datetime | None = None
    """When its container began to run."""
    finished: datetime | None = None
    """When its container ended."""
    beside: tuple[str, ...] = ()
    """Containers that something else has added, and that go on although its own has ended."""
    report: Report | None = None
    """Its termination message, where that is a Report."""

    @property
    def is_going(self) -> bool:
        """Whether it has ended, or was asked to."""
        return self.deleting or self.end is not None


@dataclass(frozen=True)
class Received:
    """A Report that came by POST."""

    report: Report
    job_uid: str
    """The batch/v1 Job whose pod sent it."""
    pod: str
    """Its name."""
    time: datetime
    """When it came. Every one that is kept has a higher sequence than the one before, so this is also when the sequence
    last advanced."""
    interval: float = 0
    """Seconds after which the next one was asked for: it cannot be missing before."""


@dataclass(frozen=True)
class Taken:
    """A name that an attempt needs, and that another object has."""

    kind: str
    name: str
    fading: bool
    """It belonged to a deleted FineTuneJob of the same name and is about to go."""


@dataclass(frozen=True)
class Owned:
    """Another object that belongs to a FineTuneJob."""

    kind: str
    name: str
    uid: str
    api_version: str = ""
    """Of a PodGroup: each scheduler has its own."""


@dataclass(frozen=True)
class Observed:
    """All that belongs to a FineTuneJob."""

    jobs: tuple[GangJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    report: Received | None = None
    others: tuple[Owned, ...] = ()
    """Its Service, NetworkPolicy, PodGroup and ConfigMaps; looked for only when they are to go."""
    taken: tuple[Taken, ...] = ()
    refusal: str | None = None
    """Why the API server does not let the attempt's objects be: a quota, a policy."""
    wait: tuple[str, str] | None = None
    """Why the newest Job waits in its queue, as a word and a sentence."""
    watching_since: datetime | None = None
    """From when on this operator could hear Reports (see hearing.py); None if that was before the job began."""

    @property
    def newest(self) -> GangJob | None:
        """The Job that comes last in a job's life."""
        return newest(self.jobs)

    def job_of(self, attempt: int) -> GangJob | None:
        """The Job of an attempt, or of another step."""
        return next((job for job in self.jobs if job.attempt == attempt), None)

    def pods_of(self, job: GangJob) -> list[Pod]:
        """The pods that a Job controls, without those that Kueue had it give up before it let the Job go on again."""
        own = [pod for pod in self.pods if pod.job_uid == job.uid]
        if job.queue is None or job.started is None:
            return own
        return [pod for pod in own if not _was_given_up(pod, before=job.started)]


def _was_given_up(pod: Pod, *, before: datetime) -> bool:
    """Whether a pod has ended, or was asked to, before its Job was let go on.

    That it was made before tells nothing: a Job says when it was let go on after it has made its pods.
    """
    if not pod.is_going or pod.created is None or pod.created >= before:
        return False
    if pod.asked is not None:
        # Times have whole seconds. Kueue may have asked within the same one, and nobody else does so soon.
        return pod.asked <= before
    return pod.finished is not None and pod.finished < before
