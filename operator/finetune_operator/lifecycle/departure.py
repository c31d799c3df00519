"""Pure: pods that were asked to go. Nothing starts beside them: two gangs would destroy each other's work."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus
from finetune_operator.lifecycle import steps
from finetune_operator.lifecycle.outcome import Outcome, Situation, write
from finetune_operator.observation.observed import GangJob, Observed, Pod
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import STUCK

# A kubelet that is there removes a pod within seconds after its grace period.
PATIENCE = timedelta(minutes=1)


def wait(situation: Situation, status: FineTuneJobStatus, reason: str, message: str) -> Outcome:
    """Have everything go that is left, and tell what is waited for.

    `reason` and `message` stand as long as nothing is wrong: a pod on a node that nobody hears of stays until somebody
    decides that the node is gone, and one that no Job controls until it ends by itself or somebody deletes it.
    """
    pods, now = situation.observed.pods, situation.now
    if (words := stuck(pods, now)) is not None:
        reason, message = STUCK, words
    elif orphans := _orphans(situation.observed):
        reason, message = "WaitingForPods", _question(orphans)
    outcome = write(situation.subject, status, Standing.UNDERWAY, reason, message, now)
    outcome = replace(outcome, delete=strays(situation.observed))
    for pod in pods:
        if (rest := _patience(pod, now)) is not None and rest > 0:
            outcome = outcome.within(rest)
    return outcome


def stuck(pods: Sequence[Pod], now: datetime) -> str | None:
    """What to do about the pods that should have gone long ago, in sentences; None where there are none."""
    late = [pod for pod in pods if (rest := _patience(pod, now)) is not None and rest <= 0]
    return _advice(late) if late else None


def _patience(pod: Pod, now: datetime) -> float | None:
    """Seconds until somebody has to be told that it is still there; None if it was not asked to go."""
    return None if pod.due is None else (pod.due + PATIENCE - now).total_seconds()


def strays(observed: Observed, *, keep: int | None = None) -> tuple[GangJob, ...]:
    """The Jobs to delete: all but that of the attempt to keep, and those that are going already."""
    return tuple(job for job in observed.jobs if job.attempt != keep and not job.deleting)


def apart_from_kept(status: FineTuneJobStatus, observed: Observed) -> Observed:
    """Everything but Jobs that are over and stay for their logs, and their pods: they hold nothing."""
    kept = {job.uid for job in observed.jobs if _stays(status, job)}
    return replace(
        observed,
        jobs=tuple(job for job in observed.jobs if job.uid not in kept),
        pods=tuple(pod for pod in observed.pods if pod.job_uid not in kept),
    )


def _stays(status: FineTuneJobStatus, job: GangJob) -> bool:
    if job.deleting:
        return False
    if job.attempt in steps.BY_NUMBER:
        return job.over
    return job.complete and steps.is_trained(status) and job.attempt == status.attempts[-1].number


def ending(pods: Sequence[Pod]) -> str:
    """How many pods are to end: '2 pods are ending'."""
    return "1 pod is ending" if len(pods) == 1 else f"{len(pods)} pods are ending"


def _orphans(observed: Observed) -> list[Pod]:
    """Pods that can run, and that nobody will ask to go: their Job is not there any more."""
    jobs = {job.uid for job in observed.jobs}
    return [pod for pod in observed.pods if not (pod.is_going or pod.finished or pod.job_uid in jobs)]


def _question(orphans: Sequence[Pod]) -> str:
    """Which pods no Job controls, and what their owner can do about it."""
    pods = sorted(pod.name for pod in orphans)
    return (
        f"waiting for pods whose Job is gone: {', '.join(pods)}. They may be writing to the volume, so nothing starts "
        f"beside them, and they are not the operator's to delete. If nobody needs them: kubectl delete pod "
        f"{' '.join(pods)}."
    )


def _advice(late: Sequence[Pod]) -> str:
    """Which pods do not go, and what somebody with rights over nodes can do about it."""
    late = sorted(late, key=lambda pod: pod.name)
    waited_for = ", ".join(f"{pod.name} on node {pod.node} (since {_clock(pod.due)})" for pod in late)
    nodes = sorted({pod.node for pod in late if pod.node is not None})
    each = " ".join(nodes)
    return (
        f"waiting for pods that should have ended: {waited_for}. Nothing starts beside them. If the machine is off for "
        f"good, delete its Node object (kubectl delete node {each}); if it is off and will be back, taint it "
        f"(kubectl taint node {each} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute)."
    )


def _clock(due: datetime | None) -> str:
    return f"{due:%H:%M:%S} UTC" if due is not None else ""
