"""Rules about memory and space."""

from finetune_api.checkpoint_sizes import checkpoint_sizes
from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.guideline import guideline
from finetune_api.recipe import USABLE_GPU_MEMORY
from finetune_api.units import gib

_FIELD = "spec.resources.gpuMemory"
# Longer warnings are hard to read, the field included. API servers cut one at 256 characters, but only where all of an
# answer's warnings have more than 4,096.
MAX_WARNING = 320


@guideline("General advice", Severity.WARNING, _FIELD)
def memory_exceeded(case: Case) -> str | None:
    """What a job needs per GPU must fit. Shorter samples, more GPUs, a lower unfreezeRankRatio, lora, or a model in 4
    or 8 bits need less."""
    if case.need is None or case.recipe.gpu_memory is None or not case.exceeds(case.need):
        return None
    text = (
        f"needs about {gib(case.need)} per GPU{case.judging}, more than {USABLE_GPU_MEMORY:.0%} of "
        f"{gib(case.recipe.gpu_memory)}"
    )
    if not case.remedies:
        return f"{text}: take larger GPUs or a smaller model"
    text += f". Fits: {case.remedies[0]}"
    for remedy in case.remedies[1:]:
        longer = f"{text}; or {remedy}"
        if len(f"{_FIELD}: {longer}") > MAX_WARNING:
            break
        text = longer
    return text


@guideline("General advice", Severity.NOTE, _FIELD)
def memory_short(case: Case) -> str | None:
    """An estimate has a margin: where its upper end does not fit, a run may still get through."""
    need, memory = case.plan.memory_per_gpu, case.recipe.gpu_memory
    if need is None or memory is None or not case.is_short or case.exceeds(need.estimate):
        return None
    return (
        f"{gib(need.low)} to {gib(need.high)} are needed per GPU{case.judging}, and there are {gib(memory)}: lower "
        "maxTokensPerGpu or maxSeqLen if memory runs out"
    )


@guideline("General advice", Severity.NOTE, _FIELD)
def gpu_memory_unknown(case: Case) -> str | None:
    """With gpuMemory stated, the plan tells whether a job fits and chooses the largest micro-batch that does."""
    if not case.recipe.on_gpu or case.recipe.gpu_memory is not None:
        return None
    return (
        "state it, such as 80Gi, to learn whether the job fits, and to get the largest micro-batch that fits"
    )


@guideline("Full-state checkpointing", Severity.WARNING, "spec.checkpoints.fullStateAtEpoch")
def full_state_cost(case: Case) -> str | None:
    """A full state holds the model and, in FP32, its weights and AdamW's two moments, 14 bytes per weight with a 16-bit
    model: 112 GB (105 GiB) for 8.03 billion weights, each epoch. It is for going on from any epoch; restarts do not
    need it."""
    if not case.recipe.checkpoints.full_state_at_epoch:
        return None
    use = "Restarts do not need it: keep it only to go on training from any epoch"
    if case.model is None:
        return f"each epoch keeps about 14 bytes per weight, 105 GiB for a model of 8 billion. {use}"
    sizes = checkpoint_sizes(case.recipe, case.model.architecture)
    epochs = case.plan.num_epochs
    return (
        f"each epoch keeps {gib(sizes.full_state)}{case.judging}: {gib(sizes.weights)} of model and "
        f"{gib(sizes.resume)} of state, in all {gib(epochs * sizes.full_state)}. {use}"
    )


RULES = (memory_exceeded, memory_short, gpu_memory_unknown, full_state_cost)
