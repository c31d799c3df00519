"""Pure: what to do about a FineTuneJob, given all that is observed of it.

An Outcome is carried out in this order: deletes, applies, ONE status write, events. The operator may die between any
two of these writes, and nothing is lost or done twice, because each step can be told from what the one before left:

    the status has no start time           → write it: from here on the spec is fixed
    it has no attempt, and the Job of the  → apply ConfigMap, NetworkPolicy and, last, the Job
      preparation is missing
    the preparation's Job is there         → follow it: rows read, what keeps its pod from running
    it failed                              → write the failure to the status: nothing of a gang was ever there
    it succeeded                           → write plan, data and attempt 1 to the status
    attempt n is open, its Job is missing  → apply ConfigMap, Service, NetworkPolicy and, last, the Job
    the Job is there                       → follow it: phase, progress, checkpoints
    the Job succeeded or a pod failed      → write the attempt's end, and what follows from it, to the status
    the model is trained, its adapter is   → apply ConfigMap, NetworkPolicy and, last, the Job
      to be merged, and the Job of the
      merging is missing
    the merging's Job is there             → follow it, until it succeeded or failed: then write that to the status
    attempt n has ended, n's Job is there  → delete the Job (its uid as precondition), wait until every pod is gone
    nothing of attempt n is left           → write attempt n+1 to the status
    the job has succeeded, and its result  → see publishing.py: the phase stays as it is
      is to be uploaded
    the job is over, and its time to live  → delete what there is; when there is nothing, write that to the status

With dataset.prepare: Inline there is no preparation, and attempt 1 is written together with the start time. What
spec.suspend changes of this is told in suspension.py.

So the evidence of an end is deleted only once the verdict is on record, a gang starts only once its attempt is on
record and its predecessor is gone, and whatever a crash repeats is an apply of the same object under the same name.
A preparation may be repeated without a record: it finds what an earlier one left on the volume. So may a merging, which
only reads the adapter. Once they are over, their Jobs stay until the FineTuneJob goes or its time to live is over: they
hold nothing, and what they printed is what people want whose data were refused. So stays the Job of the gang that came
to a good end.

The status is written with the resourceVersion it was read at: who decides on an outdated status (a second operator,
say) cannot write. Succeeded and Failed are never left; only a job that was rejected and never began is looked at again.
"""

from dataclasses import replace
from datetime import datetime
from functools import partial

from finetune_api import names
from finetune_api.plan import study
from finetune_api.status import MAX_LISTED_ATTEMPTS, Attempt, FineTuneJobStatus, Phase
from finetune_operator import kueue
from finetune_operator.lifecycle import (
    budget,
    cleanup,
    deadlines,
    departure,
    merging,
    preparation,
    publishing,
    single_pod,
    steps,
    suspension,
)
from finetune_operator.lifecycle.departure import strays
from finetune_operator.lifecycle.gang import follow
from finetune_operator.lifecycle.healing import keep_up
from finetune_operator.lifecycle.launch import about_to_create, is_to_come, launch
from finetune_operator.lifecycle.outcome import Outcome, Situation, time_left, write
from finetune_operator.objects import workload
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import GangJob, Observed, Subject
from finetune_operator.status import conditions
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import REJECTED

# Phases in which the Job of the open attempt has been seen. If it is missing now, it vanished. So it has where one that
# is starting has more to tell than that.
_GANG_SEEN = (Phase.QUEUED, Phase.PREPARING, Phase.RUNNING)


def reconcile(subject: Subject, observed: Observed, now: datetime, installation: Installation) -> Outcome:
    """Decide what to do about a job; `now` has a time zone and whole seconds."""
    if subject.deleting:
        # Everything of it is owned by it: the garbage collector cleans up.
        return Outcome()
    status = subject.status
    if status.phase is not None and status.phase.is_terminal and status.start_time is not None:
        return _rest(subject, observed, now, installation)
    if subject.job is None:
        return _reject(subject, now)
    situation = Situation(subject, subject.job, observed, now)
    suspend = subject.job.spec.suspend
    if status.start_time is None:
        return suspension.hold(situation) if suspend else _begin(situation)
    if status.phase is Phase.SUSPENDED and not suspend:
        return suspension.resume(situation)
    if (end := deadlines.overdue(situation)) is not None:
        return end
    if not status.attempts:
        outcome = _prepare(situation, installation)
    elif steps.is_trained(status):
        outcome = _merge(situation, installation)
    else:
        outcome = _train(_apart_from_kept(situation), installation)
    return deadlines.bounded(situation, outcome)


def _reject(subject: Subject, now: datetime) -> Outcome:
    status = subject.status
    # The spec of a job that has begun was valid then. Unless it is suspended, this operator is older or newer than the
    # one that began it: it says so, and touches nothing that it does not understand.
    phase = status.phase if status.start_time is not None else Phase.FAILED
    return write(
        subject,
        status.model_copy(update={"phase": phase}),
        Standing.HELD_BACK if phase is Phase.SUSPENDED else Standing.REJECTED,
        REJECTED,
        "; ".join(subject.problems),
        now,
    )


