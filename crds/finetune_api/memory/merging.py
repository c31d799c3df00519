"""Pure: the main memory that merging an adapter into its model takes.

The model is loaded in 16 bits, changed matrix by matrix, and written; then what was written takes its place, to be
compared. So it is there once at a time.
"""

from finetune_api.architecture import Architecture
from finetune_api.memory.activations import BF16, FP32
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import targets, trainable_parameters

# The libraries, what the few tokens take by which models are compared, and what the C library's allocator keeps of
# what is freed: bytes, and percent of the tensors.
_LIBRARIES = 1200 * 2**20
_PERCENT = 10


def merge_memory(recipe: Recipe, architecture: Architecture) -> int | None:
    """Bytes at the peak; None where nothing is merged."""
    if not is_merged(recipe):
        return None
    model = BF16 * architecture.parameters + FP32 * trainable_parameters(recipe, architecture)
    largest = max((each.outputs * each.inputs for each, _ in targets(recipe, architecture)), default=0)
    # B A, the same multiplied, and both the old and the new weights. DoRA's lengths are those of W + B A, in fp32.
    beside = 2 * FP32 + 2 * BF16 + (2 * FP32 if recipe.lora.use_dora else 0)
    return (100 + _PERCENT) * (model + beside * largest) // 100 + _LIBRARIES


def is_merged(recipe: Recipe) -> bool:
    """Whether training is followed by merging."""
    return recipe.method == "lora" and recipe.lora.merge_adapter
