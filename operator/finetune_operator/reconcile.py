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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.failure import Recovery, Verdict, judge
from finetune_api.report import Report, Stage
from finetune_api.spec import FineTuneJob
from finetune_api.status import MAX_LISTED_ATTEMPTS, Attempt, FineTuneJobStatus, Phase
from finetune_operator import conditions, progress, workload
from finetune_operator.conditions import Standing
from finetune_operator.observed import GangJob, Observed, Pod, Subject
from finetune_operator.transitions import NAME_CONFLICT, REFUSED, REJECTED, Event, events
from finetune_operator.workload import Installation, Manifest

# Mere progress is written no more often than this.
PROGRESS_INTERVAL = timedelta(seconds=5)
# The first pod to be seen failing is often a victim of the one that fails a moment later for a reason of its own.
SETTLING_TIME = timedelta(seconds=5)
# Gangs that fall over at once are not started in a tight loop.
ATTEMPT_SPACING = timedelta(seconds=10)
# How soon to look again for what no watch tells.
FIRST_RETRY_SECONDS = 2.0
LAST_RETRY_SECONDS = 300.0

# What the trainer does, as a phase, a word and a sentence.
STAGES = {
    Stage.STARTING: (Phase.STARTING, "TrainerStarting", "the trainer is starting"),
    Stage.PREPARING: (Phase.PREPARING, "Preparing", "the data is being prepared"),
    Stage.LOADING: (Phase.RUNNING, "Loading", "the model is being loaded"),
    Stage.TRAINING: (Phase.RUNNING, "Training", "training"),
    # Not worth a status write of its own: a saved checkpoint is.
    Stage.SAVING: (Phase.RUNNING, "Training", "training"),
    Stage.FINISHED: (Phase.RUNNING, "Finishing", "the trainer has finished; waiting for its pods to end"),
    Stage.FAILED: (Phase.RUNNING, "Finishing", "the trainer has failed; waiting for its pods to end"),
}
# Phases in which the Job of the open attempt has been seen. If it is missing now, it vanished.
_GANG_SEEN = (Phase.STARTING, Phase.PREPARING, Phase.RUNNING)
# Phases in which all pods have been seen running.
_GANG_UP = (Phase.PREPARING, Phase.RUNNING)


@dataclass(frozen=True)
class Outcome:
    """What to do now."""

    delete: tuple[GangJob, ...] = ()
    apply: tuple[Manifest, ...] = ()
    status: FineTuneJobStatus | None = None
    """None: the status is right as it is."""
    events: tuple[Event, ...] = ()
    """To be told once the status is written."""
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing is heard."""


@dataclass(frozen=True)
class _Situation:
    """The arguments of one decision, for an accepted job."""

    subject: Subject
    job: FineTuneJob
    observed: Observed
    now: datetime

    @property
    def status(self) -> FineTuneJobStatus:
        return self.subject.status


def _strays(observed: Observed, *, keep: int | None = None) -> tuple[GangJob, ...]:
    """The Jobs to delete: all but that of the attempt to keep, and those that are going already."""
    return tuple(job for job in observed.jobs if job.attempt != keep and not job.deleting)


def reconcile(subject: Subject, observed: Observed, now: datetime, installation: Installation) -> Outcome:
    """Decide what to do about a job; `now` has a time zone and whole seconds."""
    if subject.deleting:
        # Everything of it is owned by it: the garbage collector cleans up.
        return Outcome()
    status = subject.status
    if status.phase is not None and status.phase.is_terminal and status.attempts:
        return _rest(subject, observed, now)
    if subject.job is None:
        return _reject(subject, now)
    situation = _Situation(subject, subject.job, observed, now)
    attempt = status.attempts[-1] if status.attempts else None
    if attempt is None:
        return _begin_attempt(situation, 1)
    if attempt.end_time is not None:
        return _restart(situation, attempt)
    gang = next((job for job in observed.jobs if job.attempt == attempt.number), None)
    if gang is None and status.phase not in _GANG_SEEN:
        return _launch(situation, attempt, installation)
    outcome = _follow(situation, attempt, gang)
    return replace(outcome, delete=_strays(situation.observed, keep=attempt.number))


def _reject(subject: Subject, now: datetime) -> Outcome:
    status = subject.status
    # With attempts on record, the spec was valid when they began, and this operator is older or newer than the one
    # that began them: it says so, and touches nothing that it does not understand.
    phase = status.phase if status.attempts else Phase.FAILED
    return _write(
        subject,
        status.model_copy(update={"phase": phase}),
        Standing.REJECTED,
        REJECTED,
        "; ".join(subject.problems),
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
    outcome = _write(subject, status, standing, ready.reason, ready.message, now)
    return replace(outcome, delete=_strays(observed) if failed else ())


def _begin_attempt(situation: _Situation, number: int) -> Outcome:
    status, now = situation.status, situation.now
    attempts = [*status.attempts, Attempt(number=number, start_time=now)][-MAX_LISTED_ATTEMPTS:]
    outcome = _write(
        situation.subject,
        status.model_copy(
            update={
                "phase": Phase.PENDING if number == 1 else Phase.RESTARTING,
                "attempts": attempts,
                "restarts": status.restarts or 0,
                "start_time": status.start_time or now,
            }
        ),
        Standing.UNDERWAY,
        "CreatingPods",
        f"attempt {number}: its pods are about to be created",
        now,
    )
    return replace(outcome, requeue_after=0)


def _restart(situation: _Situation, ended: Attempt) -> Outcome:
    """Remove all of the attempt that has ended, then begin the next one."""
    if situation.observed.jobs or situation.observed.pods:
        return Outcome(delete=_strays(situation.observed))
    rest = ATTEMPT_SPACING - (situation.now - ended.start_time)
    if rest > timedelta(0):
        return Outcome(requeue_after=rest.total_seconds())
    return _begin_attempt(situation, ended.number + 1)


def _launch(situation: _Situation, attempt: Attempt, installation: Installation) -> Outcome:
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
    return replace(outcome, apply=workload.manifests(situation.job, attempt.number, installation))


def _waiting(situation: _Situation, reason: str, message: str) -> Outcome:
    return _write(situation.subject, situation.status, Standing.UNDERWAY, reason, message, situation.now)


def _blocked(situation: _Situation, reason: str, message: str) -> Outcome:
    """Somebody has to do something; until then nothing is applied."""
    outcome = _write(situation.subject, situation.status, Standing.BLOCKED, reason, message, situation.now)
    stalled = conditions.find((outcome.status or situation.status).conditions, conditions.STALLED)
    assert stalled is not None
    # Waiting as long again as it has lasted: a back-off that needs no memory.
    lasted = (situation.now - stalled.last_transition_time).total_seconds()
    return replace(outcome, requeue_after=min(max(lasted, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS))


def _follow(situation: _Situation, attempt: Attempt, gang: GangJob | None) -> Outcome:
    """The attempt's Job is there, or was: mirror it, or record its end."""
    pods = [pod for pod in situation.observed.pods if gang is None or pod.job_uid == gang.uid]
    report = _report(situation, attempt, gang)
    status = situation.status
    received = situation.observed.report
    if report is not None and received is not None:
        status = progress.with_report(status, report, received.time)
    if gang is not None and gang.complete:
        return _succeed(situation, status, pods, report)
    ends = [pod for pod in pods if pod.end is not None]
    if gang is None or gang.failed or ends:
        return _end(situation, status, attempt, gang, pods)
    phase, reason, message = _stage(situation, pods, report)
    return _write(
        situation.subject,
        status.model_copy(update={"phase": phase}),
        Standing.UNDERWAY,
        reason,
        message,
        situation.now,
    )


