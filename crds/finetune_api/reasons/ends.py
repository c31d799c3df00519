"""Reasons for which attempts end, and with them, where nothing more may be tried, the job.

What follows from them and what to do about them is failure.py's to say; here stands what they mean.
"""

from finetune_api import failure
from finetune_api.failure import CAUSES, Cause, ExitCode, Recovery
from finetune_api.reasons.entry import Chapter, Outlook, Reason

_FOLLOWS = {
    Recovery.RESUME: "The next attempt goes on from the newest state, at the cost of one of "
    "spec.failurePolicy.maxDisruptions.",
    Recovery.RESTART: "The next attempt goes on from the newest state, at the cost of one of "
    "spec.failurePolicy.maxRestarts; where none is left, the job has failed.",
    Recovery.FAIL: (
        "The job has failed at once, for it would happen again. States and checkpoints stay on the volume."
    ),
}


def _reason(cause: Cause, means: str, remedy: str = "") -> Reason:
    """`remedy` is what people can do; of one that the verdict's message has already, only that is told."""
    follows = _FOLLOWS[cause.recovery]
    if cause.patience is not None:
        follows += f" After {cause.patience + 1} such ends without a new step in between, too."
    outlook = Outlook.ACT if cause.recovery is Recovery.FAIL else Outlook.PASSES
    return Reason(cause.reason, means, outlook, " ".join(filter(None, (cause.advice, remedy))), follows)


CHAPTER = Chapter(
    "How attempts end",
    "In `status.attempts[].reason`; while the job is Restarting and once it is Failed, in the conditions, too.",
    (
        _reason(
            CAUSES[ExitCode.ERROR],
            "A process ended with an error that has no name of its own.",
            "Read the end of its log in status.attempts[].log, or all of it with `finetune logs`.",
        ),
        _reason(
            CAUSES[ExitCode.INVALID_DATA],
            "The data cannot be trained on; the message names file, line and fault.",
            "Correct the data. `finetune plan --dataset` finds the same faults beforehand; "
            "dataset.invalidRows: Drop leaves bad rows out.",
        ),
        _reason(
            CAUSES[ExitCode.OUT_OF_MEMORY],
            "The GPU's memory is not enough for a single sample, after the token budget of a micro-batch was "
            "halved down to that.",
            "`finetune plan` shows what takes how much, and what would fit.",
        ),
        _reason(CAUSES[ExitCode.STORAGE_FULL], "The storage claim is full. What was complete stays."),
        _reason(
            CAUSES[ExitCode.SMALLER_BUDGET],
            "The GPU's memory ran out: the token budget of a micro-batch was halved and the step repeated, "
            "mostly without ending a pod. The result stays the same.",
            "Nothing need be done. State spec.resources.gpuMemory, or a smaller maxTokensPerGpu, to have it "
            "right from the start.",
        ),
        _reason(
            CAUSES[ExitCode.UNTRUSTED_FILE],
            "A file is not what this run wrote, or of a kind that can run code, and was not opened.",
            "The message names the file. Have weights as safetensors; remove a directory that others wrote to.",
        ),
        _reason(
            CAUSES[ExitCode.ACCESS_DENIED],
            "A hub, an object store or the volume refuses access.",
            "Look after the Secret that the message names, its key, and what its owner may read or write.",
        ),
        _reason(
            CAUSES[ExitCode.INVALID_CONFIGURATION],
            "What the spec says does not go with the model, the data or the volume; the message names the field.",
            "Correct that field in a new FineTuneJob.",
        ),
        _reason(
            CAUSES[ExitCode.LOSS_NOT_FINITE],
            "Loss or gradient became no number; no weight was changed by it. The message has the step and the rows.",
        ),
        _reason(
            CAUSES[ExitCode.KILLED],
            "A container was killed (exit code 137), and not for its own memory limit: by hand, or by a node "
            "short of memory.",
            "Where it repeats, set spec.resources.requests.memory to what it needs.",
        ),
        _reason(
            CAUSES[ExitCode.TERMINATED],
            "The pod was asked to go, and saved its state.",
            "Nothing need be done.",
        ),
        _reason(
            CAUSES[ExitCode.COLLECTIVE_TIMEOUT],
            "The processes of the gang did not hear one another for ten minutes, or never met.",
            "Where it repeats: is the network between these nodes sound, and does no NetworkPolicy of yours "
            "come between the job's pods?",
        ),
        _reason(
            CAUSES[ExitCode.GPU_ERROR],
            "A GPU or its driver failed (Xid, ECC).",
            "Have the node that the attempt names looked at.",
        ),
        _reason(
            failure.DISRUPTED,
            "The cluster took a pod away: an eviction, a preemption, a drain, a node that was shut down or lost.",
            "Nothing need be done.",
        ),
        _reason(
            failure.EVICTED,
            "The node ran short of memory or disk, and its kubelet took the pod away for that.",
        ),
        _reason(failure.LIMIT_EXCEEDED, "The pod took more shared memory or storage than its own limit."),
        _reason(failure.START_ERROR, "The container could not be started; the kubelet's words tell why."),
        _reason(
            failure.REJECTED,
            "The node would not have the pod, though it was scheduled there: devices or room were gone.",
        ),
        _reason(
            failure.CONTAINER_LOST, "The container was lost: its node or the container runtime was restarted."
        ),
        _reason(
            failure.VANISHED,
            "The pod is gone, and nobody saw how it ended: it was deleted by force, or its node was.",
        ),
        _reason(
            failure.HUNG,
            "Nothing was heard of the trainer for spec.failurePolicy.progressDeadlineSeconds, though its pods ran.",
            "`finetune logs` shows what it did last. Where it repeats at the same place, look after the "
            "volume's speed.",
        ),
        _reason(
            failure.NOT_STARTED,
            "The pods did not all run, or the trainer was not heard of, within "
            "spec.failurePolicy.startupDeadlineSeconds. The message has what held them up.",
        ),
        _reason(
            failure.OVERDUE,
            "The job did not succeed within spec.failurePolicy.activeDeadlineSeconds. The state was saved.",
        ),
        _reason(failure.OOM_KILLED, "The container used more main memory than its limit, and was killed."),
    ),
)
