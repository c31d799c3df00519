"""Pure: which weights of a model a method trains, and which it leaves as they are."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from finetune_api.architecture import Architecture, Linear
from finetune_api.recipe import Recipe

# Guide, "unfreeze_rank_ratio": the recommended default.
UNFREEZE_RANK_RATIO = 0.5
# Guide, "Rank and alpha": where to start.
LORA_R = 16


@dataclass(frozen=True)
class Counts:
    """Numbers of weights, trained and frozen.

    The root is the embeddings and the output head; the blocks are all the rest, of all layers together.
    """

    blocks_trained: int
    blocks_frozen: int
    root_trained: int
    root_frozen: int

    @property
    def trained(self) -> int:
        """All trained weights."""
        return self.blocks_trained + self.root_trained

    @property
    def frozen(self) -> int:
        """All frozen weights."""
        return self.blocks_frozen + self.root_frozen

    @property
    def root(self) -> int:
        """All weights of the root."""
        return self.root_trained + self.root_frozen


def unfrozen_rank(outputs: int, inputs: int, ratio: float) -> int:
    """Directions of a matrix of `outputs` x `inputs` that OSFT trains.

    With R = min(outputs, inputs), the strongest floor(R (1 - ratio)) directions are frozen; the ratio is above zero,
    so at least one is trained. It is taken as the decimal number that the user wrote: in binary, 1 - 0.9 is less than
    0.1 and would freeze one direction too few, and 1 - 1e-17 is 1 and would freeze them all.
    """
    rank = min(outputs, inputs)
    return rank - math.floor(rank * (1 - Fraction(str(ratio))))


def targets(recipe: Recipe, architecture: Architecture) -> tuple[tuple[Linear, int], ...]:
    """The linear layers that osft or lora treats, each with the number of blocks where it does; none for sft.

    osft's patterns are searched in the full module name, such as `model.layers.0.self_attn.q_proj`. lora's names mean
    a module of that name, or the end of its full name after a dot, as peft understands them.
    """
    if recipe.method == "sft":
        return ()
    if recipe.method == "osft":
        return _matching(architecture, tuple(recipe.osft.target_patterns) or ("",))
    if recipe.lora.target_modules is None:
        return _matching(architecture, ("",))
    return _matching(architecture, tuple(rf"(^|\.){re.escape(name)}$" for name in recipe.lora.target_modules))


# A plan asks many times, and models have many modules.
@lru_cache(maxsize=256)
def _matching(architecture: Architecture, patterns: tuple[str, ...]) -> tuple[tuple[Linear, int], ...]:
    found = []
    for linear in architecture.linears:
        names = [f"{architecture.blocks}.{block}.{linear.name}" for block in range(linear.count)]
        if count := sum(any(re.search(pattern, name) for pattern in patterns) for name in names):
            found.append((linear, count))
    return tuple(found)


def unfreeze_rank_ratio(recipe: Recipe) -> float:
    """The stated ratio, or the guide's."""
    stated = recipe.osft.unfreeze_rank_ratio
    return UNFREEZE_RANK_RATIO if stated is None else stated


def lora_r(recipe: Recipe) -> int:
    """The stated rank of the adapters, or the guide's."""
    return LORA_R if recipe.lora.r is None else recipe.lora.r


def counts(recipe: Recipe, architecture: Architecture) -> Counts:
    """What is trained and what is frozen, the factors of osft and the adapters of lora counted in.

    osft writes a matrix W of N x M as U S V. Of its R directions, u are trained: u (N + M + 1) weights; k = R - u are
    frozen: k (N + M + 1). Everything that is not such a matrix is trained: embeddings, norms, head, biases.
    lora adds A (r x M) and B (N x r) beside each target and freezes all that there was.
    """
    root = architecture.embedding_parameters + architecture.head_parameters
    blocks = architecture.parameters - root
    if recipe.method == "sft":
        return Counts(blocks, 0, root, 0)
    chosen = targets(recipe, architecture)
    if recipe.method == "lora":
        adapters = sum(count * lora_r(recipe) * (each.inputs + each.outputs) for each, count in chosen)
        return Counts(adapters, blocks, 0, root)
    trained = frozen = 0
    for each, count in chosen:
        rank = unfrozen_rank(each.outputs, each.inputs, unfreeze_rank_ratio(recipe))
        direction = each.outputs + each.inputs + 1
        trained += count * rank * direction
        frozen += count * (each.rank - rank) * direction
    dense = sum(count * each.outputs * each.inputs for each, count in chosen)
    return Counts(blocks - dense + trained, frozen, root, 0)


def trainable_parameters(recipe: Recipe, architecture: Architecture) -> int:
    """Number of weights that training changes."""
    return counts(recipe, architecture).trained
