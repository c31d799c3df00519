"""Pure: how much space each kind of checkpoint takes on the volume."""

from dataclasses import dataclass

from finetune_api.architecture import Architecture
from finetune_api.memory.activations import FP32
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import counts

# AdamW's running means of gradients and of their squares.
_MOMENTS = 2


@dataclass(frozen=True)
class CheckpointSizes:
    """Bytes of the tensors of a checkpoint; configuration and tokenizer come on top, some megabytes."""

    weights: int
    """A model to load, or an adapter."""
    resume: int
    """The state from which a restart goes on."""
    full_state: int
    """Both together, kept at the end of an epoch."""


def checkpoint_sizes(recipe: Recipe, architecture: Architecture) -> CheckpointSizes:
    """Sizes of this job's checkpoints.

    A model is stored in the type of the base model, an adapter in the fp32 that it is trained in. The state for
    restarts is fp32: 4 bytes for a trained weight and 8 for its two moments; with osft also the frozen factors, for a
    second decomposition need not give the same ones.

    A full state is both. An 8B model (8.03e9 weights in bf16) makes (2 + 4 + 8) x 8.03e9 = 112 GB, or 105 GiB. The
    guide's "about 108 GB" lies between those two figures, within 4 % of each; it does not tell how it counts, and
    without the bf16 model it would be 12 x 8.03e9 = 96 GB.
    """
    numbers = counts(recipe, architecture)
    state = FP32 * (1 + _MOMENTS) * numbers.trained
    if recipe.method == "lora":
        weights = FP32 * numbers.trained
    else:
        weights = architecture.stored_bytes * architecture.parameters
        state += FP32 * numbers.frozen
    return CheckpointSizes(weights, state, weights + state)
