"""Pure: what to do about a FineTuneJob, given all that is observed of it.

An Outcome is carried out in this order: deletes, applies, ONE status write, events. The operator may die between any
two of these writes, and nothing is lost or done twice, because each step can be told from what the one before left:

    the status has no start time           → write it: from here on the spec is fixed
    it has no attempt, and the Job of the  → apply ConfigMap and, last, the Job
      preparation is missing
    the preparation's Job is there         → follow it: rows read, what keeps its pod from running
    it failed                              → write the failure to the status: nothing of a gang was ever there
    it succeeded                           → write plan, data and attempt 1 to the status
    attempt n is open, its Job is missing  → apply ConfigMap, Service, NetworkPolicy and, last, the Job
    the Job is there                       → follow it: phase, progress, checkpoints
    the Job succeeded or a pod failed      → write the attempt's end, and what follows from it, to the status
    attempt n has ended, n's Job is there  → delete the Job (its uid as precondition), wait until every pod is gone
    nothing of attempt n is left           → write attempt n+1 to the status

With dataset.prepare: Inline there is no preparation, and attempt 1 is written together with the start time.

So the evidence of an end is deleted only once the verdict is on record, a gang starts only once its attempt is on
record and its predecessor is gone, and whatever a crash repeats is an apply of the same object under the same name.
A preparation may be repeated without a record: it finds what an earlier one left on the volume. Once it is over, its
Job stays until the FineTuneJob goes: it holds nothing, and what it printed is what people want whose data were refused.

The status is written with the resourceVersion it was read at: who decides on an outdated status (a second operator,
say) cannot write. Succeeded and Failed are never left; only a job that was rejected and never began is looked at again.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.plan import study
from finetune_api.status import MAX_LISTED_ATTEMPTS, Attempt, FineTuneJobStatus, Phase
from finetune_api.support import unsupported
from finetune_operator import conditions, preparation, workload
from finetune_operator.conditions import Standing
from finetune_operator.gang import follow
from finetune_operator.launch import about_to_create, launch, strays
from finetune_operator.observed import Observed, Subject
from finetune_operator.outcome import Outcome, Situation, write
from finetune_operator.transitions import NOT_SUPPORTED, REJECTED
from finetune_operator.workload import Installation

# Gangs that fall over at once are not started in a tight loop.
ATTEMPT_SPACING = timedelta(seconds=10)

# Phases in which the Job of the open attempt has been seen. If it is missing now, it vanished.
_GANG_SEEN = (Phase.STARTING, Phase.PREPARING, Phase.RUNNING)


def reconcile(subject: Subject, observed: Observed, now: datetime, installation: Installation) -> Outcome:
    """Decide what to do about a job; `now` has a time zone and whole seconds."""
    if subject.deleting:
        # Everything of it is owned by it: the garbage collector cleans up.
        return Outcome()
    status = subject.status
    if status.phase is not None and status.phase.is_terminal and status.start_time is not None:
        return _rest(subject, observed)
    if subject.job is None:
        return _reject(subject, REJECTED, subject.problems, now)
    if missing := unsupported(subject.job.spec):
        return _reject(subject, NOT_SUPPORTED, map(str, missing), now)
    situation = Situation(subject, subject.job, observed, now)
    if status.start_time is None:
        return _begin(situation)
    if not status.attempts:
        return _prepare(situation, installation)
    return _train(replace(situation, observed=preparation.apart_from(observed)), installation)


def _reject(subject: Subject, reason: str, problems: Iterable[str], now: datetime) -> Outcome:
    status = subject.status
    # The spec of a job that has begun was valid then, and this operator is older or newer than the one that began it:
    # it says so, and touches nothing that it does not understand.
    phase = status.phase if status.start_time is not None else Phase.FAILED
    return write(
        subject,
        status.model_copy(update={"phase": phase}),
        Standing.REJECTED,
        reason,
        "; ".join(problems),
        now,
    )


def _rest(subject: Subject, observed: Observed) -> Outcome:
    """The job is over: a failed one leaves no pod that runs, a successful one its completed pods for their logs."""
    status = subject.status
    outcome = Outcome()
    if status.observed_generation != subject.generation:
        # Nothing else of the status changes.
        current = {
            "observed_generation": subject.generation,
            "conditions": conditions.at_generation(status.conditions, subject.generation),
        }
        outcome = Outcome(status=status.model_copy(update=current))
    failed = status.phase is Phase.FAILED
    return replace(outcome, delete=strays(preparation.apart_from(observed)) if failed else ())


def _begin(situation: Situation) -> Outcome:
    status = situation.status.model_copy(
        update={
            "phase": Phase.PENDING,
            "start_time": situation.now,
            "restarts": 0,
            # What can be known by now; who sees model and data knows more.
            "plan": study(situation.job.spec).plan,
        }
    )
    if situation.job.spec.dataset.prepare == "Inline":
        return _begin_attempt(situation, status, 1)
    outcome = write(
        situation.subject, status, Standing.UNDERWAY, *about_to_create(names.PREPARATION), situation.now
    )
    return replace(outcome, requeue_after=0)


def _prepare(situation: Situation, installation: Installation) -> Outcome:
    job = preparation.job_of(situation.observed)
    if job is None:
        return launch(situation, names.PREPARATION, workload.preparation(situation.job, installation))
    if job.complete:
        return _begin_attempt(situation, preparation.findings(situation, job), 1)
    return preparation.follow(situation, job)


def _train(situation: Situation, installation: Installation) -> Outcome:
    status, observed = situation.status, situation.observed
    attempt = status.attempts[-1]
    if attempt.end_time is not None:
        return _restart(situation, attempt)
    gang = next((job for job in observed.jobs if job.attempt == attempt.number), None)
    if gang is None and status.phase not in _GANG_SEEN:
        prepared = preparation.digest(situation)
        manifests = workload.attempt(situation.job, attempt.number, installation, prepared=prepared)
        return launch(situation, attempt.number, manifests)
    outcome = follow(situation, attempt, gang)
    return replace(outcome, delete=strays(observed, keep=attempt.number))


def _begin_attempt(situation: Situation, status: FineTuneJobStatus, number: int) -> Outcome:
    now = situation.now
    attempts = [*status.attempts, Attempt(number=number, start_time=now)][-MAX_LISTED_ATTEMPTS:]
    phase = Phase.PENDING if number == 1 else Phase.RESTARTING
    outcome = write(
        situation.subject,
        status.model_copy(update={"phase": phase, "attempts": attempts}),
        Standing.UNDERWAY,
        *about_to_create(number),
        now,
    )
    return replace(outcome, requeue_after=0)


def _restart(situation: Situation, ended: Attempt) -> Outcome:
    """Remove all of the attempt that has ended, then begin the next one."""
    if situation.observed.jobs or situation.observed.pods:
        return Outcome(delete=strays(situation.observed))
    rest = ATTEMPT_SPACING - (situation.now - ended.start_time)
    if rest > timedelta(0):
        return Outcome(requeue_after=rest.total_seconds())
    return _begin_attempt(situation, situation.status, ended.number + 1)
