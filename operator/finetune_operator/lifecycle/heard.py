"""Pure: what the pods of an attempt have told, by POST and in their last words."""

from collections.abc import Sequence

from finetune_api.report import Report
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_operator.lifecycle.outcome import Situation
from finetune_operator.observation.observed import GangJob, Pod, Received
from finetune_operator.status import progress


def pods_of(situation: Situation, gang: GangJob | None) -> list[Pod]:
    """The pods of a gang; where its Job is gone, all that are left."""
    return list(situation.observed.pods) if gang is None else situation.observed.pods_of(gang)


def received_from(situation: Situation, attempt: Attempt, gang: GangJob | None) -> Received | None:
    """What was last POSTed, if it is of this very gang."""
    received = situation.observed.report
    if received is None or received.report.attempt != attempt.number:
        return None
    if gang is None:
        return received
    if received.job_uid != gang.uid:
        return None
    # Kueue may let the same Job go on with other pods.
    pods = situation.observed.pods_of(gang) if gang.queue is not None else []
    return received if not pods or any(pod.name == received.pod for pod in pods) else None


def final_report(pods: Sequence[Pod]) -> Report | None:
    """The termination message of rank 0, the authority on how far an attempt came."""
    return next((pod.report for pod in pods if pod.index == 0), None)


def posted(situation: Situation, attempt: Attempt, gang: GangJob | None) -> FineTuneJobStatus:
    """The status with what the newest attempt has told by POST, which is nowhere but in the operator's memory."""
    status, received = situation.status, received_from(situation, attempt, gang)
    return status if received is None else progress.with_report(status, received.report, received.time)


def reported(situation: Situation, attempt: Attempt, gang: GangJob | None) -> FineTuneJobStatus:
    """The status with everything that the newest attempt has told."""
    status = posted(situation, attempt, gang)
    for pod in pods_of(situation, gang):
        if pod.index == 0 and pod.report is not None:
            # Not now, but when it was said: to look at it once more is no news.
            time = min(pod.finished or situation.now, situation.now)
            status = progress.with_report(status, pod.report, time, final=True)
    return status
