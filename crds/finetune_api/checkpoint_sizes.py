"""Pure: how much space what a job keeps takes on the volume."""

from dataclasses import dataclass

from finetune_api.architecture import Architecture
from finetune_api.memory.widths import BF16, FP32
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import factored, trainable_parameters

# AdamW's running means of gradients and of their squares.
_MOMENTS = 2


@dataclass(frozen=True)
class CheckpointSizes:
    """Bytes of the tensors of each kind; configuration and tokenizer come on top, some megabytes."""

    weights: int
    """A model to load, or an adapter."""
    resume: int
    """The state from which a restart goes on."""
    full_state: int
    """Both together, kept at the end of an epoch."""
    decompositions: int
    """The factors of the base model's matrices, kept once for all jobs that train it with osft; whatever the ratio."""
    merged: int
    """The model with the adapter in it, written once in the end; 0 where nothing is merged."""
    download: int
    """The base model as it comes over the network, kept once for all jobs that train it; 0 where it does not."""


def checkpoint_sizes(recipe: Recipe, architecture: Architecture) -> CheckpointSizes:
    """Sizes of this job's checkpoints.

    A model is stored in the type of the base model, an adapter in the fp32 that it is trained in, and a model that it
    is merged into in 16 bits. The state for restarts is fp32: 4 bytes for a trained weight and 8 for its two moments.
    What osft freezes is in no state: it is among the factors of the base model, which lie beside the jobs' directories.

    A full state is both. An 8B model (8.03e9 weights in bf16) makes (2 + 4 + 8) x 8.03e9 = 112 GB, or 105 GiB. The
    guide's "about 108 GB" lies between those two figures, within 4 % of each; it does not tell how it counts, and
    without the bf16 model it would be 12 x 8.03e9 = 96 GB.
    """
    trained = trainable_parameters(recipe, architecture)
    state = FP32 * (1 + _MOMENTS) * trained
    model = architecture.stored_bytes * architecture.parameters
    weights = FP32 * trained if recipe.method == "lora" else model
    factors = sum(each.count * each.factors for each in factored(recipe, architecture))
    merged = BF16 * architecture.parameters if recipe.is_merged else 0
    download = model if recipe.is_downloaded else 0
    return CheckpointSizes(weights, state, weights + state, FP32 * factors, merged, download)
