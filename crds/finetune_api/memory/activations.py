"""Pure: what the forward pass leaves behind for the backward pass, counted tensor by tensor.

The terms are what torch's autograd saves in transformers' models with the trainer's attention and loss. H is the
hidden size, Q the width of all queries (heads x head size), K that of all keys, I the intermediate size.
"""

from dataclasses import dataclass

from finetune_api.architecture import Architecture
from finetune_api.architecture.families import FAMILIES
from finetune_api.memory.adapters import saved_by_adapters, saved_inputs, working
from finetune_api.memory.widths import BOOL, FP32, INT64, number_width
from finetune_api.recipe import Recipe

# Tensors of I numbers that the activation function saves: a gate before and after it, and what is gated.
_GATED = 3
# GELU written out: its input, half of that, the hyperbolic tangent, and that plus one. ReLU saves its output, which
# is the input of the next layer, and counted there.
_PLAIN = {"gpt2": 4, "gpt_neo": 4, "gptj": 4, "opt": 0, "phi": 4}
# Families whose released models drop out attention and residual stream in training.
_DROPOUT = frozenset({"gpt2"})
# Families with models whose attention reaches back over a window only.
_WINDOWS = frozenset({"gemma2", "gemma3_text", "mistral", "phi3"})


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
    """What lies before the first block and behind the last: token ids and positions, the last norm, hidden states."""
    windows: int
    """Masks of a block's attention, if it reaches back over a window that is shorter than the longest sample."""


def activations(recipe: Recipe, architecture: Architecture, *, longest: int) -> Activations:
    """What a token costs where the longest sample has `longest` tokens.

    A block saves, in numbers per token:

    - norms: see _norm;
    - attention: queries, keys and values as the kernel sees them (Q + 2 K), its output (Q), and in fp32 the logarithm
      of each head's sum. Samples are computed apart and joined again: the joined output is the next layer's input;
    - activation function: 3 I where there is a gate;
    - what goes into each linear layer, where that is trained or has an adapter beside it.

    The backward pass of a block works at most on the gradients of both sides of the gate and of the residual stream
    before and after the norm: 2 I + 2 H.

    Behind the last block lie the hidden states, those of them that predict something, and their gradient: 3 H. The
    sines and cosines of the positions take two numbers per number of a head.
    """
    a, number = architecture, number_width(recipe)
    family = FAMILIES[a.model_type]
    queries, keys = a.attention_heads * a.head_size, a.kv_heads * a.head_size
    normalised = family.norms * a.hidden_size
    if family.head_norms is True:
        normalised += queries + keys
    attention = 2 * queries + 2 * keys
    if any(linear.name.endswith("qkv_proj") for linear in a.linears):
        # Values are a view of the joint projection: it stays whole beside the rotated queries and keys.
        attention += queries + keys
    block = (
        _norm(recipe, a, normalised)
        + number * (attention + _PLAIN.get(a.model_type, _GATED) * a.intermediate_size)
        + FP32 * a.attention_heads
        + (saved_inputs(recipe, a) + saved_by_adapters(recipe, a)) // a.layers
        + (_dropout(recipe, a, longest) if a.model_type in _DROPOUT else 0)
    )
    ids = 4 * INT64  # tokens, positions, which of them predict, and what
    return Activations(
        block=block,
        input=number * a.hidden_size,
        working=number * (2 * a.intermediate_size + 2 * a.hidden_size) + working(recipe, a),
        ends=_norm(recipe, a, a.hidden_size) + number * (3 * a.hidden_size + 2 * a.head_size) + ids,
        # As booleans, and as the numbers that the kernel adds to the attention's scores.
        windows=(BOOL + number) * longest if a.model_type in _WINDOWS else 0,
    )


def _norm(recipe: Recipe, architecture: Architecture, numbers: int) -> int:
    """Bytes per token that norms over so many numbers save.

    LayerNorm is one operation and saves its input. RMSNorm is written out: it saves its input in fp32 and, for the
    gradient of its weights, the normalised values; Gemma multiplies those with the weights in fp32 too.
    """
    if FAMILIES[architecture.model_type].norm_bias:
        return number_width(recipe) * numbers
    if recipe.method == "lora":
        return FP32 * numbers
    normalised = FP32 if architecture.model_type.startswith("gemma") else number_width(recipe)
    return (FP32 + normalised) * numbers


def _dropout(recipe: Recipe, architecture: Architecture, longest: int) -> int:
    """Bytes per token that dropout adds to a block.

    GPU: a mask of one byte for each of the two additions to the residual stream; the attention kernel draws its own
    again. CPU: masks are fp32, and the kernel has no dropout: the attention matrix is written out, with one number
    for each head and token of the sample, before and after dropout and its mask; and the queries are scaled apart.
    """
    a = architecture
    if recipe.on_gpu:
        return 2 * BOOL * a.hidden_size
    return FP32 * (2 * a.hidden_size + a.attention_heads * (3 * longest + a.head_size))
