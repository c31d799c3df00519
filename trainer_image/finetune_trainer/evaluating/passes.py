"""Passes through a model that all processes of a gang make together."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from finetune_trainer.distributed import Gang
from finetune_trainer.inputs import Inputs, moved
from finetune_trainer.model import Measure, TrainableModel
from finetune_trainer.step import Guard


class AskedToStopError(Exception):
    """Some process of the gang was asked to stop. It is raised in all of them."""


@dataclass(frozen=True)
class Passes:
    """Each one is reported as a sign of life, and may be the last one."""

    gang: Gang
    model: TrainableModel
    budget: int
    """Tokens that a pass may have, as in training; a single text may have more."""
    guarding: Guard
    tick: Callable[[], None]
    asked_to_stop: Callable[[], bool]

    def make(self, inputs: Inputs, measure: Measure) -> Tensor:
        """Make a pass. Every process calls it equally often. Raises AskedToStopError."""
        with self.guarding(inputs):
            found = self._forward(inputs, measure)
        self.tick()
        if self.asked_to_stop():
            raise AskedToStopError
        return found

    def _forward(self, inputs: Inputs, measure: Measure) -> Tensor:
        # A function of its own: where memory runs out in it, its tensors can be let go.
        found: Tensor = self.model(**moved(inputs, self.gang.device), measure=measure)
        return found
