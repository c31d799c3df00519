"""Pure: until when a job, an attempt or a single pod has to show something, and what it means that it did not.

A deadline passes without any event: whoever waits for one has to look again by himself when it is due. None is ever
missed only because the operator was away, or heard nobody (see hearing.py): what it could not hear is given the time
again from its start on, or from when the silence ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.failure import HUNG, NOT_STARTED, OVERDUE, Cause, Verdict, decided
from finetune_api.status import Attempt, Phase
from finetune_operator.lifecycle import ends, steps
from finetune_operator.lifecycle.heard import reported
from finetune_operator.lifecycle.outcome import Outcome, Situation
from finetune_operator.observation.observed import MAX_REPORT_INTERVAL_SECONDS, GangJob, Pod, Received
from finetune_operator.status import progress

# Phases in which all pods of a gang have been seen running, and its trainer was heard of.
GANG_UP = (Phase.PREPARING, Phase.RUNNING)


@dataclass(frozen=True)
class Deadline:
    """A time by which something has to have happened."""

    cause: Cause
    """What it is called when it did not."""
    since: datetime
    seconds: int

    def rest(self, now: datetime) -> float:
        """Seconds that are left; none or fewer if it has passed."""
        return (self.since - now).total_seconds() + self.seconds

    def verdict(self, standing: str, *, node: str | None = None) -> Verdict:
        """What it means that it has passed; `standing` says how far things came."""
        if self.cause is HUNG:
            words = f"no sign of life for {progress.duration(self.seconds)}: {standing}"
        else:
            words = f"not under way within {progress.duration(self.seconds)}: {standing}"
        return decided(self.cause, words, node=node)


def of_gang(
    situation: Situation, attempt: Attempt, gang: GangJob, pods: Sequence[Pod], received: Received | None
) -> Deadline:
    """The deadline that runs for an attempt: first to start, then to make progress. `received` is of this very gang."""
    status, policy = situation.status, situation.job.spec.failure_policy
    # What waits in a queue has not begun.
    begun = max([attempt.start_time, *(time for time in (gang.created, gang.started) if time is not None)])
    all_run = sum(pod.running for pod in pods) >= situation.job.spec.resources.nodes
    told = status.progress.last_report_time if status.progress is not None else None
    heard = received is not None or (told is not None and told >= begun)
    if status.phase not in GANG_UP and not (all_run and heard):
        # That pods do not run can be seen at any time; what a trainer says only while somebody listens.
        since = _listening(situation, begun) if all_run else begun
        return Deadline(NOT_STARTED, since, policy.startup_deadline_seconds)
    since = _last_sign(situation, max([begun, *_starts(situation, pods)]), received)
    return Deadline(HUNG, since, policy.progress_deadline_seconds)


def of_single_pod(
    situation: Situation, job: GangJob, pods: Sequence[Pod], received: Received | None, *, heard: bool
) -> Deadline:
    """The deadline that runs for the preparation or the merging, whose Job may have started its pod again.

    `received` is of the pod that counts; `heard`: something of it was received at some time.
    """
    policy = situation.job.spec.failure_policy
    times = [job.started, *(time for pod in pods for time in (pod.created, pod.finished))]
    signs = [time for time in times if time is not None]
    # A pod that was drained is gone before the next one is made: then its Reports alone tell that it ever ran.
    told = situation.observed.report
    signs += [told.time] if told is not None and told.job_uid == job.uid else []
    begun = max([job.created or situation.now, *signs, *_written_before(situation)])
    runs = any(pod.running for pod in pods)
    if not runs or not heard:
        since = _listening(situation, begun) if runs or not pods else begun
        return Deadline(NOT_STARTED, since, policy.startup_deadline_seconds)
    since = _last_sign(situation, max([begun, *_starts(situation, pods)]), received)
    return Deadline(HUNG, since, policy.progress_deadline_seconds)


def overdue(situation: Situation) -> Outcome | None:
    """The end of a job that had to be done by now (failurePolicy.activeDeadlineSeconds); None if it may go on."""
    deadline = _of_job(situation)
    if deadline is None or deadline.rest(situation.now) > 0 or _done(situation):
        return None
    status = situation.status
    attempt = status.attempts[-1] if status.attempts else None
    under_way = attempt is not None and attempt.end_time is None
    if attempt is not None and under_way:
        gang = situation.observed.job_of(attempt.number)
        status = reported(situation, attempt, gang)
    reached = status.progress.summary if status.progress is not None else None
    words = f"the job did not succeed within {progress.duration(deadline.seconds)}"
    verdict = decided(OVERDUE, words + (f"; it came to step {reached}" if reached else ""))
    if under_way:
        return ends.concluded(situation, status, verdict)
    return ends.given_up(situation, verdict)


def bounded(situation: Situation, outcome: Outcome) -> Outcome:
    """The same, to be looked at again when the job has to be done."""
    deadline = _of_job(situation)
    return outcome if deadline is None else outcome.within(max(0, deadline.rest(situation.now)))


def _of_job(situation: Situation) -> Deadline | None:
    status, spec = situation.status, situation.job.spec
    seconds = spec.failure_policy.active_deadline_seconds
    # Time stands still for a job that is suspended, or about to be, and while it waits in a queue.
    if seconds is None or status.start_time is None or spec.suspend:
        return None
    if status.phase in (Phase.SUSPENDED, Phase.QUEUED):
        return None
    waited = (status.suspended_seconds or 0) + (
        status.queue.waited_seconds if status.queue is not None else 0
    )
    return Deadline(OVERDUE, status.start_time + timedelta(seconds=waited), seconds)


def _written_before(situation: Situation) -> list[datetime]:
    """When, by the operator's own clock, what goes before a single pod was written down.

    The Job's creation is by the API server's clock: to an operator that is hours ahead, it was hours ago.
    """
    status = situation.status
    times = (status.start_time, status.completion_time, *(attempt.end_time for attempt in status.attempts))
    return [time for time in times if time is not None]


def _done(situation: Situation) -> bool:
    """Whether what the job still lacked has succeeded, which only has to be written down."""
    status = situation.status
    if not status.attempts:
        return False
    last = names.MERGING if steps.is_trained(status) else status.attempts[-1].number
    job = situation.observed.job_of(last)
    return job is not None and job.complete


def _starts(situation: Situation, pods: Sequence[Pod]) -> list[datetime]:
    # By the clocks of nodes: none of them is believed to be ahead.
    return [min(pod.started, situation.now) for pod in pods if pod.started is not None]


def _last_sign(situation: Situation, begun: datetime, received: Received | None) -> datetime:
    if received is not None:
        begun = max(begun, received.time + timedelta(seconds=received.interval))
    return _listening(situation, begun)


def _listening(situation: Situation, begun: datetime) -> datetime:
    """When, of what began or was last heard at that time, a next Report could have come to this operator."""
    since = situation.observed.watching_since
    if since is None or since < begun:
        return begun
    # The operator that was before this one, or its last answer that arrived, may have asked for it only then.
    return since + timedelta(seconds=MAX_REPORT_INTERVAL_SECONDS)
