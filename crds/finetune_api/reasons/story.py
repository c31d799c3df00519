"""Reasons of events that are not told by a condition or an attempt: what happens in the course of a job."""

from finetune_api.reasons.entry import Chapter, Outlook, Reason

CHAPTER = Chapter(
    "Events along the way",
    "Events of the FineTuneJob (`kubectl describe ftj NAME`); `finetune watch` tells the same.",
    (
        Reason(
            "Accepted",
            "The spec is valid, and the operator has taken the job on. Where nothing is prepared beforehand, the first "
            "attempt begins with it, and the message says so.",
        ),
        Reason(
            "Downloaded", "Model or data are downloaded; which commit of them, and how large, is on record."
        ),
        Reason("Prepared", "The data are prepared; the message says what was found in them."),
        Reason("Started", "An attempt begins: its pods are created."),
        Reason("Continued", "An attempt goes on from a state that an earlier one left."),
        Reason(
            "StartedOver",
            "A later attempt found no state to go on from, and begins at the first step.",
            Outlook.PASSES,
            "Where much was lost by it, lower spec.checkpoints.everyMinutes; look whether somebody removed "
            "files from the volume.",
            "Training goes on.",
        ),
        Reason("CheckpointSaved", "A checkpoint is complete; the message says of what kind, and where."),
        Reason(
            "Baseline",
            "The base model was evaluated before training: what all that follows is compared with.",
        ),
        Reason("Evaluated", "The model was evaluated."),
        Reason("Improved", "The validation loss is the lowest so far."),
        Reason(
            "NotImproved",
            "The validation loss is not the lowest so far.",
            Outlook.PASSES,
            "Where that goes on, training learns the data by heart: fewer epochs, or spec.evaluation.earlyStopping.",
            "Training goes on; the best weights are kept (spec.checkpoints.keepBest).",
        ),
        Reason("StoppedEarly", "Training ended before its last step, as spec.evaluation.earlyStopping asks."),
        Reason(
            "Advice",
            "The course of training is one that the guide advises against; the message has the field and what to do.",
            Outlook.PASSES,
            "Take it into account in the next job, or suspend this one.",
            "Training goes on.",
        ),
        Reason(
            "Restarting",
            "An attempt ended, and another one follows; the message has why.",
            Outlook.PASSES,
            by_itself="The next attempt goes on from the newest state.",
        ),
        Reason("Resumed", "spec.suspend is false again, and the job goes on."),
        Reason("Succeeded", "The job is done; the message says where the result is."),
        Reason(
            "Failed",
            "The job has failed for good, and keeps nothing running.",
            Outlook.ACT,
            "The reason of its conditions says why (`finetune explain NAME`). Correct that in a new "
            "FineTuneJob: its checkpoints of kind weights can be another job's model.",
        ),
        Reason(
            "PublishFailed",
            "The result could not be uploaded; it is complete on the volume.",
            Outlook.PASSES,
            "The message has why: often the Secret's rights.",
            "The upload is tried again, up to 24 times, at first after a minute, later every hour. A change of "
            "spec.publish begins anew.",
        ),
        Reason(
            "Recreated",
            "Something that pods need was deleted, and the operator has made it again.",
            Outlook.PASSES,
            "See who deletes it.",
            "Pods go on.",
        ),
        Reason(
            "CleanedUp",
            "ttlSecondsAfterFinished is over: Jobs, pods and the like are gone. The FineTuneJob and its volume "
            "are untouched.",
        ),
    ),
)
