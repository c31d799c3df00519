"""Pure: what is seen of a job, and of what is around it, in sentences."""

from collections.abc import Iterator
from datetime import datetime

from finetune_api.status import Phase
from finetune_operator.cli.explaining.sight import Sight
from finetune_operator.lifecycle import steps
from finetune_operator.status.progress import duration

# Of pods, and of attempts, no more than so many are told.
_MANY = 5


def evidence(sight: Sight, now: datetime) -> Iterator[str]:
    """What is seen of a job, a sentence for each thing."""
    subject, status = sight.subject, sight.subject.status
    if status.observed_generation < subject.generation:
        yield (
            f"the newest change of the job (generation {subject.generation}) is not observed yet: this speaks of "
            f"generation {status.observed_generation}"
        )
    yield from subject.problems
    yield from _attempts(sight)
    yield from _queue(sight)
    yield from _jobs(sight)
    yield from pods(sight)
    heard = status.progress.last_report_time if status.progress is not None else None
    if status.phase in (Phase.RUNNING, Phase.PREPARING) and heard is not None and status.progress is not None:
        yield f"the trainer was last heard of {duration((now - heard).total_seconds())} ago" + (
            f", at step {status.progress.summary}" if status.progress.summary else ""
        )
    publication = status.publication
    if publication is not None and publication.next_try is not None:
        wait = duration((publication.next_try - now).total_seconds())
        yield f"try {publication.tries} of the upload failed: {publication.message}; the next one follows in {wait}"


def _attempts(sight: Sight) -> Iterator[str]:
    status = sight.subject.status
    for attempt in status.attempts[-_MANY:]:
        if attempt.end_time is None or attempt.reason == steps.COMPLETED:
            continue
        facts = [
            f"exit code {attempt.exit_code}" if attempt.exit_code is not None else "",
            f"node {attempt.node}" if attempt.node else "",
            f"came to step {attempt.last_step}" if attempt.last_step is not None else "",
        ]
        told = ", ".join(fact for fact in facts if fact)
        yield f"attempt {attempt.number} ended: {attempt.reason}{f' ({told})' if told else ''}: {attempt.message}"
    last = status.attempts[-1] if status.attempts else None
    if last is not None and last.log:
        yield f"the end of its log:\n{last.log.rstrip()}"
    job = sight.subject.job
    if (
        job is not None
        and (since := status.since_checkpoint) is not None
        and (since.restarts or since.disruptions)
    ):
        policy = job.spec.failure_policy
        yield (
            f"since the newest state (step {since.step}) {since.restarts} of {policy.max_restarts} restarts and "
            f"{since.disruptions} of {policy.max_disruptions} disruptions are used up"
        )


def _queue(sight: Sight) -> Iterator[str]:
    if sight.subject.status.phase is not Phase.QUEUED:
        return
    queue = sight.queue
    for condition in (sight.workload or {}).get("status", {}).get("conditions", []):
        if condition.get("message"):
            told = f"{condition['type']}={condition['status']}, {condition.get('reason')}"
            yield f"Workload: {told}: {condition['message']}"
    if queue is None:
        return
    if not queue.exists:
        yield f"there is no LocalQueue {queue.name} in this namespace"
        return
    yield f"queue {queue.name}: {queue.pending} waiting, {queue.admitted} admitted" + (
        f"; it is not active: {queue.words}" if queue.words else ""
    )
    for quota in queue.quotas:
        of = f" of {quota.nominal}" if quota.nominal is not None else ""
        yield f"quota of {quota.resource}: {quota.used}{of} used"


def _jobs(sight: Sight) -> Iterator[str]:
    for job in sight.jobs:
        if job.failed:
            yield f"Job {job.name} failed: {job.words}"
        if job.name in sight.warnings:
            yield f"Job {job.name}: {': '.join(sight.warnings[job.name])}"


def pods(sight: Sight) -> Iterator[str]:
    """Pods that do not run, and what holds them up."""
    waiting = [pod for pod in sight.pods if not pod.running]
    for pod in waiting[:_MANY]:
        where = f" on node {pod.node}" if pod.node else ""
        if pod.end is not None:
            said = pod.end.message or pod.end.words or pod.end.disruption
            words = f"ended with exit code {pod.end.exit_code}" + (f": {said}" if said else "")
        elif pod.deleting:
            words = "is ending"
        elif pod.waiting is not None:
            words = ": ".join(part for part in pod.waiting if part)
        else:
            words = "waits for a node" if pod.node is None else "is being started"
        yield f"pod {pod.name}{where}: {words}"
        if pod.name in sight.warnings:
            yield f"pod {pod.name}, newest warning: {': '.join(sight.warnings[pod.name])}"
    if len(waiting) > _MANY:
        yield f"and {len(waiting) - _MANY} more pods that do not run"
