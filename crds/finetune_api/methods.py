"""The methods of training, and the knobs that each has of its own."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from finetune_api.model import Rule, SpecModel

Method = Literal["sft", "osft", "lora"]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}; it is matched as Python's re does") from None
    return pattern


# The API server cannot tell whether Python's re takes a pattern: whoever reads the spec says so.
ModulePattern = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_regular_expression)]


class Osft(SpecModel):
    """Orthogonal subspace fine-tuning: each weight matrix keeps its strongest directions, the others are trained."""

    unfreeze_rank_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each matrix's directions that is trained. Small keeps more of what the model knows."""
    target_patterns: Annotated[list[ModulePattern], Field(max_length=64)] = []
    """Regular expressions, searched in module names, of the layers to treat so; every linear layer if empty."""


class Lora(SpecModel):
    """Low-rank adapters beside a frozen model."""

    r: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rank of the adapters."""
    alpha: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Scale of the adapters: what they add is multiplied by alpha / r. Twice r if left out."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapters' inputs that is left out at random in training."""
    target_modules: Annotated[list[ModulePattern], Field(min_length=1, max_length=64)] | None = None
    """The layers that get adapters: `attention`, `allLinear`, names such as q_proj, or regular expressions that match a
    name from one of its dots to its end; every linear layer of the blocks if left out."""
    use_rslora: bool = False
    """Multiply what adapters add by alpha / sqrt(r) instead, which keeps high ranks from learning ever less."""
    use_dora: bool = False
    """Train the length of each output's weights apart from their direction (DoRA). Costs memory and time."""
    load_in_4bit: Annotated[bool, Field(alias="loadIn4Bit")] = False
    """Hold the frozen model in 4 bits per weight (QLoRA)."""
    load_in_8bit: Annotated[bool, Field(alias="loadIn8Bit")] = False
    """Hold the frozen model in 8 bits per weight."""
    enable_model_splitting: bool = False
    """Split one copy of the model over the GPUs of one node, for models too large for one GPU."""
    merge_adapter: bool = False
    """In the end, write an ordinary model in 16 bits beside the adapter, with what that has learnt merged in."""

    @property
    def is_quantized(self) -> bool:
        """Whether the frozen model is held in fewer than 16 bits."""
        return self.load_in_4bit or self.load_in_8bit

    rules = (
        Rule(
            cel="!(self.loadIn4Bit && self.loadIn8Bit)",
            message="loadIn4Bit and loadIn8Bit exclude each other: keep loadIn4Bit for the least memory, or loadIn8Bit "
            "for weights that are closer to the original",
            holds=lambda lora: not (lora.load_in_4bit and lora.load_in_8bit),
        ),
    )
