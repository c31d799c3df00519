"""Pure: what to do about a FineTuneJob, given all that is observed of it.

An Outcome is carried out in this order: deletes, applies, ONE status write, events. The operator may die between any
two of these writes, and nothing is lost or done twice, because each step can be told from what the one before left:

    the status has no attempt              → write attempt 1 to the status
    attempt n is open, its Job is missing  → apply ConfigMap, Service, NetworkPolicy and, last, the Job
    the Job is there                       → follow it: phase, progress, checkpoints
    the Job succeeded or a pod failed      → write the attempt's end, and what follows from it, to the status
    attempt n has ended, n's Job is there  → delete the Job (its uid as precondition), wait until every pod is gone
    nothing of attempt n is left           → write attempt n+1 to the status

So the evidence of an end is deleted only once the verdict is on record, a gang starts only once its attempt is on
record and its predecessor is gone, and whatever a crash repeats is an apply of the same object under the same name.
The status is written with the resourceVersion it was read at: who decides on an outdated status (a second operator,
say) cannot write. Succeeded and Failed are never left; only a job that was rejected and never ran is looked at again.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.plan import study
from finetune_api.status import MAX_LISTED_ATTEMPTS, Attempt, Phase
from finetune_api.support import unsupported
from finetune_operator import conditions, workload
from finetune_operator.conditions import Standing
from finetune_operator.gang import follow
from finetune_operator.observed import GangJob, Observed, Subject
from finetune_operator.outcome import Outcome, Situation, write
from finetune_operator.transitions import NAME_CONFLICT, NOT_SUPPORTED, REFUSED, REJECTED
from finetune_operator.workload import Installation

# Gangs that fall over at once are not started in a tight loop.
ATTEMPT_SPACING = timedelta(seconds=10)
# How soon to look again for what no watch tells.
FIRST_RETRY_SECONDS = 2.0
LAST_RETRY_SECONDS = 300.0

# Phases in which the Job of the open attempt has been seen. If it is missing now, it vanished.
_GANG_SEEN = (Phase.STARTING, Phase.PREPARING, Phase.RUNNING)


def reconcile(subject: Subject, observed: Observed, now: datetime, installation: Installation) -> Outcome:
    """Decide what to do about a job; `now` has a time zone and whole seconds."""
    if subject.deleting:
        # Everything of it is owned by it: the garbage collector cleans up.
        return Outcome()
    status = subject.status
    if status.phase is not None and status.phase.is_terminal and status.attempts:
        return _rest(subject, observed, now)
    if subject.job is None:
        return _reject(subject, REJECTED, subject.problems, now)
    if missing := unsupported(subject.job.spec):
        return _reject(subject, NOT_SUPPORTED, map(str, missing), now)
    situation = Situation(subject, subject.job, observed, now)
    attempt = status.attempts[-1] if status.attempts else None
    if attempt is None:
        return _begin_attempt(situation, 1)
    if attempt.end_time is not None:
        return _restart(situation, attempt)
    gang = next((job for job in observed.jobs if job.attempt == attempt.number), None)
    if gang is None and status.phase not in _GANG_SEEN:
        return _launch(situation, attempt, installation)
    outcome = follow(situation, attempt, gang)
    return replace(outcome, delete=_strays(situation.observed, keep=attempt.number))


def _reject(subject: Subject, reason: str, problems: Iterable[str], now: datetime) -> Outcome:
    status = subject.status
    # With attempts on record, the spec was valid when they began, and this operator is older or newer than the one
    # that began them: it says so, and touches nothing that it does not understand.
    phase = status.phase if status.attempts else Phase.FAILED
    return write(
        subject,
        status.model_copy(update={"phase": phase}),
        Standing.REJECTED,
        reason,
        "; ".join(problems),
        now,
    )


def _rest(subject: Subject, observed: Observed, now: datetime) -> Outcome:
    """The job is over: a failed one leaves no pod behind, a successful one its completed pods for their logs."""
    status = subject.status
    failed = status.phase is Phase.FAILED
    ready = conditions.find(status.conditions, conditions.READY)
    assert ready is not None
    standing = Standing.FAILED if failed else Standing.SUCCEEDED
    # Nothing of the status changes but the generation that it speaks of.
    outcome = write(subject, status, standing, ready.reason, ready.message, now)
    return replace(outcome, delete=_strays(observed) if failed else ())


def _begin_attempt(situation: Situation, number: int) -> Outcome:
    status, now = situation.status, situation.now
    attempts = [*status.attempts, Attempt(number=number, start_time=now)][-MAX_LISTED_ATTEMPTS:]
    outcome = write(
        situation.subject,
        status.model_copy(
            update={
                "phase": Phase.PENDING if number == 1 else Phase.RESTARTING,
                "attempts": attempts,
                "restarts": status.restarts or 0,
                "start_time": status.start_time or now,
                # What can be known by now; the trainer, which sees model and data, knows more.
                "plan": status.plan or study(situation.job.spec).plan,
            }
        ),
        Standing.UNDERWAY,
        "CreatingPods",
        f"attempt {number}: its pods are about to be created",
        now,
    )
    return replace(outcome, requeue_after=0)


def _restart(situation: Situation, ended: Attempt) -> Outcome:
    """Remove all of the attempt that has ended, then begin the next one."""
    if situation.observed.jobs or situation.observed.pods:
        return Outcome(delete=_strays(situation.observed))
    rest = ATTEMPT_SPACING - (situation.now - ended.start_time)
    if rest > timedelta(0):
        return Outcome(requeue_after=rest.total_seconds())
    return _begin_attempt(situation, ended.number + 1)


def _launch(situation: Situation, attempt: Attempt, installation: Installation) -> Outcome:
    observed = situation.observed
    if observed.jobs or observed.pods:
        # Two gangs on one storage directory would destroy each other's work.
        return replace(
            _waiting(situation, "WaitingForPods", "pods of an earlier run are still ending"),
            delete=_strays(situation.observed, keep=attempt.number),
        )
    if any(taken.fading for taken in observed.taken):
        outcome = _waiting(
            situation, "WaitingForCleanup", "objects of a deleted FineTuneJob of this name are still going"
        )
        return replace(outcome, requeue_after=FIRST_RETRY_SECONDS)
    if observed.taken:
        objects = ", ".join(f"{other.kind} {other.name}" for other in observed.taken)
        return _blocked(
            situation,
            NAME_CONFLICT,
            f"{objects}: exists and does not belong to this FineTuneJob, so it is left alone. "
            "Delete or rename it, or give the FineTuneJob another name.",
        )
    if observed.refusal is not None:
        return _blocked(situation, REFUSED, observed.refusal)
    outcome = _waiting(
        situation, "CreatingPods", f"attempt {attempt.number}: its pods are about to be created"
    )
    return replace(
        outcome, apply=workload.attempt(situation.job, attempt.number, installation, prepared=None)
    )


def _waiting(situation: Situation, reason: str, message: str) -> Outcome:
    return write(situation.subject, situation.status, Standing.UNDERWAY, reason, message, situation.now)


def _blocked(situation: Situation, reason: str, message: str) -> Outcome:
    """Somebody has to do something; until then nothing is applied."""
    outcome = write(situation.subject, situation.status, Standing.BLOCKED, reason, message, situation.now)
    stalled = conditions.find((outcome.status or situation.status).conditions, conditions.STALLED)
    assert stalled is not None
    # Waiting as long again as it has lasted: a back-off that needs no memory.
    lasted = (situation.now - stalled.last_transition_time).total_seconds()
    return replace(outcome, requeue_after=min(max(lasted, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS))


def _strays(observed: Observed, *, keep: int | None = None) -> tuple[GangJob, ...]:
    """The Jobs to delete: all but that of the attempt to keep, and those that are going already."""
    return tuple(job for job in observed.jobs if job.attempt != keep and not job.deleting)
