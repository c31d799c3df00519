"""Pure: a plan, with what was chosen and why, as the page shows it."""

from finetune_api.spec import FineTuneJob
from finetune_api.status import MemoryEstimate, Plan, Progress
from finetune_api.units import billions, size
from finetune_operator.page import words
from finetune_operator.page.overview import View

MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits",
    "framework": "framework",
    "saving": "copy being saved",
}


def plan(found: Plan, job: FineTuneJob | None, progress: Progress | None) -> View:
    """What is trained, in numbers."""
    return {
        "settings": _settings(found),
        "course": _facts(
            {
                "Processes": words.count(found.world_size),
                "Steps": found.total_steps and _steps(found),
                "Micro-batches per process and step": _micro_batches(found),
                "Trained weights": found.trainable_parameters and billions(found.trainable_parameters),
                "Activations": found.activation_checkpointing is not None
                and ("recomputed" if found.activation_checkpointing else "kept"),
                "Each checkpoint": found.checkpoint_bytes and size(found.checkpoint_bytes),
                "State for restarts": found.resume_bytes and size(found.resume_bytes),
                "Full state": found.full_state_bytes and size(found.full_state_bytes),
                "Whole run on the volume": found.storage_bytes and size(found.storage_bytes),
            }
        ),
        "memory": found.memory_per_gpu and _memory(found.memory_per_gpu, job, progress),
        "assumptions": list(found.assumptions),
        "warnings": [{"field": one.field, "message": one.message} for one in found.warnings],
    }


def _settings(found: Plan) -> list[View]:
    values: dict[str, float | None] = {
        "spec.hyperparameters.learningRate": found.learning_rate,
        "spec.hyperparameters.effectiveBatchSize": found.effective_batch_size,
        "spec.hyperparameters.numEpochs": found.num_epochs,
        "spec.hyperparameters.maxSeqLen": found.max_seq_len,
        "spec.hyperparameters.maxTokensPerGpu": found.max_tokens_per_gpu,
    }
    reasons = {choice.field: choice.reason for choice in found.chosen}
    for choice in found.chosen:
        values.setdefault(choice.field, choice.value)
    return [
        {
            "name": field.rpartition(".")[2],
            "field": field,
            "value": words.figure(value, digits=6),
            "reason": reasons.get(field, "as the spec says"),
        }
        for field, value in values.items()
        if value is not None
    ]


def _steps(found: Plan) -> str:
    each = f" ({found.steps_per_epoch:,} per epoch)" if found.steps_per_epoch else ""
    return f"{found.total_steps:,}{each}"


def _micro_batches(found: Plan) -> str | None:
    many = found.micro_batches_per_step
    if many is None:
        return None
    return f"{many.max:,}" if many.min == many.max else f"{many.min:,} to {many.max:,}"


def _memory(need: MemoryEstimate, job: FineTuneJob | None, progress: Progress | None) -> View:
    on_gpu = job is not None and job.spec.resources.gpus_per_node > 0
    limit = job.spec.resources.gpu_memory_bytes if job is not None and on_gpu else None
    peak = progress.peak_memory if progress else None
    parts = {label: getattr(need.parts, field) for field, label in MEMORY_PARTS.items()}
    return {
        "of": "GPU" if on_gpu else "process",
        "estimate": {"bytes": need.estimate, "text": size(need.estimate)},
        "range": f"{size(need.low)} to {size(need.high)}",
        "limit": limit and {"bytes": limit, "text": size(limit)},
        "peak": peak and {"bytes": peak, "text": size(peak)},
        "parts": [{"label": label, "bytes": n, "text": size(n)} for label, n in parts.items() if n],
    }


def _facts(found: dict[str, object]) -> list[View]:
    return [{"label": label, "value": value} for label, value in found.items() if value]
