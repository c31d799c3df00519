"""All that changes in training, as tensors under stable names."""

from collections.abc import Set
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finetune_trainer.model import TrainableModel

# What AdamW keeps of each weight, besides the number of steps.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """All that changes in training. Batches, learning rates and random numbers follow from the step alone."""

    model: TrainableModel
    optimizer: Optimizer
    scheduler: LambdaLR
    parameters: dict[str, nn.Parameter] = field(init=False, repr=False)
    """The weights that the optimizer changes. In the middle of a pass FSDP shows others in the model, gathered ones."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", dict(self.model.named_parameters()))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments, as they are divided among processes; not copies."""
        tensors: dict[str, Tensor] = {}
        for name, weight in self.parameters.items():
            tensors[f"model.{name}"] = weight.detach()
            # A weight that never had a gradient has no moments.
            for moment in _MOMENTS if weight in self.optimizer.state else ():
                tensors[_key(name, moment)] = self.optimizer.state[weight][moment]
        return tensors

    def make_room(self, step: int, stored: Set[str]) -> None:
        """Give the optimizer the state that it has after some steps, for its moments to be read into.

        `stored` are the names of the tensors that there are to be read.
        """
        for name, weight in self.parameters.items():
            if _key(name, _MOMENTS[0]) in stored:
                moments = {moment: torch.zeros_like(weight, requires_grad=False) for moment in _MOMENTS}
                self.optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}


def _key(name: str, moment: str) -> str:
    return f"optimizer.{name}.{moment}"
