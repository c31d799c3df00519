"""Pure: what a gang is doing and how it ended, as status."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.failure import Recovery, Verdict, judge
from finetune_api.report import Report, Stage
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator import conditions, progress
from finetune_operator.conditions import Standing
from finetune_operator.observed import GangJob, Pod, Received
from finetune_operator.outcome import Outcome, Situation, write

# The first pod to be seen failing is often a victim of the one that fails a moment later for a reason of its own.
SETTLING_TIME = timedelta(seconds=5)

# What the trainer does, as a phase, a word and a sentence.
STAGES = {
    Stage.STARTING: (Phase.STARTING, "TrainerStarting", "the trainer is starting"),
    Stage.PREPARING: (Phase.PREPARING, "Preparing", "the data are being prepared"),
    Stage.LOADING: (Phase.RUNNING, "Loading", "the model is being loaded"),
    Stage.TRAINING: (Phase.RUNNING, "Training", "training"),
    # Not worth a status write of its own: a saved checkpoint is.
    Stage.SAVING: (Phase.RUNNING, "Training", "training"),
    Stage.FINISHED: (Phase.RUNNING, "Finishing", "the trainer has finished; waiting for its pods to end"),
    Stage.FAILED: (Phase.RUNNING, "Finishing", "the trainer has failed; waiting for its pods to end"),
}
STAGE_REASONS = frozenset(reason for _, reason, _ in STAGES.values())
# Phases in which all pods have been seen running.
_GANG_UP = (Phase.PREPARING, Phase.RUNNING)


def stage(report: Report) -> tuple[Phase, str, str]:
    """What a trainer does, as a phase, a word and a sentence."""
    phase, reason, message = STAGES[report.stage]
    if report.stage is Stage.PREPARING and report.preparation is not None:
        message += f": {report.preparation.rows:,} rows, {report.preparation.percent} %"
    return phase, reason, message


def obstacle(job: str, pods: Sequence[Pod]) -> tuple[str, str]:
    """What keeps the pods of a batch/v1 Job from running, as a word and the end of a sentence."""
    if not pods:
        # A quota or a policy, say; the Job's own events tell.
        return "PodsPending", f"; none has been created yet (kubectl describe job {job} tells why)"
    waiting = [(pod.name, *pod.waiting) for pod in pods if pod.waiting is not None]
    # A reason that comes with an explanation tells more than ContainerCreating.
    waiting.sort(key=lambda pod: (not pod[2], pod[0]))
    if not waiting:
        return "PodsPending", ""
    name, reason, message = waiting[0]
    return reason, f"; {name}: {reason}{f': {message}' if message else ''}"


def without_restarts(message: str, allowed: int) -> str:
    """Why it ended, and that it is not started again."""
    return f"{message.rstrip('.')}. No restarts are left: spec.failurePolicy.maxRestarts is {allowed}."


def follow(situation: Situation, attempt: Attempt, gang: GangJob | None) -> Outcome:
    """The attempt's Job is there, or was: mirror it, or record its end."""
    pods = [pod for pod in situation.observed.pods if gang is None or pod.job_uid == gang.uid]
    received = _received(situation, attempt, gang)
    report, status = None, situation.status
    if received is not None:
        report = received.report
        status = progress.with_report(status, report, received.time)
    if gang is not None and gang.complete:
        return _succeed(situation, status, pods, report)
    if gang is None or gang.failed or any(pod.end is not None for pod in pods):
        return _end(situation, status, attempt, pods)
    phase, reason, message = _stage(situation, pods, report)
    status = status.model_copy(update={"phase": phase})
    return write(situation.subject, status, Standing.UNDERWAY, reason, message, situation.now)


def _received(situation: Situation, attempt: Attempt, gang: GangJob | None) -> Received | None:
    """What was last POSTed, if it is of this very gang."""
    received = situation.observed.report
    if received is None or received.report.attempt != attempt.number:
        return None
    return received if gang is None or received.job_uid == gang.uid else None


def _stage(situation: Situation, pods: Sequence[Pod], report: Report | None) -> tuple[Phase, str, str]:
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
        job = names.attempt_job_name(situation.subject.name, status.attempts[-1].number)
        reason, words = obstacle(job, pods)
        return Phase.STARTING, reason, f"{running} of {nodes} pods run{words}"
    if report is None:
        return (
            Phase.STARTING,
            "TrainerStarting",
            f"all {nodes} pods run; waiting for the trainer's first report",
        )
    return stage(report)


def _succeed(
    situation: Situation, status: FineTuneJobStatus, pods: Sequence[Pod], report: Report | None
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
    return write(situation.subject, status, Standing.SUCCEEDED, "Completed", message, now)


def _end(
    situation: Situation,
    status: FineTuneJobStatus,
    attempt: Attempt,
    pods: Sequence[Pod],
) -> Outcome:
    """The attempt failed: find out why, and write down what follows."""
    now = situation.now
    ends = [pod.end for pod in pods if pod.end is not None]
    if not ends and pods:
        # The pod that brought the Job down is gone already; how its peers end tells more than that.
        words = f"a pod is gone; waiting for the other {len(pods)} to end"
        outcome = write(situation.subject, status, Standing.UNDERWAY, "Ending", words, now)
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
        message = without_restarts(message, allowed)
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
    outcome = write(situation.subject, status, standing, verdict.reason, message, now)
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
