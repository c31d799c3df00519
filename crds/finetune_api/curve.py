"""The course of training in a bounded number of points: what a chart, or a line of a terminal, shows."""

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.model import ApiModel, FiniteFloat, Rule

MAX_POINTS = 64

_Numbers = Annotated[list[FiniteFloat], Field(max_length=MAX_POINTS)]


class Curve(ApiModel):
    """Training from the first step on, thinned out: every point stands for the steps since the one before.

    The lists of training are as long as `steps`, that of the validation as `validationSteps`. What was not finite is
    null.
    """

    steps: Annotated[list[int], Field(max_length=MAX_POINTS)] = []
    """The last step that each point stands for."""
    loss: _Numbers = []
    """Mean loss per token over the steps of the point, every step counted alike."""
    learning_rate: _Numbers = []
    """Learning rate of the last step of the point."""
    tokens_per_second: _Numbers = []
    """Tokens trained on per second over the steps of the point, by all processes; pauses between steps left out."""
    validation_steps: Annotated[list[int], Field(max_length=MAX_POINTS)] = []
    """Steps after which the validation data were evaluated; 0 is the base model."""
    validation_loss: _Numbers = []
    """Loss on them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.loss.size() == self.steps.size() && self.learningRate.size() == self.steps.size() && "
            "self.tokensPerSecond.size() == self.steps.size()",
            message="loss, learningRate and tokensPerSecond have one number for each of steps",
            holds=lambda curve: (
                {len(curve.loss), len(curve.learning_rate), len(curve.tokens_per_second)}
                == {len(curve.steps)}
            ),
        ),
        Rule(
            cel="self.validationLoss.size() == self.validationSteps.size()",
            message="validationLoss has one number for each of validationSteps",
            holds=lambda curve: len(curve.validation_loss) == len(curve.validation_steps),
        ),
    )
