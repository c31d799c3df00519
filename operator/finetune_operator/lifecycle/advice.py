"""Pure: what would help a job that ended so, in its own values, where they are known."""

from finetune_api import names
from finetune_api.scalars import amount
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus
from finetune_api.units import GIB, gib

# The preparation's pod has no limit of its own (see pods.py).
_OOM_KILLED_PREPARING = (
    "The pod that prepares the data sets itself no limit: a LimitRange of the namespace does, or the node's memory. "
    "Raise it, or have the training pods prepare the data (spec.dataset.prepare: Inline)."
)
# Nor has that of the merging.
_OUT_OF_MEMORY_MERGING = (
    "The pod that merges the adapter sets itself no limit: a LimitRange of the namespace does, "
    "or the node's memory"
)
# Nor has that of the upload.
_OOM_KILLED_PUBLISHING = (
    "The pod that uploads the result sets itself no limit: a LimitRange of the namespace does, "
    "or the node's memory."
)


def for_attempt(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, str]:
    """What helps against the end of the newest attempt, by the reason of its cause."""
    log = _where_the_log_is(job, status.attempts[-1].number)
    return {
        "OOMKilled": _more_memory(job, status),
        "Error": log,
        "Killed": log,
        "CollectiveTimeout": log,
        **_more_storage(job, status),
    }


def for_preparation(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, str]:
    """What helps against the end of the preparation, by the reason of its cause."""
    return {
        "OOMKilled": _OOM_KILLED_PREPARING,
        "Error": _where_the_log_is(job, names.PREPARATION),
        **_more_storage(job, status),
    }


def for_merging(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, str]:
    """What helps against the end of the merging, by the reason of its cause."""
    needed = status.plan.merge_memory if status.plan is not None else None
    memory = f"{_OUT_OF_MEMORY_MERGING}{f'; merging takes some {gib(needed)}' if needed else ''}."
    return {
        "OOMKilled": memory,
        "OutOfMemory": memory,
        "Error": _where_the_log_is(job, names.MERGING),
        **_more_storage(job, status),
    }


def for_publishing(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, str]:
    """What helps against the end of an upload, by the reason of its cause."""
    return {
        "OOMKilled": _OOM_KILLED_PUBLISHING,
        "Error": _where_the_log_is(job, names.PUBLISHING),
    }


def to_merge_by_hand(job: FineTuneJob) -> str:
    """That a job whose merging failed has its adapter all the same, and what can be done with that."""
    return (
        f"The adapter is untouched, in {job.storage_path}/{names.OUTPUT_DIR} on claim {job.storage_claim}. "
        "In the trainer's image, finetune-trainer merge --model DIR --adapter DIR --output DIR merges it."
    )


def _where_the_log_is(job: FineTuneJob, attempt: int) -> str:
    directory = f"{job.storage_path}/{names.attempt_logs(attempt)}"
    return f"Its logs are in {directory} on claim {job.storage_claim}."


def _more_storage(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, str]:
    needed = status.plan.storage_bytes if status.plan is not None else None
    if needed is None:
        return {}
    claim = job.storage_claim
    return {"StorageFull": f"The whole run takes {gib(needed)} of claim {claim} (spec.storage.claimName)."}


def _more_memory(job: FineTuneJob, status: FineTuneJobStatus) -> str:
    limit, needed = job.spec.resources.requests.memory, _needed(job, status)
    if limit is None:
        advice = (
            "The pods state no limit: a LimitRange of the namespace does, or it was the node's memory. "
            "Set spec.resources.requests.memory"
        )
    else:
        advice = f"The limit is spec.resources.requests.memory: {limit}. Raise it"
        if needed is not None and needed <= amount(limit):
            # The plan was too low, so it knows no better.
            needed = None
    if needed is not None:
        advice += f", to {-(-needed // GIB)}Gi at least"
    if job.spec.resources.gpus_per_node == 0:
        advice += ", or lower spec.hyperparameters.maxTokensPerGpu"
        if status.plan is not None and status.plan.max_tokens_per_gpu is not None:
            advice += f" ({status.plan.max_tokens_per_gpu} now)"
    return f"{advice}."


def _needed(job: FineTuneJob, status: FineTuneJobStatus) -> int | None:
    """Bytes that a pod needs, where that is known: without GPUs, all that training holds is in its memory."""
    if job.spec.resources.gpus_per_node > 0 or status.plan is None:
        return None
    peak = status.progress.peak_memory if status.progress is not None else None
    planned = status.plan.memory_per_gpu.high if status.plan.memory_per_gpu is not None else None
    return max((size for size in (peak, planned) if size is not None), default=None)
