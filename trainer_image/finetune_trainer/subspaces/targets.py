"""Which weights of a model are decomposed: those of linear layers in its blocks."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from finetune_api.trained_weights import Factored, unfrozen_rank
from finetune_trainer.chosen_layers import chosen_layers
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.model import linear_layers


@dataclass(frozen=True)
class Target:
    """A weight matrix that is decomposed."""

    name: str
    """Of the weight in the Hugging Face model."""
    weight: nn.Parameter
    """[outputs, inputs], or transposed; each process may have some of the rows."""
    matrix: Factored
    """Its shape, and how much of it is trained."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole weight."""
        rows, columns = self.weight.shape
        return rows, columns

    @property
    def module(self) -> str:
        """The layer's name inside of its block: `self_attn.q_proj` of `model.layers.0.self_attn.q_proj.weight`."""
        return re.sub(r"^.*?\.\d+\.", "", self.name.removesuffix(".weight"))

    @property
    def shard(self) -> Tensor:
        """What this process has of it, to be read and written."""
        return local(self.weight.detach())

    def take_gradient(self) -> Tensor:
        """What this process has of the gradient, which nobody else holds on to any more; zeros if there is none."""
        gradient, self.weight.grad = self.weight.grad, None
        return self.shard.new_zeros(self.shard.shape) if gradient is None else local(gradient)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def find_targets(hf: PreTrainedModel, patterns: Sequence[str], ratio: float) -> list[Target]:
    """The weights of linear layers in whose names one of the patterns is found; without patterns, of all in the blocks.

    A layer's name is its full one, such as `model.layers.0.self_attn.q_proj`. GPT-2 and its kin have their layers
    transposed, as Conv1D; a matrix and its transpose have the same directions. `ratio` of these are trained. Raises
    InvalidConfigurationError, with the layers that there are, where a pattern is found in none.
    """
    layers = linear_layers(hf)
    if not layers:
        raise InvalidConfigurationError(
            f"spec.method: {type(hf).__name__} has no linear layers in its blocks for osft to decompose"
        )
    searched = {pattern: pattern for pattern in patterns or ("",)}
    found = []
    for name in chosen_layers(layers, searched, "spec.osft.targetPatterns"):
        rows, columns = layers[name].shape
        unfrozen = unfrozen_rank(rows, columns, ratio)
        found.append(Target(f"{name}.weight", layers[name], Factored(rows, columns, unfrozen, count=1)))
    return found


def trained_numbers(weights: Iterable[Tensor], targets: Sequence[Target]) -> int:
    """Numbers that training changes, where these are all the weights and those of them the targets."""
    instead = sum(target.matrix.trained - target.matrix.dense for target in targets)
    return sum(weight.numel() for weight in weights) + instead
