"""Pure: which weights of a model a method trains, and which it leaves as they are."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from finetune_api.architecture import Architecture, Linear
from finetune_api.methods import Lora
from finetune_api.recipe import Recipe

# Guide, "unfreeze_rank_ratio": the recommended default.
UNFREEZE_RANK_RATIO = 0.5
# Guide, "Rank and alpha": where to start, and how many times r alpha is.
LORA_R = 16
ALPHA_PER_RANK = 2
ALL_LINEAR = "allLinear"
LAYER_GROUPS = {ALL_LINEAR: "", "attention": "attn|attention"}
"""What stands for several layers in lora.targetModules, and the part of their names that is meant."""


@dataclass(frozen=True)
class Counts:
    """Numbers of weights that a model computes with.

    The root is the embeddings and the output head; the blocks are all the rest, of all layers together.
    """

    blocks_trained: int
    root_trained: int
    root: int
    """Frozen ones as well."""

    @property
    def trained(self) -> int:
        """All that get gradients in the backward pass."""
        return self.blocks_trained + self.root_trained


@dataclass(frozen=True)
class Factored:
    """A matrix of N x M that osft has as factors U S V, too: R = min(N, M) directions."""

    outputs: int
    inputs: int
    unfrozen: int
    """Directions that are trained."""
    count: int
    """Blocks that have such a matrix."""

    @property
    def rank(self) -> int:
        """All directions."""
        return min(self.outputs, self.inputs)

    @property
    def frozen_rank(self) -> int:
        """Directions that are frozen."""
        return self.rank - self.unfrozen

    @property
    def dense(self) -> int:
        """Numbers in the matrix."""
        return self.outputs * self.inputs

    @property
    def factors(self) -> int:
        """Numbers in all factors."""
        return self._numbers(self.rank)

    @property
    def trained(self) -> int:
        """Numbers in the factors that are trained."""
        return self._numbers(self.unfrozen)

    def _numbers(self, directions: int) -> int:
        # Of each a column of U, a singular value, and a row of V.
        return directions * (self.outputs + self.inputs + 1)


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

    osft's patterns are searched in the full module name, such as `model.layers.0.self_attn.q_proj`; so are those that
    `lora_patterns` makes.
    """
    if recipe.method == "sft":
        return ()
    if recipe.method == "osft":
        return _matching(architecture, tuple(recipe.osft.target_patterns) or ("",))
    return _matching(architecture, tuple(lora_patterns(recipe.lora).values()))


def lora_patterns(lora: Lora) -> dict[str, str]:
    """What to search for in the full names of layers, by what lora.targetModules says.

    `q_proj`, say, means a layer of that name, or any whose full name ends with it after a dot.
    """
    stated = lora.target_modules or [ALL_LINEAR]
    return {each: LAYER_GROUPS.get(each, rf"(^|\.)({each})$") for each in stated}


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


def lora_alpha(recipe: Recipe) -> int:
    """The stated scale of the adapters, or the guide's."""
    return ALPHA_PER_RANK * lora_r(recipe) if recipe.lora.alpha is None else recipe.lora.alpha


def factored(recipe: Recipe, architecture: Architecture) -> tuple[Factored, ...]:
    """The matrices of which osft trains factors; none for other methods."""
    if recipe.method != "osft":
        return ()
    ratio = unfreeze_rank_ratio(recipe)
    return tuple(
        Factored(each.outputs, each.inputs, unfrozen_rank(each.outputs, each.inputs, ratio), count)
        for each, count in targets(recipe, architecture)
    )


def counts(recipe: Recipe, architecture: Architecture) -> Counts:
    """How many weights the model has to train, and in its root.

    With osft it is the model of sft: what its factors are taught follows from the gradients of whole matrices.
    lora adds A (r x M) and B (N x r) beside each target, with DoRA a length for each of its N outputs, too, and freezes
    all that there was.
    """
    root = architecture.embedding_parameters + architecture.head_parameters
    if recipe.method != "lora":
        return Counts(architecture.parameters - root, root, root)
    adapters = sum(
        count * (lora_r(recipe) * (each.inputs + each.outputs) + recipe.lora.use_dora * each.outputs)
        for each, count in targets(recipe, architecture)
    )
    return Counts(adapters, 0, root)


def trainable_parameters(recipe: Recipe, architecture: Architecture) -> int:
    """Number of weights that the optimizer changes.

    With osft, factors in the place of their matrices, and everything that is no such matrix: embeddings, norms, head,
    biases.
    """
    instead = sum(each.count * (each.trained - each.dense) for each in factored(recipe, architecture))
    return counts(recipe, architecture).trained + instead
