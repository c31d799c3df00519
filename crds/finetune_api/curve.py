"""The course of training in a bounded number of points: what a chart, or a line of a terminal, shows."""

from typing import Annotated

from pydantic import Field

from finetune_api.model import ApiModel, FiniteFloat

MAX_POINTS = 64

_Numbers = Annotated[list[FiniteFloat], Field(max_length=MAX_POINTS)]


class Curve(ApiModel):
    """Training from the first step on, thinned out: every point stands for the steps since the one before.

    The lists of training are as long as `steps`; those of the validation are of their own length.
    """

    steps: Annotated[list[int], Field(max_length=MAX_POINTS)] = []
    """The last step that each point stands for."""
    loss: _Numbers = []
    """Mean loss per token over the steps of the point."""
    learning_rate: _Numbers = []
    """Learning rate of its last step."""
    tokens_per_second: _Numbers = []
    """Tokens trained on per second, over all processes."""
    validation_steps: Annotated[list[int], Field(max_length=MAX_POINTS)] = []
    """Steps after which the validation data were evaluated; 0 is the base model."""
    validation_loss: _Numbers = []
    """Loss on them."""
