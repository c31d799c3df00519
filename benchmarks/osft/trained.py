"""What is trained, in a layer or in a model, and what a step of the optimizer takes beside AdamW itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

# Gradients are measured, and never shortened: mini_trainer measures them before it projects, and would shorten others.
_NO_LIMIT = 1e9


def nothing() -> None:
    """What dense weights take."""


@dataclass
class Trained:
    """Weights, and what is to be done with them. Every system gets the same, fused AdamW."""

    weights: Sequence[nn.Parameter]
    """What AdamW changes."""
    before: Callable[[], None] = nothing
    """Between the backward pass and the optimizer."""
    after: Callable[[], None] = nothing
    """After the optimizer, when the gradients are forgotten."""
    optimizer: AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = AdamW(self.weights, lr=1e-4, weight_decay=0.0, fused=True)

    def update(self) -> None:
        """All that comes between the last backward pass and the next forward pass."""
        self.before()
        clip_grad_norm_(self.weights, _NO_LIMIT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.after()
