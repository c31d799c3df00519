"""Pure: how attempts end, and what follows from it, as status; and how a job fails that has none under way."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from finetune_api import names
from finetune_api.failure import PodEnd, Recovery, Verdict, judge
from finetune_api.report import Failure, Report
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.lifecycle import advice, budget, departure, steps
from finetune_operator.lifecycle.heard import final_report
from finetune_operator.lifecycle.launch import about_to_create
from finetune_operator.lifecycle.outcome import Outcome, Situation, time_left, write
from finetune_operator.observation.observed import Pod
from finetune_operator.status import evaluation, progress
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import STUCK

# The first pod to be seen failing is often a victim of the one that fails a moment later for a reason of its own.
SETTLING_TIME = timedelta(seconds=5)
# For so long the end of what has finished is waited for before anything is told of it. Where hundreds of Jobs end at
# once, the Job controller takes some ten seconds to say of one that it is complete.
ENDING_TIME = timedelta(seconds=15)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def succeeded(
    situation: Situation, status: FineTuneJobStatus, pods: Sequence[Pod], report: Report | None
) -> Outcome:
    """The model is trained, and the job is done unless its adapter is to be merged.

    `report` is the last one that was POSTed, and `status` has it.
    """
    now = situation.now
    told = final_report(pods) or report
    output = told.output if told is not None else None
    claim = situation.job.storage_claim
    message = f"the {output.format} is in {output.path} on claim {claim}" if output else "all pods ended well"
    message = evaluation.with_outcome(message, status.evaluation)
    attempt = ended(status, now, reason=steps.COMPLETED, message=message, exit_code=0)
    status = status.model_copy(
        update={
            "attempts": [*status.attempts[:-1], attempt],
            "progress": progress.without_forecast(status.progress),
            "output": output,
        }
    )
    if steps.merges(situation.job):
        status = status.model_copy(update={"phase": Phase.MERGING})
        to_come = about_to_create(names.MERGING)
        return write(situation.subject, status, Standing.UNDERWAY, *to_come, now).within(0)
    status = status.model_copy(update={"phase": Phase.SUCCEEDED, "completion_time": now})
    return write(situation.subject, status, Standing.SUCCEEDED, steps.COMPLETED, message, now)


def failed(
    situation: Situation, status: FineTuneJobStatus, pods: Sequence[Pod], report: Report | None
) -> Outcome:
    """The attempt failed: find out why, as soon as there is evidence, and write down what follows.

    `report` is the last one that was POSTed.
    """
    now = situation.now
    # Of ends that tell equally much, the first one counts.
    over = sorted((pod for pod in pods if pod.end is not None), key=lambda pod: pod.finished or _LONG_AGO)
    if not over and pods:
        # What brought the attempt down is gone already; how the others end tells more than that.
        reason, words = "Ending", f"pods, or their Job, are gone; waiting for the other {len(pods)} to end"
        if (stuck := departure.stuck(pods, now)) is not None:
            reason, words = STUCK, stuck
        outcome = write(situation.subject, status, Standing.UNDERWAY, reason, words, now)
        return replace(outcome, requeue_after=SETTLING_TIME.total_seconds())
    known = advice.for_attempt(situation.job, status)
    evidence = [pod.end for pod in over if pod.end is not None]
    if report is not None and report.failure is not None and all(pod.index != 0 for pod in pods):
        evidence.append(_told(report.failure, names.attempt_job_name(situation.subject.name, report.attempt)))
    verdict = judge(evidence, advice=known)
    if (wait := _unsettled(verdict, pods, now)) is not None:
        return Outcome(requeue_after=wait)
    return concluded(situation, status, verdict)


def concluded(situation: Situation, status: FineTuneJobStatus, verdict: Verdict) -> Outcome:
    """Write down that the newest attempt ended so, and what follows. `status` has all that it reported."""
    now, subject = situation.now, situation.subject
    attempt = ended(
        status,
        now,
        reason=verdict.reason,
        message=verdict.message,
        exit_code=verdict.exit_code,
        node=verdict.node,
        log=verdict.log,
    )
    charge = budget.charge(
        status.model_copy(update={"attempts": [*status.attempts[:-1], attempt]}),
        verdict,
        situation.job.spec.failure_policy,
    )
    fails = verdict.recovery is Recovery.FAIL or charge.refusal is not None
    message = verdict.message
    if charge.refusal is not None:
        message = f"{message.rstrip('.')}. {charge.refusal}"
    if not fails:
        message = f"attempt {attempt.number} ended and is started again: {message}"
    status = status.model_copy(
        update={
            "phase": Phase.FAILED if fails else Phase.RESTARTING,
            "attempts": [
                *status.attempts[:-1],
                attempt.model_copy(update={"counted": charge.counted}),
            ],
            "restarts": (status.restarts or 0) + charge.counted,
            "since_checkpoint": charge.since,
            "progress": progress.without_forecast(status.progress),
            "completion_time": now if fails else None,
        }
    )
    standing = Standing.FAILED if fails else Standing.UNDERWAY
    return write(subject, status, standing, verdict.reason, message, now).within(0)


def to_come(since: datetime, now: datetime) -> float | None:
    """Seconds for which the end of what finished at that time is waited for, so that one write tells both, or None."""
    return time_left(ENDING_TIME, since, now)


def given_up(situation: Situation, verdict: Verdict, faults: Sequence[str] = ()) -> Outcome:
    """The job failed while no attempt was under way: before the first one, or after the last.

    `faults` is what is wrong with every single row of the data.
    """
    status, now = situation.status, situation.now
    message = verdict.message
    if steps.is_trained(status):
        message = f"{message.rstrip('.')}. {advice.to_merge_by_hand(situation.job)}"
    status = status.model_copy(update={"phase": Phase.FAILED, "completion_time": now})
    # An attempt has a place of its own for the end of its log.
    more = faults or ([verdict.log] if verdict.log else [])
    outcome = write(situation.subject, status, Standing.FAILED, verdict.reason, message, now, faults=more)
    return outcome.within(0)


def ended(
    status: FineTuneJobStatus,
    now: datetime,
    *,
    reason: str,
    message: str,
    exit_code: int | None = None,
    node: str | None = None,
    log: str | None = None,
) -> Attempt:
    """The newest attempt with its end, at nobody's cost. `status` has all that it reported."""
    attempt = status.attempts[-1]
    return attempt.model_copy(
        update={
            "end_time": now,
            "last_step": progress.last_step(attempt, status.progress),
            "reason": reason,
            "message": message,
            "exit_code": exit_code,
            "node": node,
            "log": log,
            "counted": False,
        }
    )


def _told(failure: Failure, job: str) -> PodEnd:
    """The end of a pod that is gone, as rank 0 told it."""
    return PodEnd(f"{job}-0", failure.exit_code, message=failure.message, log=failure.log)


def _unsettled(verdict: Verdict, pods: Sequence[Pod], now: datetime) -> float | None:
    """Seconds to wait for better evidence than there is; None if the verdict stands."""
    over = [pod for pod in pods if pod.end is not None]
    if (
        len(over) == len(pods)
        or verdict.recovery is Recovery.FAIL
        or any(pod.end is not None and pod.end.disruption is not None for pod in over)
    ):
        return None
    first = min((pod.finished for pod in over if pod.finished is not None), default=None)
    if first is None:
        return None
    return time_left(SETTLING_TIME, first, now)
