"""Pure: the course of a run as series of points, from its status or from the files that its trainer wrote."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from finetune_api.curve import Curve
from finetune_api.report import EvaluationRecord, StepRecord

Points = tuple[tuple[int, float], ...]
"""Optimizer steps, and what was measured there. What was not finite has no point."""

Record = TypeVar("Record", StepRecord, EvaluationRecord)


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
    name: str, steps: Iterable[StepRecord], evaluations: Iterable[EvaluationRecord] = ()
) -> Course:
    """A run as its files tell it, step by step."""
    made, evaluated = in_force(steps), in_force(evaluations)
    at = [record.step for record in made]
    return Course(
        name,
        loss=_points(at, [record.loss for record in made]),
        validation=_points(
            [record.step for record in evaluated], [record.validation_loss for record in evaluated]
        ),
        learning_rate=_points(at, [record.learning_rate for record in made]),
        tokens_per_second=_points(at, [record.tokens_per_second for record in made]),
    )


def in_force(records: Iterable[Record]) -> list[Record]:
    """The records of the run that led to the newest one.

    An attempt that goes on from an earlier step takes back what was done after it, and does it again.
    """
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1].step >= record.step:
            kept.pop()
        kept.append(record)
    return kept


def _points(steps: Sequence[int], values: Sequence[float | None]) -> Points:
    pairs = zip(steps, values, strict=True)
    return tuple((step, value) for step, value in pairs if value is not None)
