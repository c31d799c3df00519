"""Pure: what the forward pass leaves behind for the backward pass, counted tensor by tensor.

The terms are what torch's autograd saves in transformers' models with the trainer's attention and loss. H is the
hidden size, Q the width of all queries (heads x head size), K that of all keys, I the intermediate size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.architecture import Architecture, Linear
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import lora_r, targets, unfreeze_rank_ratio, unfrozen_rank

FP32 = 4
BF16 = 2
_MASK = 1


@dataclass(frozen=True)
class Family:
    """How the blocks of a family of models differ from Llama's."""

    norms: int = 2
    """Norms of a block whose output goes into linear layers."""
    after: int = 0
    """Norms of a block whose output is added to the residual stream."""
    head_norms: bool = False
    """Whether queries and keys are normalised."""
    layer_norm: bool = False
    """LayerNorm, one operation that saves its input alone; otherwise RMSNorm, made of several."""
    activation: int = 3
    """Tensors of I numbers that the activation saves. 3: the gate before and after it, and what is gated. 4: GELU
    written out (its input, half of it, the hyperbolic tangent, and that plus one)."""
    dropout: bool = False
    """Whether the released models drop out attention and residual stream in training."""


_FAMILIES = {
    "gemma2": Family(after=2),
    "gemma3_text": Family(after=2, head_norms=True),
    "gpt2": Family(layer_norm=True, activation=4, dropout=True),
    "phi": Family(norms=1, layer_norm=True, activation=4),
    "qwen3": Family(head_norms=True),
}


@dataclass(frozen=True)
class Activations:
    """Bytes per token."""

    block: int
    """What one block saves for its backward pass, on the average over blocks."""
    input: int
    """The block's input alone: what remains of a block whose forward pass is repeated in the backward pass."""
    working: int
    """Gradients that the backward pass of a block holds at a time."""
    ends: int
    """Token ids, positions, their sines and cosines, the last norm, hidden states and their gradients."""


def number_width(recipe: Recipe) -> int:
    """Bytes of a number in the forward pass: bf16 on GPUs, fp32 without."""
    return BF16 if recipe.on_gpu else FP32


def activations(recipe: Recipe, architecture: Architecture, *, longest: int) -> Activations:
    """What a token costs where the longest sample has `longest` tokens.

    A block saves, in numbers per token:
    - norms: their input and the normalised values; see _norm;
    - attention: queries, keys and values as the kernel sees them (Q + 2 K), its output (Q) and a sum per head;
    - the activation: 3 I or 4 I, see Family;
    - what goes into each linear layer, where that is trained or has an adapter beside it.
    """
    a, number = architecture, number_width(recipe)
    family = _FAMILIES.get(a.model_type, Family())
    queries, keys = a.attention_heads * a.head_size, a.kv_heads * a.head_size
    normalised = (family.norms + family.after) * a.hidden_size + family.head_norms * (queries + keys)
    attention = 2 * queries + 2 * keys
    if any(linear.name.endswith("qkv_proj") for linear in a.linears):
        # Values are a view of the joint projection: it stays whole beside the rotated queries and keys.
        attention += queries + keys
    of_linears = _inputs(recipe, a) + _additions(recipe, a)
    block = (
        _norm(recipe, family, normalised)
        + number * (attention + family.activation * a.intermediate_size)
        + FP32 * a.attention_heads
        + of_linears // a.layers
        + (_dropout(recipe, a, longest) if family.dropout else 0)
    )
    return Activations(
        block=block,
        input=number * a.hidden_size,
        working=number * (2 * a.intermediate_size + 2 * a.hidden_size),
        ends=_norm(recipe, family, a.hidden_size) + number * (3 * a.hidden_size + 2 * a.head_size) + 4 * 8,
    )


def _norm(recipe: Recipe, family: Family, numbers: int) -> int:
    """Bytes that norms over so many numbers save.

    LayerNorm: its input. RMSNorm: its input in fp32, and for the gradient of its weights the normalised values.
    """
    if family.layer_norm:
        return number_width(recipe) * numbers
    weights = 0 if recipe.method == "lora" else number_width(recipe)
    return (FP32 + weights) * numbers


def _dropout(recipe: Recipe, architecture: Architecture, longest: int) -> int:
    """Bytes that dropout adds to a block.

    GPU: a mask of one byte for each of the two additions to the residual stream; the attention kernel draws its own
    again. CPU: masks in fp32, and no such kernel: the attention matrix is written out, before and after dropout and
    its mask, for each head and each earlier token of the sample, with the scaled queries.
    """
    a = architecture
    if recipe.on_gpu:
        return 2 * _MASK * a.hidden_size
    return FP32 * (2 * a.hidden_size + a.attention_heads * (3 * longest + a.head_size))


def _readers(architecture: Architecture) -> Iterator[list[Linear]]:
    """The linear layers of a block by what they read: all of a module read the same, but its last one, its output."""
    modules: dict[str, list[Linear]] = {}
    for linear in architecture.linears:
        modules.setdefault(linear.name.rpartition(".")[0], []).append(linear)
    for *first, last in modules.values():
        if first:
            yield first
        yield [last]


def _inputs(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes that all blocks save as inputs of linear layers: all of them, but with lora only those with adapters.

    There, dropout makes a copy for each adapter, counted in _additions.
    """
    chosen = dict(targets(recipe, architecture))
    total = 0
    for readers in _readers(architecture):
        if recipe.method != "lora":
            saved = readers[0].count
        elif recipe.lora.dropout or recipe.on_gpu:
            saved = 0
        else:
            saved = max(chosen.get(each, 0) for each in readers)
        total += saved * readers[0].inputs
    return number_width(recipe) * total


def _additions(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes that the factors of osft and the adapters of lora add, in all blocks.

    osft: the component of each trained direction, before and after it is scaled.
    lora: r numbers for each adapter in its fp32, and its input where that is not shared with the model: dropped out,
    with the mask (fp32 on the CPU, a byte on GPUs); on GPUs a copy in fp32 in any case.
    """
    total = 0
    for each, count in targets(recipe, architecture):
        if recipe.method == "osft":
            rank = unfrozen_rank(each.outputs, each.inputs, unfreeze_rank_ratio(recipe))
            total += count * 2 * rank * number_width(recipe)
            continue
        mask = (_MASK if recipe.on_gpu else FP32) if recipe.lora.dropout else 0
        copy = FP32 if recipe.lora.dropout or recipe.on_gpu else 0
        total += count * (lora_r(recipe) * FP32 + (copy + mask) * each.inputs)
    return total
