"""All that changes in training, as tensors under stable names."""

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel

# What AdamW keeps of each weight, besides the number of steps.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """All that changes in training. Batches, learning rates and random numbers follow from the step alone."""

    trained: Parametrization
    optimizer: Optimizer
    scheduler: LambdaLR

    @property
    def model(self) -> TrainableModel:
        """The model that is trained."""
        return self.trained.model

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights and moments, as they are divided among processes; not copies."""
        tensors: dict[str, Tensor] = {}
        for name, weight in self.trained.parameters.items():
            tensors[f"model.{name}"] = weight.detach()
            # A weight that never had a gradient has no moments.
            for moment in _MOMENTS if weight in self.optimizer.state else ():
                tensors[_key(name, moment)] = self.optimizer.state[weight][moment]
        return tensors

    def make_room(self, step: int, stored: Set[str]) -> None:
        """Give the optimizer the state that it has after some steps, for its moments to be read into.

        `stored` are the names of the tensors that there are to be read.
        """
        for name, weight in self.trained.parameters.items():
            if _key(name, _MOMENTS[0]) in stored:
                moments = {moment: torch.zeros_like(weight, requires_grad=False) for moment in _MOMENTS}
                # The fused kernel reads it where the weight is.
                steps = torch.tensor(float(step), device=weight.device)
                self.optimizer.state[weight] = {"step": steps, **moments}


def _key(name: str, moment: str) -> str:
    return f"optimizer.{name}.{moment}"
