"""Pure: where there is no config.json, the size that a model's name tells, and the shape that is usual at that size."""

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from finetune_api.architecture.reading import from_config
from finetune_api.architecture.shapes import Architecture

# 7B, 1.5b, 135M, where no letter, digit or dot is joined to it: neither v0.3, 4bit nor 128k.
_SIZE = re.compile(r"(?<![a-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", re.IGNORECASE)
# 8x7B (experts), A3B (active parameters), 16E (experts), E2B (effective parameters), MoE.
_NOT_PLAIN = re.compile(
    r"(?<![a-z0-9])(?:\d+x\d+(?:\.\d+)?[bm]|[ae]\d+(?:\.\d+)?b|\d+e|[a-z0-9]*moe)(?![a-z0-9])", re.IGNORECASE
)


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
