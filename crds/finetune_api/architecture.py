"""Pure: the exact shapes and parameter counts of a dense causal language model, from its parsed config.json.

Where there is no config.json, the size that a model's name tells gives a typical shape.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from finetune_api.config_fields import ArchitectureError, bytes_per_number, flag, optional_size, size
from finetune_api.families import Family, Flag, Side, family_of

__all__ = ["Architecture", "ArchitectureError", "Linear", "from_config", "named_size", "typical"]

# 7B, 1.5b, 135M, where no letter, digit or dot is joined to it: neither v0.3, 4bit nor 128k.
_SIZE = re.compile(r"(?<![a-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", re.IGNORECASE)
# 8x7B (experts), A3B (active parameters), 16E (experts), E2B (effective parameters), MoE.
_NOT_PLAIN = re.compile(
    r"(?<![a-z0-9])(?:\d+x\d+(?:\.\d+)?[bm]|[ae]\d+(?:\.\d+)?b|\d+e|[a-z0-9]*moe)(?![a-z0-9])", re.IGNORECASE
)


@dataclass(frozen=True)
class Linear:
    """A linear layer that every block of a model has."""

    name: str
    """Module name inside a block: "self_attn.q_proj"."""
    outputs: int
    """Size of what it gives: rows of W in y = W x, however W is stored."""
    inputs: int
    """Size of what it takes: columns of W."""
    count: int
    """How many the whole model has: one per block."""
    bias: bool

    @property
    def parameters(self) -> int:
        """Numbers in all `count` layers, biases included."""
        return self.count * self.outputs * (self.inputs + self.bias)

    @property
    def rank(self) -> int:
        """The largest rank that W can have."""
        return min(self.outputs, self.inputs)


@dataclass(frozen=True)
class Architecture:
    """Shapes of a model. Sizes are in numbers, not bytes."""

    model_type: str
    hidden_size: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary: int
    context_length: int | None
    """Tokens that the model was made for; None where config.json does not tell."""
    tied_embeddings: bool
    """Whether the output head is the input embedding."""
    blocks: str
    """Module name of the list of blocks: a layer's full name is f"{blocks}.{index}.{linear.name}"."""
    linears: tuple[Linear, ...]
    """Linear layers of the blocks; the output head is not among them."""
    embedding_parameters: int
    """Input embedding, and learned positions where there are any."""
    head_parameters: int
    """Output head. Where it is tied: 0, or the bias that phi and gptj have."""
    other_parameters: int
    """Norms."""
    stored_bytes: int
    """Bytes of a number in the checkpoint's dtype: 2 or 4."""

    @property
    def parameters(self) -> int:
        """All numbers of the model; what is tied counts once."""
        linears = sum(linear.parameters for linear in self.linears)
        return linears + self.embedding_parameters + self.head_parameters + self.other_parameters


@dataclass(frozen=True)
class _Shape:
    """What sets one Llama apart from another."""

    hidden: int
    layers: int
    head_size: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool

    def architecture(self) -> Architecture:
        return from_config(
            {
                "model_type": "llama",
                "hidden_size": self.hidden,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.hidden // self.head_size,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_size,
                "intermediate_size": self.intermediate,
                "vocab_size": self.vocabulary,
                "tie_word_embeddings": self.tied,
                "dtype": "bfloat16",
            }
        )


# In order of size: stories260K, SmolLM2-135M and -360M, Llama-3.2-1B and -3B, Llama-3.1-8B, Qwen2.5-32B,
# Llama-3.1-70B and -405B.
_KNOWN_SHAPES = (
    _Shape(64, 5, 8, 4, 172, 512, tied=True),
    _Shape(576, 30, 64, 3, 1536, 49152, tied=True),
    _Shape(960, 32, 64, 5, 2560, 49152, tied=True),
    _Shape(2048, 16, 64, 8, 8192, 128256, tied=True),
    _Shape(3072, 28, 128, 8, 8192, 128256, tied=True),
    _Shape(4096, 32, 128, 8, 14336, 128256, tied=False),
    _Shape(5120, 64, 128, 8, 27648, 152064, tied=False),
    _Shape(8192, 80, 128, 8, 28672, 128256, tied=False),
    _Shape(16384, 126, 128, 8, 53248, 128256, tied=False),
)


