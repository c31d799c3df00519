"""Pure: the main memory that merging an adapter into its model takes.

The model is loaded in 16 bits, changed matrix by matrix, and written; then what was written takes its place, to be
compared. So it is there once at a time.
"""

from finetune_api.architecture import Architecture
from finetune_api.memory.widths import BF16, FP32
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import targets, trainable_parameters

# The libraries take half of it; the rest is for what the C library's allocator keeps of what is freed: bytes,
# and percent of the tensors.
_LIBRARIES = 800 * 2**20
_PERCENT = 10


def merge_memory(recipe: Recipe, architecture: Architecture) -> int | None:
    """Bytes at the peak; None where nothing is merged.

    The model's files are mapped: what is read of them is in memory as long as nothing else needs that, and not counted.
    """
    if not recipe.is_merged:
        return None
    a = architecture
    model = BF16 * a.parameters + FP32 * trainable_parameters(recipe, a)
    # A matrix in 32 bits on its way into 16, twice.
    reading = 0 if a.stored_bytes == BF16 else 2 * FP32 * a.vocabulary * a.hidden_size
    # The old weights and the new ones, and in fp32 B A, the same multiplied, and their sum; DoRA has one more.
    beside = 2 * BF16 + FP32 * (4 if recipe.lora.use_dora else 3)
    changing = beside * max((each.outputs * each.inputs for each, _ in targets(recipe, a)), default=0)
    return (100 + _PERCENT) * (model + max(reading, changing)) // 100 + _LIBRARIES
