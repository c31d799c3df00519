"""Pure: what the preparation of the data is doing, what it found, and how it failed, as status.

It is the Job of attempt 0. A single pod has no peers to end with it, so its own Job starts it again (see workload.py):
as long as that tries, the preparation is under way, and where it has given up, so has the FineTuneJob. Two things a Job
cannot know: that a container took more memory than it may, or a pod more storage, and that a deadline has passed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from finetune_api import names
from finetune_api.failure import LIMIT_EXCEEDED, OOM_KILLED, PodEnd, Recovery, Verdict, judge
from finetune_api.report import Report, Stage
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator import advice, budget, conditions, deadlines, gang, progress
from finetune_operator.conditions import Standing
from finetune_operator.observed import GangJob, Observed, Pod, Received
from finetune_operator.outcome import Outcome, Situation, write

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def job_of(observed: Observed) -> GangJob | None:
    """The Job of the preparation."""
    return observed.job_of(names.PREPARATION)


def apart_from(observed: Observed) -> Observed:
    """Everything but the Job of a preparation that is over, and its pods: they are in nobody's way."""
    job = job_of(observed)
    if job is None or not job.over:
        return observed
    return replace(
        observed,
        jobs=tuple(other for other in observed.jobs if other.uid != job.uid),
        pods=tuple(pod for pod in observed.pods if pod.job_uid != job.uid),
    )


def digest(situation: Situation) -> str | None:
    """What the gang finds the prepared data by; None where it prepares them itself."""
    dataset = situation.status.dataset
    beforehand = situation.job.spec.dataset.prepare == "Job"
    return dataset.digest if dataset is not None and beforehand else None


def follow(situation: Situation, job: GangJob) -> Outcome:
    """The Job is there and has not succeeded: mirror it, or record that it failed."""
    pods = situation.observed.pods_of(job)
    killed = next((pod for pod in pods if pod.end is not None and _met_a_limit(pod.end)), None)
    pod = killed or _newest(pods)
    if job.failed or killed is not None:
        return _fail(situation, _verdict(situation, job, pod), _faults(situation, job, pod))
    reason, message = _stage(situation, job, pod)
    received = _received(situation, job, pod)
    heard = received is not None or _was_heard(situation)
    deadline = deadlines.of_preparation(situation, job, pods, received, heard=heard)
    rest = deadline.rest(situation.now)
    if rest <= 0:
        # It holds no GPU, and has no budget of restarts but that of its Job.
        return _fail(situation, deadline.verdict(message))
    status = situation.status.model_copy(update={"phase": Phase.PREPARING})
    outcome = write(situation.subject, status, Standing.UNDERWAY, reason, message, situation.now)
    return outcome.within(rest)


def is_ending(situation: Situation, job: GangJob) -> bool:
    """Whether it comes to its end by itself, a good one or one that is not tried again."""
    pods = situation.observed.pods_of(job)
    ends_well = any(pod.finished is not None and pod.end is None for pod in pods)
    return job.over or ends_well or any(pod.end is not None and _met_a_limit(pod.end) for pod in pods)


def findings(situation: Situation, job: GangJob) -> FineTuneJobStatus:
    """The status with what a preparation that succeeded tells of plan and data.

    The pod's last words may have been cut short, and what it POSTed may have been missed. If nothing is left of either,
    the gang opens the same data, and tells the same.
    """
    status, newest = situation.status, _newest(situation.observed.pods_of(job))
    if newest is None:
        return status
    received = _received(situation, job, newest)
    if received is not None:
        status = progress.with_findings(status, received.report)
    if newest.report is not None:
        status = progress.with_findings(status, newest.report, final=True)
    return status


def _newest(pods: Sequence[Pod]) -> Pod | None:
    """The pod that counts. There is never more than one that has not ended."""
    return max(pods, key=lambda pod: (pod.end is None, pod.finished or _LONG_AGO), default=None)


def _received(situation: Situation, job: GangJob, pod: Pod | None) -> Received | None:
    """What this very pod last POSTed."""
    received = situation.observed.report
    if pod is None or received is None or (received.job_uid, received.pod) != (job.uid, pod.name):
        return None
    return received


def _stage(situation: Situation, job: GangJob, pod: Pod | None) -> tuple[str, str]:
    if pod is not None and pod.end is not None:
        return (
            "Retrying",
            f"the data are about to be prepared once more. {_judged(situation, pod.end).message}",
        )
    if pod is None or not pod.running:
        reason, words = gang.obstacle(job.name, [] if pod is None else [pod])
        return reason, f"the data are about to be prepared{words}"
    received = _received(situation, job, pod)
    if received is not None:
        _, reason, message = gang.stage(received.report)
        if received.report.stage is Stage.FINISHED:
            message = "the data are prepared; waiting for the pod to end"
        return reason, message
    current = conditions.find(situation.status.conditions, conditions.PROGRESSING)
    if current is not None and _was_heard(situation):
        # After a restart of the operator the next Report is yet to come.
        return current.reason, current.message
    return "WaitingForReport", "the pod that prepares the data runs; waiting for its first report"


def _met_a_limit(end: PodEnd) -> bool:
    return judge([end]).reason in (OOM_KILLED.reason, LIMIT_EXCEEDED.reason)


def _was_heard(situation: Situation) -> bool:
    """Whether what is known of the pod that runs came from its own Report."""
    current = conditions.find(situation.status.conditions, conditions.PROGRESSING)
    return current is not None and current.reason in gang.STAGE_REASONS


def _fail(situation: Situation, verdict: Verdict, faults: Sequence[str] = ()) -> Outcome:
    status = situation.status.model_copy(
        update={"phase": Phase.FAILED, "completion_time": situation.now},
    )
    # An attempt has a place of its own for the end of its log.
    more = faults or ([verdict.log] if verdict.log else [])
    return write(
        situation.subject,
        status,
        Standing.FAILED,
        verdict.reason,
        verdict.message,
        situation.now,
        faults=more,
    ).within(0)


def _verdict(situation: Situation, job: GangJob, pod: Pod | None) -> Verdict:
    if pod is None or pod.end is None:
        words = f"the data could not be prepared, and no pod is left to tell why: {job.words}"
        return Verdict("PodVanished", words, Recovery.FAIL)
    verdict = _judged(situation, pod.end)
    if verdict.recovery is not Recovery.RESTART:
        return verdict
    spent = budget.used_up(situation.job.spec.failure_policy, verdict.recovery)
    return replace(verdict, message=f"{verdict.message.rstrip('.')}. {spent}.")


def _judged(situation: Situation, end: PodEnd) -> Verdict:
    return judge([end], advice=advice.for_preparation(situation.job, situation.status))


def _faults(situation: Situation, job: GangJob, pod: Pod | None) -> list[str]:
    """Every single fault: the pod's last words have room for a few, what it POSTed for more."""
    if pod is None:
        return []
    received = _received(situation, job, pod)
    told: list[Report | None] = [pod.report, received.report if received else None]
    return max((report.failure.details for report in told if report and report.failure), key=len, default=[])
