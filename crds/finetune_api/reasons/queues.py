"""Reasons of Kueue's, by which the conditions tell why a gang waits in its queue."""

from finetune_api.reasons.entry import Chapter, Outlook, Reason

_WAITS = "The gang starts when the queue admits it. Time in the queue counts against no deadline."

CHAPTER = Chapter(
    "In the queue",
    "In the conditions while the phase is Queued (scheduling.queueName), with the words of Kueue's Workload; "
    "and in events.",
    (
        Reason(
            "Queued",
            "The gang waits in its queue, which has given no reason yet.",
            Outlook.PASSES,
            "Where it lasts, is Kueue running, and does scheduling.workloadPriorityClassName name a class that "
            "exists? `kubectl describe localqueue` shows the queue.",
            _WAITS,
        ),
        Reason(
            "JobSuspended",
            "Kueue holds the gang's Job suspended.",
            Outlook.PASSES,
            "See what its Workload says: `kubectl describe workload`.",
            _WAITS,
        ),
        Reason(
            "Pending",
            "The quota of the queue is used up by others, or the job asks for more than there is of it at all.",
            Outlook.PASSES,
            "Where the message says 'maximum capacity' or 'unavailable in ClusterQueue', it can never be "
            "admitted: ask for less (spec.resources, while suspended), or for another queue. Otherwise wait, "
            "or raise its priority (scheduling.workloadPriorityClassName).",
            _WAITS,
        ),
        Reason(
            "Inadmissible",
            "The queue does not take it: there is no such LocalQueue, its ClusterQueue is stopped or missing, "
            "or does not serve this namespace.",
            Outlook.ACT,
            "`kubectl get localqueues` lists the queues of the namespace: correct scheduling.queueName while "
            "the job is suspended, or have the queue made or started.",
            "The gang starts once the queue exists and has quota.",
        ),
        Reason(
            "Preempted",
            "A job of higher priority, or another queue that lent its quota, took the gang's place. Its pods "
            "saved their state.",
            Outlook.PASSES,
            "Nothing need be done; a higher workload priority class keeps it from being preempted.",
            "It is in the queue again and goes on from the newest state when it is admitted. That is no new "
            "attempt, and charged to no budget.",
        ),
        Reason(
            "ClusterQueueStopped",
            "An administrator has stopped the ClusterQueue and drained it.",
            Outlook.ACT,
            "Ask whoever administers the queue (spec.stopPolicy of the ClusterQueue).",
            "The gang goes on from the newest state once the queue is started.",
        ),
        Reason(
            "LocalQueueStopped",
            "The LocalQueue was stopped and drained.",
            Outlook.ACT,
            "Ask whoever administers the queue (spec.stopPolicy of the LocalQueue).",
            "The gang goes on from the newest state once the queue is started.",
        ),
        Reason(
            "Deactivated",
            "Somebody, or Kueue after too many tries, has set spec.active of the Workload to false.",
            Outlook.ACT,
            'Set it to true: `kubectl patch workload NAME --type merge -p \'{"spec": {"active": true}}\'`.',
        ),
        Reason(
            "PodsReadyTimeout",
            "Kueue took the gang back because its pods were not ready within the time that it allows.",
            Outlook.PASSES,
            "See why pods did not run: `finetune explain` while they are there, and their events.",
            "Kueue puts it into the queue again.",
        ),
        Reason(
            "AdmissionCheck",
            "A check that the ClusterQueue asks for (such as a node being provisioned) is not done or has failed.",
            Outlook.PASSES,
            "The Workload's status.admissionChecks says which one.",
            _WAITS,
        ),
        Reason(
            "NodeFailures",
            "Kueue took the gang back because a node that its topology placed it on has failed.",
            Outlook.PASSES,
            by_itself="Kueue puts it into the queue again.",
        ),
        Reason("Admitted", "The queue has admitted the gang; its pods are being created."),
        Reason(
            "QuotaReserved",
            "The queue keeps quota for the gang, and its admission checks are still to be done.",
            Outlook.PASSES,
            by_itself=_WAITS,
        ),
    ),
)
