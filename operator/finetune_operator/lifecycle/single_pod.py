"""Pure: the life of a step that a single pod takes (see steps.py), from creating its Job to its end, as status.

It has no peers to end with it, so its own Job starts it again (see workload.py): as long as that tries, the step is
under way, and where it has given up, so has the FineTuneJob. Two things a Job cannot know: that a container took more
memory than it may, or a pod more storage, and that a deadline has passed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from finetune_api.failure import LIMIT_EXCEEDED, OOM_KILLED, PodEnd, Recovery, Verdict, judge
from finetune_api.report import Report, Stage
from finetune_operator import kueue
from finetune_operator.lifecycle import budget, deadlines, departure, ends, gang, suspension
from finetune_operator.lifecycle.healing import keep_up
from finetune_operator.lifecycle.launch import launch, look_again
from finetune_operator.lifecycle.outcome import Outcome, Situation, write
from finetune_operator.lifecycle.steps import Step
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation.observed import GangJob, Pod, Received
from finetune_operator.status import conditions
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import STUCK

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Sight:
    """What is seen of a step whose Job is there and has not succeeded."""

    reason: str
    message: str
    """How it goes, as a word and a sentence."""
    rest: float
    """Seconds until it has to have shown something."""
    verdict: Verdict | None = None
    """What ended it, if something did."""
    faults: Sequence[str] = ()
    """Every single one that its pod told of."""


def take(
    situation: Situation,
    step: Step,
    manifests: tuple[Manifest, ...],
    done: Callable[[GangJob], Outcome],
) -> Outcome:
    """Create the Job of a step, follow it, and give it back if the FineTuneJob is to be suspended.

    `done` says what comes once it has succeeded.
    """
    job = situation.observed.job_of(step.number)
    if job is not None and job.complete:
        return done(job)
    if job is not None and job.deleting:
        # How it ends says nothing of the step: it was told to.
        job = None
    others = departure.apart_from_kept(situation.status, situation.observed)
    if situation.job.spec.suspend and (job is None or not _is_ending(situation, job)):
        return suspension.give_back(replace(situation, observed=others))
    if job is None:
        return launch(replace(situation, observed=others), step.number, manifests)
    outcome = replace(_follow(situation, step, job), delete=departure.strays(others, keep=step.number))
    return keep_up(situation, outcome, job, manifests, nodes=1)


def told(situation: Situation, job: GangJob) -> tuple[Report | None, Report | None]:
    """What its pod last POSTed, which may have been missed; and its last words, which may have been cut short."""
    return _told(situation, job, _newest(situation.observed.pods_of(job)))


def _told(situation: Situation, job: GangJob, pod: Pod | None) -> tuple[Report | None, Report | None]:
    received = _received(situation, job, pod)
    return received.report if received else None, pod.report if pod else None


def _follow(situation: Situation, step: Step, job: GangJob) -> Outcome:
    """The Job is there and has not succeeded: mirror it, or record that it failed."""
    seen = see(situation, step, job)
    if seen.verdict is not None:
        return ends.given_up(situation, seen.verdict, seen.faults)
    status = situation.status.model_copy(update={"phase": step.phase})
    outcome = write(situation.subject, status, Standing.UNDERWAY, seen.reason, seen.message, situation.now)
    return outcome.within(seen.rest)


def see(situation: Situation, step: Step, job: GangJob) -> Sight:
    """How a step goes whose Job is there and has not succeeded, or what ended it."""
    pods = situation.observed.pods_of(job)
    killed = next((pod for pod in pods if pod.end is not None and _met_a_limit(pod.end)), None)
    pod = killed or _newest(pods)
    if job.failed or killed is not None:
        verdict = _verdict(situation, step, job, pod)
        return Sight(verdict.reason, verdict.message, 0, verdict, _faults(situation, job, pod))
    if job.waits:
        # It names no queue, but Kueue may have put it into one. What waits there has not begun.
        reason, words = situation.observed.wait or kueue.wait(None, str(job.queue), job.priority)
        return Sight(
            reason, f"{step.to_come}; {words}", look_again(job.created or situation.now, situation.now)
        )
    reason, message = _stage(situation, step, job, pod)
    if pod is not None and pod.deleting:
        # It has nothing more to show. On a node that nobody hears of, it stays until somebody decides about the node.
        if (advice := departure.stuck(pods, situation.now)) is not None:
            reason, message = STUCK, advice
        return Sight(reason, message, departure.PATIENCE.total_seconds())
    received = _received(situation, job, pod)
    heard = received is not None or _was_heard(situation, step)
    deadline = deadlines.of_single_pod(situation, job, pods, received, heard=heard)
    rest = deadline.rest(situation.now)
    if rest <= 0:
        # It holds no GPU, and has no budget of restarts but that of its Job.
        return Sight(reason, message, rest, deadline.verdict(message))
    told = conditions.find(situation.status.conditions, step.condition)
    if told is not None and (wait := _until_its_end(situation, pod, received)) is not None:
        return Sight(told.reason, told.message, min(rest, wait))
    return Sight(reason, message, rest)


def _until_its_end(situation: Situation, pod: Pod | None, received: Received | None) -> float | None:
    """Seconds for which the end of a step is waited for whose pod has finished, so that one write tells both."""
    over = [pod.finished] if pod is not None and pod.end is None and pod.finished is not None else []
    if received is not None and received.report.stage is Stage.FINISHED:
        over.append(received.time)
    return ends.to_come(max(over), situation.now) if over else None


def _is_ending(situation: Situation, job: GangJob) -> bool:
    """Whether it comes to its end by itself, a good one or one that is not tried again."""
    pods = situation.observed.pods_of(job)
    ends_well = any(pod.finished is not None and pod.end is None for pod in pods)
    return job.over or ends_well or any(pod.end is not None and _met_a_limit(pod.end) for pod in pods)


def _newest(pods: Sequence[Pod]) -> Pod | None:
    """The pod that counts. There is never more than one that has not ended."""
    return max(pods, key=lambda pod: (pod.end is None, pod.finished or _LONG_AGO), default=None)


def _received(situation: Situation, job: GangJob, pod: Pod | None) -> Received | None:
    """What this very pod last POSTed."""
    received = situation.observed.report
    if pod is None or received is None or received.report.attempt != job.attempt:
        return None
    return received if (received.job_uid, received.pod) == (job.uid, pod.name) else None


def _stage(situation: Situation, step: Step, job: GangJob, pod: Pod | None) -> tuple[str, str]:
    if pod is not None and pod.end is not None:
        return "Retrying", f"{step.to_come} once more. {_judged(situation, step, pod.end).message}"
    if pod is None or not pod.running:
        reason, words = gang.obstacle(job, [] if pod is None else [pod])
        return reason, f"{step.to_come}{words}"
    received = _received(situation, job, pod)
    if received is not None:
        _, reason, message = gang.stage(received.report)
        if received.report.stage is Stage.FINISHED:
            message = f"{step.done}; waiting for the pod to end{gang.beside([pod])}"
        return reason, message
    current = conditions.find(situation.status.conditions, step.condition)
    if current is not None and _was_heard(situation, step):
        # After a restart of the operator the next Report is yet to come.
        return current.reason, current.message
    return "WaitingForReport", f"{step.pod} runs; waiting for its first report"


def _met_a_limit(end: PodEnd) -> bool:
    return judge([end]).reason in (OOM_KILLED.reason, LIMIT_EXCEEDED.reason)


def _was_heard(situation: Situation, step: Step) -> bool:
    """Whether what is known of the pod that runs came from its own Report."""
    current = conditions.find(situation.status.conditions, step.condition)
    return current is not None and current.reason in gang.STAGE_REASONS


def _verdict(situation: Situation, step: Step, job: GangJob, pod: Pod | None) -> Verdict:
    if pod is None or pod.end is None:
        words = f"{step.undone}, and no pod is left to tell why: {job.words}"
        return Verdict("PodVanished", words, Recovery.FAIL)
    verdict = _judged(situation, step, pod.end)
    if verdict.recovery is not Recovery.RESTART or step.is_repeated:
        return verdict
    spent = budget.used_up(situation.job.spec.failure_policy, verdict.recovery)
    return replace(verdict, message=f"{verdict.message.rstrip('.')}. {spent}.")


def _judged(situation: Situation, step: Step, end: PodEnd) -> Verdict:
    return judge([end], advice=step.advice(situation.job, situation.status))


def _faults(situation: Situation, job: GangJob, pod: Pod | None) -> list[str]:
    """Every single fault: the pod's last words have room for a few, what it POSTed for more."""
    reports = _told(situation, job, pod)
    failures = [report.failure for report in reports if report is not None and report.failure is not None]
    return max((failure.details for failure in failures), key=len, default=[])
