"""Pure: Kueue, as far as a gang that waits in one of its queues has to do with it.

A gang's Job is made suspended and carries the queue's label. Kueue makes a Workload of it, and sets the Job going once
there is quota for all pods; to preempt it, Kueue suspends the same Job again. So `spec.suspend` is Kueue's from the
moment the Job is made, and nobody else ever writes it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.queueing import Queueing
from finetune_api.scheduling import Scheduling
from finetune_api.status import FineTuneJobStatus, Phase

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
# Workloads carry the uid of the Job that they were made of; their names are no contract.
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
GROUP = "kueue.x-k8s.io"
# The newest first; an older Kueue serves the second only.
VERSIONS = ("v1beta2", "v1beta1")

# What a gang waits for where Kueue has not said anything.
QUEUED = "Queued"
PREEMPTED = "Preempted"
INADMISSIBLE = "Inadmissible"

# Phases in which a gang has been let go on by its queue.
ADMITTED = (Phase.STARTING, Phase.PREPARING, Phase.RUNNING)


def labels(scheduling: Scheduling) -> dict[str, str]:
    """What has a Job wait in the queue; nothing where there is none."""
    named = {QUEUE_LABEL: scheduling.queue_name, PRIORITY_LABEL: scheduling.workload_priority_class_name}
    return {label: value for label, value in named.items() if value is not None}


def wait(workload: Mapping[str, Any] | None, queue: str, priority: str | None) -> tuple[str, str]:
    """Why a gang waits, as a word and a sentence, in Kueue's own words as far as there are any.

    `workload` is what Kueue has made of its Job; None if that cannot be seen. `priority` is the WorkloadPriorityClass
    that it names.
    """
    queue = f"in queue {queue}"
    if workload is None:
        classes = f", the WorkloadPriorityClass {priority} exists," if priority else ""
        return QUEUED, (
            f"{queue}: no Workload of Kueue is seen; see that Kueue is installed and manages batch/v1 Jobs{classes} "
            "and that the operator may read Workloads"
        )
    told = {condition["type"]: condition for condition in workload.get("status", {}).get("conditions", [])}
    reserved, evicted, admitted = (told.get(type_, {}) for type_ in ("QuotaReserved", "Evicted", "Admitted"))
    pending = reserved if reserved.get("status") != "True" else admitted
    reason, message = pending.get("reason") or QUEUED, pending.get("message", "")
    if evicted.get("status") == "True":
        reason = evicted.get("reason", reason)
        message = ". ".join(part.rstrip(".") for part in (evicted.get("message", ""), message) if part)
    return reason, f"{queue}: {message or 'Kueue has not looked at it yet'}"


def named(known: Queueing | None, queue: str) -> Queueing:
    """What is known of a job's way through its queue, which may be another one now."""
    return Queueing(name=queue) if known is None else known.model_copy(update={"name": queue})


def waits(status: FineTuneJobStatus, queue: str, now: datetime) -> FineTuneJobStatus:
    """The status of a job whose gang waits in its queue; one that ran before was preempted."""
    known = named(status.queue, queue)
    preempted = status.phase in ADMITTED
    update = {"waiting_since": known.waiting_since or now, "preemptions": known.preemptions + preempted}
    return status.model_copy(update={"phase": Phase.QUEUED, "queue": known.model_copy(update=update)})


def waits_no_more(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status with the time that a wait took, once it is over."""
    queue = status.queue
    if queue is None or queue.waiting_since is None or status.phase is Phase.QUEUED:
        return status
    waited = queue.waited_seconds + max(0, int((now - queue.waiting_since).total_seconds()))
    update = {"queue": queue.model_copy(update={"waiting_since": None, "waited_seconds": waited})}
    return status.model_copy(update=update)
