"""Pure: what lora holds: the frozen model, what adapters save for the backward pass, and whole matrices for a moment.

The terms are what peft and bitsandbytes allocate with the trainer's adapters/. Of a layer of N outputs and M inputs, A
is r x M and B is N x r.
"""

from collections.abc import Iterator

from finetune_api.architecture import Architecture, Linear
from finetune_api.memory.widths import BF16, BOOL, FP32, number_width
from finetune_api.recipe import Recipe
from finetune_api.splitting import blocks_per_gpu
from finetune_api.trained_weights import lora_r, targets, trainable_parameters


def most_blocks(recipe: Recipe, architecture: Architecture) -> int:
    """Blocks of the GPU that has most of them: all, unless the model is split."""
    return max(_dealt(recipe, architecture))


def base_bytes(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes of the frozen model, of which every process has a whole copy; if it is split, of the largest part.

    Only the blocks' linear layers are quantised. 8 bits: one byte per weight and an fp32 scale per row. 4 bits (nf4
    with double quantisation): half a byte per weight; one byte of scale for each 64 weights, and for each 256 of
    those scales one in fp32, together 8/64 + 32/(64 x 256) = 0.127 bits per weight.
    """
    a, number = architecture, number_width(recipe)
    quantised = rows = 0
    if recipe.lora.is_quantized:
        quantised = sum(each.count * each.outputs * each.inputs for each in a.linears)
        rows = sum(each.count * each.outputs for each in a.linears)
    if recipe.lora.load_in_4bit:
        held = quantised // 2 + quantised // 64 + FP32 * quantised // (64 * 256)
    else:
        held = quantised + FP32 * rows
    embedding, head = number * a.embedding_parameters, number * a.head_parameters
    norms = number * a.other_parameters
    blocks = held + number * (a.parameters - quantised) - embedding - head - norms
    # Norms are so small that one GPU may have them all.
    parts = [blocks * count // a.layers + norms for count in _dealt(recipe, a)]
    parts[0] += embedding
    parts[0 if a.tied_embeddings else -1] += head
    return max(parts)


def _dealt(recipe: Recipe, architecture: Architecture) -> list[int]:
    return blocks_per_gpu(
        architecture.layers, recipe.split_over, tied_embeddings=architecture.tied_embeddings
    )


def saved_inputs(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes per token that all blocks save as inputs of linear layers, whatever the method.

    With lora only layers with adapters save theirs, and those in 8 bits; where each adapter has a copy of its own,
    `saved_by_adapters` counts it.
    """
    chosen = dict(targets(recipe, architecture))
    shared = not (_copies(recipe) or recipe.lora.dropout > 0)
    total = 0
    for readers in _readers(architecture):
        saving = readers[0].count
        if recipe.method == "lora" and not recipe.lora.load_in_8bit:
            saving = max(chosen.get(each, 0) for each in readers) if shared else 0
        total += saving * readers[0].inputs
    return number_width(recipe) * total


def _readers(architecture: Architecture) -> Iterator[list[Linear]]:
    """A block's linear layers by what they read: in each module all read its input, but the last what they gave."""
    modules: dict[str, list[Linear]] = {}
    for linear in architecture.linears:
        modules.setdefault(linear.name.rpartition(".")[0], []).append(linear)
    for *first, last in modules.values():
        if first:
            yield first
        yield [last]


def _copies(recipe: Recipe) -> bool:
    """Whether each adapter reads a copy of its input: DoRA computes in fp32 beside a model in bf16."""
    return recipe.lora.use_dora and recipe.on_gpu


def _width(recipe: Recipe) -> int:
    """Bytes of the numbers that adapters compute with."""
    return FP32 if recipe.lora.use_dora else number_width(recipe)


def saved_by_adapters(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes per token that lora's adapters save in all blocks, besides inputs that they share.

    Each saves r numbers. With dropout it saves a copy of its input, and the mask (as wide as the copy on the CPU, a
    byte on GPUs). DoRA saves the outputs of the layer (dropout has it compute those again) and of the adapter.
    """
    if recipe.method != "lora":
        return 0
    width, dropout, dora = _width(recipe), recipe.lora.dropout > 0, recipe.lora.use_dora
    of_input = width if dropout or _copies(recipe) else 0
    of_input += (BOOL if recipe.on_gpu else width) if dropout else 0
    of_output = (FP32 + (FP32 if dropout else number_width(recipe))) if dora else 0
    return sum(
        count * (width * lora_r(recipe) + of_input * each.inputs + of_output * each.outputs)
        for each, count in targets(recipe, architecture)
    )


def saved_matrices(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes of matrices that all blocks save for the backward pass, besides the model's and the adapters' own.

    Adapters that compute in bf16 save themselves in that. DoRA with dropout saves the layer's weights in fp32 where
    the model has them otherwise.
    """
    if recipe.method != "lora":
        return 0
    if recipe.lora.use_dora:
        if not recipe.lora.dropout or not _expands(recipe):
            return 0
        return FP32 * sum(n * each.outputs * each.inputs for each, n in targets(recipe, architecture))
    return BF16 * trainable_parameters(recipe, architecture) if recipe.on_gpu else 0


def dequantised(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes of the largest matrix as wide as the model computes, where it has fewer bits: one at a time."""
    if not recipe.lora.is_quantized:
        return 0
    return number_width(recipe) * max(each.outputs * each.inputs for each in architecture.linears)


def measuring(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes at the peak of measuring a matrix's rows, as DoRA does in each forward pass.

    All in fp32: a unit matrix (M x M) that B A is made of, B A, alpha / r B A, W + alpha / r B A, and W where the model
    has it otherwise.
    """
    if not recipe.lora.use_dora:
        return 0
    return FP32 * max(
        (
            each.inputs * each.inputs + (3 + _expands(recipe)) * each.outputs * each.inputs
            for each, _ in targets(recipe, architecture)
        ),
        default=0,
    )


def working(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes per token that the backward pass of a block takes more than without adapters.

    Beside a model in bf16 DoRA has two gradients as wide as its layer's outputs in fp32.
    """
    return 2 * FP32 * architecture.intermediate_size if recipe.method == "lora" and _copies(recipe) else 0


def _expands(recipe: Recipe) -> bool:
    """Whether the model has its matrices in other widths than fp32."""
    return recipe.on_gpu or recipe.lora.is_quantized