def _report(situation: _Situation, attempt: Attempt, gang: GangJob | None) -> Report | None:
    """What was last POSTed, if it is of this very gang."""
    received = situation.observed.report
    if received is None or received.report.attempt != attempt.number:
        return None
    return received.report if gang is None or received.job_uid == gang.uid else None


def _stage(situation: _Situation, pods: Sequence[Pod], report: Report | None) -> tuple[Phase, str, str]:
    status, nodes = situation.status, situation.job.spec.resources.nodes
    running = sum(pod.running for pod in pods)
    if status.phase in _GANG_UP and (running < nodes or report is None):
        # Once up, a gang is up until its Job says how it ended; after a restart of the operator the next Report
        # is yet to come.
        current = conditions.find(status.conditions, conditions.PROGRESSING)
        if current is None or current.status != "True":
            return status.phase, "TrainerRunning", "waiting for the trainer's next report"
        return status.phase, current.reason, current.message
    if running < nodes:
        reason, words = _obstacle(situation, pods)
        return Phase.STARTING, reason, f"{running} of {nodes} pods run{words}"
    if report is None:
        return (
            Phase.STARTING,
            "TrainerStarting",
            f"all {nodes} pods run; waiting for the trainer's first report",
        )
    return STAGES[report.stage]


def _obstacle(situation: _Situation, pods: Sequence[Pod]) -> tuple[str, str]:
    """What keeps the pods from running, in the words of who knows."""
    if not pods:
        # A quota or a policy, say; the Job's own events tell.
        job = names.attempt_job_name(situation.subject.name, situation.status.attempts[-1].number)
        return "PodsPending", f"; none has been created yet (kubectl describe job {job} tells why)"
    waiting = [(pod.name, *pod.waiting) for pod in pods if pod.waiting is not None]
    # A reason that comes with an explanation tells more than ContainerCreating.
    waiting.sort(key=lambda pod: (not pod[2], pod[0]))
    if not waiting:
        return "PodsPending", ""
    name, reason, message = waiting[0]
    return reason, f"; {name}: {reason}{f': {message}' if message else ''}"


