"""What a method adds to the training loop: which weights the optimizer changes, and how the model follows from them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from finetune_trainer.model import TrainableModel

# What marks waiting for other processes, for the stopwatch.
Communicating = Callable[[], AbstractContextManager[None]]


class Parametrization:
    """The model's own weights are trained, as they are. Other methods say otherwise."""

    def __init__(self, model: TrainableModel) -> None:
        self.model = model
        self.shared: dict[str, nn.Parameter] = dict(model.named_parameters())
        """Trained weights that the processes have in common, by stable names: each has its part, or the same."""
        self.own: dict[str, nn.Parameter] = {}
        """Trained weights that only this process has, as a whole."""
        self.base: str | None = None
        """Digest of frozen weights that no checkpoint holds; None where there are none such."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that the optimizer of this process changes."""
        return self.shared | self.own

    def pull_back(self, communicating: Communicating = nullcontext) -> None:
        """After the backward pass: give the trained weights their gradients. Every process calls it."""

    def push_forward(self, communicating: Communicating = nullcontext) -> None:
        """Have the model compute with the trained weights as they are now. Every process calls it."""

    def leak(self) -> float | None:
        """How far the trained weights of this process reach into what is frozen; None where nothing is."""
        return None

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad()
        for weight in self.own.values():
            weight.grad = None