def from_config(config: Mapping[str, Any]) -> Architecture:
    """The shapes that transformers builds for a parsed config.json.

    Raises ArchitectureError where the model is of no known family, a mixture of experts or quantized, and where a
    field is missing or makes no sense. A quantized model is refused rather than counted in some width: its weights
    cannot be trained as they are.
    """
    model_type, family = family_of(config)
    fields = family.fields
    hidden, heads = size(config, fields.hidden_size), size(config, fields.attention_heads)
    head, kv_heads = _heads(config, family, hidden, heads)
    layers, vocabulary = size(config, fields.layers), size(config, fields.vocabulary)
    intermediate = optional_size(config, fields.intermediate_size, None) if family.widening else None
    if intermediate is None:
        intermediate = family.widening * hidden if family.widening else size(config, fields.intermediate_size)
    if family.position_rows is None:
        context, positions = optional_size(config, fields.context_length, None), 0
    else:
        context = size(config, fields.context_length)
        positions = context + family.position_rows
    tied = flag(config, "tie_word_embeddings", family.tied)

    sides: dict[Side, int] = {
        "hidden": hidden,
        "queries": heads * head,
        "keys": kv_heads * head,
        "queries+keys+values": (heads + 2 * kv_heads) * head,
        "intermediate": intermediate,
        "gate+up": 2 * intermediate,
    }
    head_norms = 2 * layers * head if _has(config, family.head_norms) else 0
    norms = (family.norms * layers + 1) * hidden + head_norms
    return Architecture(
        model_type=model_type,
        hidden_size=hidden,
        layers=layers,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        intermediate_size=intermediate,
        vocabulary=vocabulary,
        context_length=context,
        tied_embeddings=tied,
        blocks=family.blocks,
        linears=tuple(
            Linear(each.name, sides[each.outputs], sides[each.inputs], layers, _has(config, each.bias))
            for each in family.modules
        ),
        embedding_parameters=(vocabulary + positions) * hidden,
        head_parameters=(0 if tied else vocabulary * hidden) + (vocabulary if family.head_bias else 0),
        other_parameters=norms * (2 if family.norm_bias else 1),
        stored_bytes=bytes_per_number(config),
    )


def typical(parameters: int) -> Architecture:
    """A Llama of about that many parameters, within 1 % from 10 million to 500 billion.

    Its shape lies between those of the two known models that are next in size, on a logarithmic scale; its weights
    are in bfloat16.
    """
    known = [(math.log(shape.architecture().parameters), shape) for shape in _KNOWN_SHAPES]
    wanted = max(math.log(max(parameters, 1)), known[0][0])
    # Beyond the largest, the line through the last two goes on.
    (smaller, low), (larger, high) = next((two for two in pairwise(known) if wanted <= two[1][0]), known[-2:])
    position = (wanted - smaller) / (larger - smaller)
    nearest = low if position < 0.5 else high

    def between(a: int, b: int) -> int:
        return round(a * math.pow(b / a, position))

    kv_heads = between(low.kv_heads, high.kv_heads)
    # Every key/value head serves a whole number of heads, so the hidden size moves in steps ...
    step = kv_heads * nearest.head_size
    shape = _Shape(
        hidden=step * max(1, round(between(low.hidden, high.hidden) / step)),
        layers=between(low.layers, high.layers),
        head_size=nearest.head_size,
        kv_heads=kv_heads,
        intermediate=1,
        vocabulary=between(low.vocabulary, high.vocabulary),
        tied=nearest.tied,
    )
    # ... and the intermediate size makes up for what that leaves.
    missing = parameters - shape.architecture().parameters
    per_column = 3 * shape.layers * shape.hidden
    return replace(shape, intermediate=1 + max(0, round(missing / per_column))).architecture()


def named_size(name: str) -> int | None:
    """Parameters that a model's name or path plainly tells: 1_500_000_000 for "Qwen/Qwen2.5-1.5B-Instruct".

    The last part of the path that tells a size counts. None where no part does; where that part tells two sizes, for
    which of them is the model's is not to be known ("llama-70b-draft-2b"); and for mixtures of experts and the like
    ("8x7B", "30B-A3B", "17B-16E", "E2B"), whose sizes do not mean what they mean for a dense model.
    """
    for part in reversed(name.split("/")):
        if _NOT_PLAIN.search(part):
            return None
        sizes = {
            round(float(number) * (10**9 if unit in "bB" else 10**6)) for number, unit in _SIZE.findall(part)
        }
        if sizes:
            return (sizes.pop() or None) if len(sizes) == 1 else None
    return None


def _heads(config: Mapping[str, Any], family: Family, hidden: int, heads: int) -> tuple[int, int]:
    """Size of a head, and number of key/value heads."""
    fields = family.fields
    head = optional_size(config, fields.head_size, family.head_size) if fields.head_size else None
    if head is None and hidden % heads:
        raise ArchitectureError(
            f"{fields.hidden_size}: {hidden} is not a multiple of {fields.attention_heads}, which is {heads}"
        )
    kv_heads = optional_size(config, fields.kv_heads, family.kv_heads) if fields.kv_heads else None
    if kv_heads is not None and heads % kv_heads:
        raise ArchitectureError(
            f"{fields.kv_heads}: {kv_heads} does not divide {fields.attention_heads}, which is {heads}"
        )
    return head or hidden // heads, kv_heads or heads


def _has(config: Mapping[str, Any], trait: bool | Flag) -> bool:
    return trait if isinstance(trait, bool) else flag(config, trait.field, trait.default)
