"""Pure: ttlSecondsAfterFinished, after which a finished job keeps nothing but itself and what is on its volume.

The upload of its result comes first (see publishing.py). What belongs to it is looked for only when that time has come,
and never again once status.cleanupTime says that nothing was left.
"""

from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus
from finetune_operator.lifecycle import publishing
from finetune_operator.lifecycle.departure import strays
from finetune_operator.lifecycle.launch import FIRST_RETRY, LAST_RETRY
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.observation.observed import Observed, Subject
from finetune_operator.status.transitions import Event


def remaining(subject: Subject, now: datetime) -> timedelta | None:
    """Time until the clean-up; None if there is none to come. It is negative once that is due."""
    status, job = subject.status, subject.job
    if status.phase is None or not status.phase.is_terminal or status.completion_time is None:
        return None
    if job is None or job.spec.ttl_seconds_after_finished is None or status.cleanup_time is not None:
        return None
    if not publishing.is_settled(subject):
        return None
    return status.completion_time + timedelta(seconds=job.spec.ttl_seconds_after_finished) - now


def is_due(subject: Subject, now: datetime) -> bool:
    """Whether everything of the job but itself is to go now."""
    rest = remaining(subject, now)
    return rest is not None and rest <= timedelta(0)


def clean(subject: Subject, status: FineTuneJobStatus, observed: Observed, now: datetime) -> Outcome:
    """Remove what there is; when there is nothing, write that down in `status`."""
    if observed.jobs or observed.pods or observed.others:
        outcome = Outcome(delete=strays(observed), remove=observed.others)
        if not observed.others:
            # Jobs and pods tell when they are gone; the others are not watched.
            return outcome
        overdue = -(remaining(subject, now) or timedelta(0))
        return outcome.within(min(max(overdue, FIRST_RETRY), LAST_RETRY).total_seconds())
    event = Event(
        "CleanedUp", "Jobs, pods and what else belonged to the job are gone; its volume is untouched"
    )
    return Outcome(status=status.model_copy(update={"cleanup_time": now}), events=(event,))