def _rest(subject: Subject, observed: Observed, now: datetime, installation: Installation) -> Outcome:
    """The job is over: a failed one leaves no pod that runs, a successful one its completed pods for their logs.

    The result of that is uploaded, if it is to be. Both leave nothing once their time to live is over.
    """
    status = subject.status
    if status.observed_generation != subject.generation:
        # Nothing else of the status changes but what is said of the upload.
        current = {
            "observed_generation": subject.generation,
            "conditions": conditions.at_generation(status.conditions, subject.generation),
        }
        status = status.model_copy(update=current)
    succeeded = status.phase is Phase.SUCCEEDED
    told = conditions.readable_again(status.conditions, succeeded=succeeded, now=now)
    if told != status.conditions:
        status = status.model_copy(update={"conditions": told})
    if cleanup.is_due(subject, now):
        outcome = cleanup.clean(subject, status, observed, now)
    else:
        if status.phase is Phase.FAILED:
            outcome = Outcome(delete=strays(departure.apart_from_kept(status, observed)))
        elif subject.job is not None:
            situation = Situation(replace(subject, status=status), subject.job, observed, now)
            outcome = publishing.follow(situation, installation)
        else:
            outcome = Outcome()
        if (rest := cleanup.remaining(subject, now)) is not None:
            outcome = outcome.within(rest.total_seconds())
    if outcome.status is None and status != subject.status:
        outcome = replace(outcome, status=status)
    return outcome


def _begin(situation: Situation) -> Outcome:
    status = situation.status.model_copy(
        update={
            "phase": Phase.PENDING,
            "start_time": situation.now,
            "restarts": 0,
            "defaults": situation.subject.defaults,
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
    def done(job: GangJob) -> Outcome:
        if situation.job.spec.suspend:
            return suspension.give_back(_apart_from_kept(situation))
        return _begin_attempt(situation, preparation.findings(situation, job), 1)

    manifests = workload.preparation(situation.job, installation)
    return single_pod.take(situation, steps.PREPARATION, manifests, done)


def _merge(situation: Situation, installation: Installation) -> Outcome:
    plan = situation.status.plan
    manifests = workload.merging(
        situation.job,
        installation,
        prepared=preparation.digests(situation),
        memory=plan.merge_memory if plan is not None else None,
    )
    return single_pod.take(situation, steps.MERGING, manifests, partial(merging.succeeded, situation))


def _train(situation: Situation, installation: Installation) -> Outcome:
    status, observed = situation.status, situation.observed
    attempt = status.attempts[-1]
    gang = observed.job_of(attempt.number)
    # It may have been so near its end that it came to a good one after all.
    succeeded = gang is not None and gang.complete and suspension.was_cause(attempt)
    if attempt.end_time is not None and not succeeded:
        return _restart(situation, attempt)
    seen = status.phase in _GANG_SEEN or (status.phase is Phase.STARTING and not is_to_come(status))
    ending = seen if gang is None else suspension.is_ending(situation, gang)
    if situation.job.spec.suspend and not ending:
        return suspension.end(situation, attempt, gang)
    manifests = workload.attempt(
        situation.job,
        attempt.number,
        installation,
        prepared=preparation.digests(situation),
        avoid=workload.avoided(status.attempts),
    )
    if gang is None and not seen:
        return launch(situation, attempt.number, manifests)
    outcome = replace(follow(situation, attempt, gang), delete=strays(observed, keep=attempt.number))
    if gang is None or gang.over or gang.deleting or gang.waits:
        return outcome
    return keep_up(situation, outcome, gang, manifests, nodes=situation.job.spec.resources.nodes)


def _begin_attempt(situation: Situation, status: FineTuneJobStatus, number: int) -> Outcome:
    now = situation.now
    attempts = [*status.attempts, Attempt(number=number, start_time=now)][-MAX_LISTED_ATTEMPTS:]
    name = situation.job.spec.scheduling.queue_name
    # Who has to go through a queue does not start before he is let through.
    waiting = Phase.RESTARTING if status.phase is Phase.RESTARTING else Phase.PENDING
    phase = Phase.STARTING if name is None else waiting
    queue = status.queue if name is None else kueue.named(status.queue, name)
    outcome = write(
        situation.subject,
        status.model_copy(update={"phase": phase, "attempts": attempts, "queue": queue}),
        Standing.UNDERWAY,
        *about_to_create(number),
        now,
    )
    return replace(outcome, requeue_after=0)


def _restart(situation: Situation, ended: Attempt) -> Outcome:
    """Remove all of the attempt that has ended, then begin the next one, or be suspended."""
    status = situation.status
    if situation.job.spec.suspend:
        return suspension.give_back(situation)
    if situation.observed.jobs or situation.observed.pods:
        return departure.wait(situation, suspension.last_words(situation), *_why_again(status, ended))
    wait = time_left(budget.pause(status), ended.start_time, situation.now)
    # Who was suspended is not kept waiting.
    if status.phase is Phase.RESTARTING and wait is not None:
        return Outcome(requeue_after=wait)
    return _begin_attempt(situation, status, ended.number + 1)


def _why_again(status: FineTuneJobStatus, ended: Attempt) -> tuple[str, str]:
    """Why another attempt comes, as a word and a sentence."""
    if suspension.was_cause(ended):
        words = f"attempt {ended.number + 1} begins when the pods of the one before have ended"
        return "WaitingForPods", words
    told = conditions.find(status.conditions, conditions.PROGRESSING)
    if told is not None and told.reason == ended.reason:
        return told.reason, told.message
    return str(ended.reason), f"attempt {ended.number} ended and is started again: {ended.message}"


def _apart_from_kept(situation: Situation) -> Situation:
    return replace(situation, observed=departure.apart_from_kept(situation.status, situation.observed))
