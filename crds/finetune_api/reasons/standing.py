"""Reasons by which the conditions tell where a job stands."""

from finetune_api.reasons.entry import Chapter, Outlook, Reason

CHAPTER = Chapter(
    "Where a job stands",
    "In the conditions `Ready`, `Progressing`, `Prepared` and, of an upload, `Published`.",
    (
        Reason(
            "Valid",
            "The spec is valid: the condition `Accepted` says so once and for all.",
        ),
        Reason(
            "Invalid",
            "The spec is not valid, or asks for more than the administrator allows; the message has every fault "
            "with its field. Nothing runs.",
            Outlook.ACT,
            "Correct the fields that the message names and apply the manifest again: as a new FineTuneJob, for "
            "this one stays failed unless it is suspended. `finetune validate FILE` checks it without a "
            "cluster, and without what the administrator has set (docs/policies.md).",
        ),
        Reason(
            "StatusUnreadable",
            "The status has a field, or a value, that this version of the operator does not know: a newer version "
            "wrote it, or somebody by hand. It is neither believed nor thrown away: pods may run that only it tells "
            "of. Told by an event and by the conditions Ready, Reconciling and Stalled; all else of the status stays "
            "as it was.",
            Outlook.ACT,
            "Install the version of the operator that wrote it, or mend the field that the message names: kubectl edit "
            "finetunejob NAME --subresource=status. Until then pods go on, and nobody follows them.",
            "The operator looks again whenever the job changes, and every five minutes.",
        ),
        Reason(
            "NameConflict",
            "Another object has a name that this job's objects need, and it does not belong to this job. It is "
            "left alone.",
            Outlook.ACT,
            "Delete or rename the object that the message names, or give the FineTuneJob another name.",
            "The operator looks again, at first after seconds, later every five minutes.",
        ),
        Reason(
            "Refused",
            "The API server does not let the job's objects be made: a quota, an admission policy, a webhook that "
            "does not answer, or rights that the operator lacks. Or the administrator does not allow "
            "spec.trainerImage any more. The message has the answer.",
            Outlook.ACT,
            "Do what the answer asks for: raise the namespace's quota, or change the job so that the policy "
            "admits it. Whoever administers the cluster knows the policies.",
            "The operator tries again, at first after seconds, later every five minutes.",
        ),
        Reason(
            "CreatingPods",
            "The pods of the next step are being created, and get to run.",
            by_itself="Where they do not run after fifteen seconds, or something keeps them from it, another reason "
            "says so.",
        ),
        Reason(
            "WaitingForPods",
            "Pods of what came before are still ending. Nothing starts beside them: both would write to the "
            "same volume.",
            Outlook.PASSES,
            remedy="Nothing, unless the message names pods whose Job is gone: those end by themselves, or whoever "
            "does not need them deletes them.",
            by_itself="The next step begins when the last of them is gone: after the grace period at the latest "
            "(spec.failurePolicy.gracePeriodSeconds).",
        ),
        Reason(
            "WaitingForCleanup",
            "Objects of a deleted FineTuneJob of the same name are still going.",
            Outlook.PASSES,
            by_itself="The job begins when they are gone.",
        ),
        Reason(
            "WaitingForNode",
            "Pods that should have ended long ago are still there, because nobody hears of their node. They "
            "may still be writing to the volume, so nothing starts beside them.",
            Outlook.ACT,
            "If the machine is off for good, delete its Node object; if it is off and will be back, taint it "
            "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute. The message has both commands.",
            "The job goes on when the node is back.",
        ),
        Reason(
            "PodsPending",
            "Pods are there and do not run yet, or the Job controller has not created them yet.",
            Outlook.PASSES,
            "Where it lasts, `kubectl describe job` and `kubectl describe pod` tell what holds them up: often "
            "a ResourceQuota of the namespace.",
            "After spec.failurePolicy.startupDeadlineSeconds the attempt is given up and counted as a restart.",
        ),
        Reason(
            "WaitingForReport",
            "All pods run, and the trainer has not been heard of yet: Python and its libraries are being loaded.",
            Outlook.PASSES,
            "Where it lasts for minutes, look at the log (`finetune logs`), and whether a NetworkPolicy keeps "
            "pods from the operator's report endpoint.",
            "After spec.failurePolicy.startupDeadlineSeconds the attempt is given up.",
        ),
        Reason(
            "TrainerRunning",
            "The gang runs, and this operator, which was restarted, waits for its next report.",
            by_itself="It comes within minutes; training is not disturbed.",
        ),
        Reason("TrainerStarting", "The trainer's process is up, and checks its configuration."),
        Reason("Downloading", "The model or data come over the network; the message has how far."),
        Reason(
            "Preparing",
            "The data are read, validated and tokenised. On a CPU pod of their own this holds no GPU.",
        ),
        Reason("Loading", "The model is being loaded; with osft its matrices are being decomposed."),
        Reason("Training", "Training is under way."),
        Reason("Evaluating", "The model is evaluated; training goes on afterwards."),
        Reason("Merging", "The model is trained, and the adapter is being merged into it."),
        Reason(
            "Finishing",
            "The trainer has come to its end, and its pods are ending. A pod ends when all of its containers have: one "
            "that a service mesh has added may go on for ever, and the message names it.",
            Outlook.PASSES,
            "Where containers go on that are not the operator's, have whatever adds them leave out pods with the label "
            "finetune.dev/job (docs/install.md), and start the job again.",
            "What it came to is told when they have. Otherwise it is taken for hung after "
            "spec.failurePolicy.progressDeadlineSeconds.",
        ),
        Reason(
            "Ending",
            "Pods of the attempt, or its Job, are gone; how the others end is waited for, for it tells why.",
            Outlook.PASSES,
            by_itself="The attempt is judged when they have ended.",
        ),
        Reason(
            "Retrying",
            "The pod of a step (preparation, merging, upload) failed, and its Job starts another one.",
            Outlook.PASSES,
            "The message has why it failed; where that does not pass, correct it.",
            "As many times as spec.failurePolicy.maxRestarts allows.",
        ),
        Reason("DataPrepared", "The data are prepared; the message says what was found in them."),
        Reason("Completed", "Everything was done. The result is in status.output."),
        Reason(
            "Suspending",
            "spec.suspend is true: the state is being saved, and the pods are ending.",
            by_itself="The job is Suspended when nothing of it runs any more.",
        ),
        Reason(
            "Suspended",
            "spec.suspend is true: nothing of the job runs, and its state is kept on the volume. Of an "
            "attempt: it was ended by that, at no cost.",
            Outlook.ACT,
            "Set spec.suspend to false; training goes on from the newest state. Meanwhile spec.resources and "
            "spec.scheduling may be changed.",
        ),
        Reason("NotSuspended", "The job is not suspended."),
        Reason("Publishing", "The result is complete, and is being uploaded."),
        Reason("Published", "The result is where spec.publish says."),
    ),
)
