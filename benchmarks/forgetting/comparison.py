"""Pure: what a method has kept where it has learnt as much as the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

# Accuracy from which on something counts as learnt.
LEARNT = 0.9


@dataclass(frozen=True)
class Point:
    """How much a model knew after so many steps of fine-tuning."""

    step: int
    old: float
    """Accuracy on what it had been taught before."""
    new: float
    """Accuracy on what it is taught now."""


Curve = Sequence[Point]
"""From step 0 on, which is before fine-tuning."""

Run = tuple[str, float]
"""A method at a learning rate."""


@dataclass(frozen=True)
class Reached:
    """The first moment at which the new was known to some level."""

    step: float
    old: float


def where_first(curve: Curve, level: float) -> Reached | None:
    """Where `new` first reaches the level, on straight lines between the points; None if it never does."""
    assert curve[0].new < level, f"{level} is reached before training"
    for before, after in pairwise(curve):
        if after.new >= level:
            share = (level - before.new) / (after.new - before.new)
            return Reached(
                before.step + share * (after.step - before.step),
                before.old + share * (after.old - before.old),
            )
    return None


@dataclass(frozen=True)
class Spread:
    """One quantity over the seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The value that is reported."""
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation from one seed to the next."""
        return stdev(self.values)


def kept(curves: Sequence[Curve], level: float) -> Spread | None:
    """Accuracy on the old where the new first reaches the level, by seed; None unless it does with every seed."""
    reached = [where_first(curve, level) for curve in curves]
    return Spread([each.old for each in reached if each]) if all(reached) else None


def steps(curves: Sequence[Curve], level: float) -> Spread | None:
    """Steps until the new first reaches the level, by seed; None unless it does with every seed."""
    reached = [where_first(curve, level) for curve in curves]
    return Spread([each.step for each in reached if each]) if all(reached) else None


def kept_beside(curves: Sequence[Curve], others: Sequence[Curve]) -> Spread | None:
    """How much more of the old the former keep where the new is learnt, by seed; None unless all learn it."""
    mine, theirs = kept(curves, LEARNT), kept(others, LEARNT)
    if mine is None or theirs is None:
        return None
    return Spread([one - other for one, other in zip(mine.values, theirs.values, strict=True)])


def ends(curves: Sequence[Curve]) -> tuple[Spread, Spread]:
    """Accuracy on the old and on the new after the last step, by seed."""
    return Spread([curve[-1].old for curve in curves]), Spread([curve[-1].new for curve in curves])


def gentlest(by_rate: Mapping[float, Sequence[Curve]]) -> float:
    """The lowest learning rate with which the new is learnt, judged by the new alone.

    The lower, the less is forgotten, by every method: so each is seen at its best. Where none learns enough, the one
    that learns most.
    """
    learnt = {rate: min(curve[-1].new for curve in curves) for rate, curves in by_rate.items()}
    enough = [rate for rate, new in learnt.items() if new >= LEARNT]
    return min(enough) if enough else max(learnt, key=lambda rate: learnt[rate])


@dataclass(frozen=True)
class Measured:
    """A whole benchmark."""

    curves: dict[Run, list[Curve]]
    """By method and rate, then by seed."""
    chosen: dict[str, float]
    """The rate that was chosen on other seeds, by method."""
