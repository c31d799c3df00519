"""What a method adds to the training loop: which weights the optimizer changes, and how the model follows from them."""

from contextlib import nullcontext
from pathlib import Path

from torch import Tensor, nn

from finetune_trainer.model import TrainableModel
from finetune_trainer.results import Result, WholeModel
from finetune_trainer.stopwatch import Communicating


class Parametrization:
    """The model's own weights are trained, as they are; methods of which more is to be said have a class of theirs."""

    def __init__(self, model: TrainableModel) -> None:
        self.model = model
        self.shared: dict[str, nn.Parameter] = dict(model.named_parameters())
        """Trained weights that the processes have in common, by stable names. In the middle of a pass FSDP shows others
        in the model, gathered ones."""
        self.own: dict[str, nn.Parameter] = {}
        """Trained weights that only this process has, and wholly."""
        self.base: str | None = None
        """Digest of the weights that are frozen and in no checkpoint; None where there are none such."""

    def result(self, base: Path) -> Result:
        """What training leads to, of the base model in this directory."""
        return WholeModel(self.model.hf, base)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All weights that the optimizer of this process changes."""
        return self.shared | self.own

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """The same in groups for the optimizer, as many in every process."""
        return [list(self.shared.values())]

    def pull_back(self, communicating: Communicating = nullcontext) -> None:
        """Give the trained weights their gradients, from those of the model. Every process calls it."""

    def constrain(self) -> None:
        """Bring the trained weights back to where they may be, after the optimizer has changed them."""

    def push_forward(self, communicating: Communicating = nullcontext) -> None:
        """Have the model compute with the trained weights as they are now. Every process calls it."""

    def leak(self) -> Tensor | None:
        """How far this process's trained weights reach into what is frozen, a scalar; None where nothing is frozen."""
        return None

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad()
        for weight in self.own.values():
            weight.grad = None