def _succeed(
    situation: _Situation, status: FineTuneJobStatus, pods: Sequence[Pod], report: Report | None
) -> Outcome:
    now = situation.now
    final = _final_report(pods)
    if final is not None:
        status = progress.with_report(status, final, now, final=True)
    told = final or report
    output = told.output if told is not None else None
    claim = situation.job.spec.storage.claim_name
    message = f"the model is in {output.path} on claim {claim}" if output else "all pods ended well"
    attempt = status.attempts[-1].model_copy(
        update={"end_time": now, "reason": "Completed", "message": message, "exit_code": 0, "counted": False}
    )
    status = status.model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "attempts": [*status.attempts[:-1], attempt],
            "progress": progress.without_forecast(status.progress),
            "output": output,
            "completion_time": now,
        }
    )
    return _write(situation.subject, status, Standing.SUCCEEDED, "Completed", message, now)


def _end(
    situation: _Situation,
    status: FineTuneJobStatus,
    attempt: Attempt,
    gang: GangJob | None,
    pods: Sequence[Pod],
) -> Outcome:
    """The attempt failed: find out why, and write down what follows."""
    now = situation.now
    ends = [pod.end for pod in pods if pod.end is not None]
    if not ends and pods:
        # The pod that brought the Job down is gone already; how its peers end tells more than that.
        words = f"a pod is gone; waiting for the other {len(pods)} to end"
        outcome = _write(situation.subject, status, Standing.UNDERWAY, "Ending", words, now)
        return replace(outcome, requeue_after=SETTLING_TIME.total_seconds())
    verdict = judge(ends)
    if (wait := _unsettled(verdict, pods, now)) is not None:
        return Outcome(requeue_after=wait)
    final = _final_report(pods)
    if final is not None:
        status = progress.with_report(status, final, now, final=True)
    allowed, used = situation.job.spec.failure_policy.max_restarts, status.restarts or 0
    counted = verdict.recovery is Recovery.RESTART
    message = verdict.message
    fails = verdict.recovery is Recovery.FAIL or (counted and used >= allowed)
    if fails and counted:
        message = f"{message.rstrip('.')}. No restarts are left: spec.failurePolicy.maxRestarts is {allowed}."
    ended = status.attempts[-1].model_copy(
        update={
            "end_time": now,
            "reason": verdict.reason,
            "message": verdict.message,
            "exit_code": verdict.exit_code,
            "node": verdict.node,
            "counted": counted and not fails,
        }
    )
    status = status.model_copy(
        update={
            "phase": Phase.FAILED if fails else Phase.RESTARTING,
            "attempts": [*status.attempts[:-1], ended],
            "restarts": used + (1 if counted and not fails else 0),
            "progress": progress.without_forecast(status.progress),
            "completion_time": now if fails else None,
        }
    )
    if not fails:
        message = f"attempt {attempt.number} ended and is started again. {message}"
    standing = Standing.FAILED if fails else Standing.UNDERWAY
    outcome = _write(situation.subject, status, standing, verdict.reason, message, now)
    return replace(outcome, requeue_after=0)


def _unsettled(verdict: Verdict, pods: Sequence[Pod], now: datetime) -> float | None:
    """Seconds to wait for better evidence than there is; None if the verdict stands."""
    ended = [pod for pod in pods if pod.end is not None]
    if (
        len(ended) == len(pods)
        or verdict.recovery is Recovery.FAIL
        or any(pod.end is not None and pod.end.disruption is not None for pod in ended)
    ):
        return None
    first = min((pod.finished for pod in ended if pod.finished is not None), default=None)
    if first is None:
        return None
    # The node's clock is not ours: an end in the future is no reason to wait.
    age = now - first
    if timedelta(0) <= age < SETTLING_TIME:
        return (SETTLING_TIME - age).total_seconds()
    return None


def _final_report(pods: Sequence[Pod]) -> Report | None:
    """The termination message of rank 0, the authority on how far an attempt came."""
    return next((pod.report for pod in pods if pod.index == 0), None)


def _write(
    subject: Subject,
    status: FineTuneJobStatus,
    standing: Standing,
    reason: str,
    message: str,
    now: datetime,
) -> Outcome:
    """The Outcome that makes `status` the job's status, with the conditions of where it stands."""
    old = subject.status
    new = FineTuneJobStatus.model_validate(
        status.model_dump()
        | {
            "observed_generation": subject.generation,
            "conditions": conditions.conditions(
                standing,
                reason,
                message,
                generation=subject.generation,
                now=now,
                previous=old.conditions,
            ),
        }
    )
    if new == old:
        return Outcome()
    rest = _throttled(old, new, now)
    if rest is not None:
        return Outcome(requeue_after=rest)
    return Outcome(status=new, events=events(old, new))


def _throttled(old: FineTuneJobStatus, new: FineTuneJobStatus, now: datetime) -> float | None:
    """Seconds to wait before writing what is mere progress."""
    if old.progress is None or old.progress.last_report_time is None:
        return None
    if old.model_copy(update={"progress": new.progress}) != new:
        return None
    rest = PROGRESS_INTERVAL - (now - old.progress.last_report_time)
    return rest.total_seconds() if rest > timedelta(0) else None
