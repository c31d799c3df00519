"""Pure: what a reconcile decides, and when a status is worth a write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus
from finetune_operator import kueue
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation.observed import GangJob, Observed, Owned, Subject
from finetune_operator.status import conditions
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import Event, events

# Mere progress is written no more often than this.
PROGRESS_INTERVAL = timedelta(seconds=5)


@dataclass(frozen=True)
class Needs:
    """What pods under way need beside their Job: where somebody deleted it, it is made again."""

    manifests: tuple[Manifest, ...]
    every: timedelta
    """How long after one look another is worth it."""


@dataclass(frozen=True)
class Outcome:
    """What to do now: deletes, then applies, then one write of the status, then events."""

    delete: tuple[GangJob, ...] = ()
    remove: tuple[Owned, ...] = ()
    """What else to delete."""
    apply: tuple[Manifest, ...] = ()
    status: FineTuneJobStatus | None = None
    """None: the status is right as it is."""
    events: tuple[Event, ...] = ()
    """To be told once the status is written."""
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing is heard."""
    needs: Needs | None = None
    """What else to see to."""

    def within(self, seconds: float) -> "Outcome":
        """The same, and a look again after this time at the latest."""
        again = seconds if self.requeue_after is None else min(seconds, self.requeue_after)
        return replace(self, requeue_after=again)


@dataclass(frozen=True)
class Situation:
    """All that a decision about an accepted job rests on."""

    subject: Subject
    job: FineTuneJob
    observed: Observed
    now: datetime

    @property
    def status(self) -> FineTuneJobStatus:
        """The status as it was read."""
        return self.subject.status


def write(
    subject: Subject,
    status: FineTuneJobStatus,
    standing: Standing,
    reason: str,
    message: str,
    now: datetime,
    faults: Sequence[str] = (),
) -> Outcome:
    """The Outcome that makes `status` the job's status, with the conditions of where it stands.

    `faults` is what is wrong with every single row of the data.
    """
    old = subject.status
    status = kueue.waits_no_more(status, now)
    new = FineTuneJobStatus.model_validate(
        status.model_dump()
        | {
            "observed_generation": subject.generation,
            "conditions": conditions.conditions(
                standing,
                reason,
                message,
                dataset=status.dataset,
                faults=faults,
                generation=subject.generation,
                now=now,
                previous=old.conditions,
            ),
        }
    )
    if new == old:
        return Outcome()
    if (wait := _throttled(old, new, now)) is not None:
        return Outcome(requeue_after=wait)
    return Outcome(status=new, events=events(old, new))


def is_mere_progress(old: FineTuneJobStatus, new: FineTuneJobStatus) -> bool:
    """Whether nothing is new but numbers that change with every step."""
    mere = {"progress": new.progress, "subspaces": new.subspaces, "curve": new.curve}
    return old.model_copy(update=mere) == new


def time_left(time: timedelta, since: datetime, now: datetime) -> float | None:
    """Seconds until so much time has passed since then; None if it has."""
    # A time to come was told by another clock, or by one that was set right since: that is no reason to wait.
    age = now - since
    return (time - age).total_seconds() if timedelta(0) <= age < time else None


def _throttled(old: FineTuneJobStatus, new: FineTuneJobStatus, now: datetime) -> float | None:
    """Seconds to wait before writing what is mere progress."""
    if old.progress is None or old.progress.last_report_time is None:
        return None
    if old.subspaces != new.subspaces and _reasons(old) == _reasons(new):
        # Words that go on counting: how many matrices are decomposed.
        new = new.model_copy(update={"conditions": old.conditions})
    if not is_mere_progress(old, new):
        return None
    return time_left(PROGRESS_INTERVAL, old.progress.last_report_time, now)


def _reasons(status: FineTuneJobStatus) -> list[tuple[str, str, str]]:
    return [(told.type, told.status, told.reason) for told in status.conditions]
