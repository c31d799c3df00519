"""Pure: the course of a run as series of points, from its status or from the files that its trainer wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.curve import Curve
from finetune_api.report import EvaluationRecord, StepRecord

Points = tuple[tuple[int, float], ...]
"""Optimizer steps, and what was measured there. What was not finite has no point."""


@dataclass(frozen=True)
class Course:
    """How a run went."""

    name: str
    loss: Points = ()
    validation: Points = ()
    learning_rate: Points = ()
    tokens_per_second: Points = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (self.loss or self.validation or self.learning_rate or self.tokens_per_second)


def of_curve(name: str, curve: Curve) -> Course:
    """A run as its status tells it: in few points, each of which stands for several steps."""
    return Course(
        name,
        loss=_points(curve.steps, curve.loss),
        validation=_points(curve.validation_steps, curve.validation_loss),
        learning_rate=_points(curve.steps, curve.learning_rate),
        tokens_per_second=_points(curve.steps, curve.tokens_per_second),
    )


def of_records(
    name: str, steps: Sequence[StepRecord], evaluations: Sequence[EvaluationRecord] = ()
) -> Course:
    """A run as its files tell it, step by step."""
    at = [record.step for record in steps]
    return Course(
        name,
        loss=_points(at, [record.loss for record in steps]),
        validation=_points(
            [record.step for record in evaluations], [record.validation_loss for record in evaluations]
        ),
        learning_rate=_points(at, [record.learning_rate for record in steps]),
        tokens_per_second=_points(at, [record.tokens_per_second for record in steps]),
    )


def _points(steps: Sequence[int], values: Sequence[float | None]) -> Points:
    pairs = zip(steps, values, strict=True)
    return tuple((step, value) for step, value in pairs if value is not None)
