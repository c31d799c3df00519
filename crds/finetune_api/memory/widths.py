"""How many bytes a number takes."""

from finetune_api.recipe import Recipe

FP32 = 4
BF16 = 2
INT64 = 8
BOOL = 1


def number_width(recipe: Recipe) -> int:
    """Bytes of a number in the forward pass: bf16 on GPUs, fp32 without."""
    return BF16 if recipe.on_gpu else FP32
