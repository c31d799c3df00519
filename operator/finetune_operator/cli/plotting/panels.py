"""Pure: which charts a plot is made of, and what they share wherever they are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_operator.cli.plotting.series import Course, Points

X_LABEL = "optimizer step"


@dataclass(frozen=True)
class Line:
    """A series in a chart."""

    run: int
    """Which of the runs."""
    name: str
    """That of the run."""
    points: Points
    validation: bool = False
    """Few points that are far apart, each of them exact."""


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    """What is shown, with its unit."""
    lines: tuple[Line, ...]
    weight: int = 1
    """Its height beside the others'."""
    is_loss: bool = False
    from_zero: bool = False
    """Whether only the difference to nothing tells: noise is not to look like a collapse."""

    @property
    def values(self) -> list[float]:
        """All that is drawn."""
        return [value for line in self.lines for _, value in line.points]

    @property
    def has_validation(self) -> bool:
        """Whether there are losses of both kinds."""
        return any(line.validation for line in self.lines)


def panels(courses: Sequence[Course]) -> list[Panel]:
    """The charts of some runs, in the order in which they are drawn; those without a point are left out."""
    loss = [Line(number, course.name, course.loss) for number, course in enumerate(courses)]
    loss += [Line(number, course.name, course.validation, True) for number, course in enumerate(courses)]
    rates = [Line(number, course.name, course.learning_rate) for number, course in enumerate(courses)]
    speeds = [Line(number, course.name, course.tokens_per_second) for number, course in enumerate(courses)]
    found = (
        Panel("loss per token", _drawn(loss), weight=2, is_loss=True),
        Panel("learning rate", _drawn(rates)),
        Panel("tokens per second", _drawn(speeds), from_zero=True),
    )
    return [panel for panel in found if panel.lines]


def _drawn(lines: list[Line]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line.points)


def steps(panels: Sequence[Panel]) -> tuple[int, int]:
    """The first and the last step of all charts: they lie one above the other."""
    found = [step for panel in panels for line in panel.lines for step, _ in line.points]
    return min(found), max(found)


def ticks(low: int, high: int, most: int) -> list[int]:
    """At most so many round numbers from `low` to `high`."""
    span = max(1, high - low)
    exact = span / max(1, most - 1)
    magnitude = 10 ** math.floor(math.log10(exact)) if exact >= 1 else 1
    width = next(
        int(factor * magnitude)
        for factor in (1, 2, 5, 10, 20)
        if factor * magnitude >= 1 and span / (factor * magnitude) <= most - 1
    )
    first = -(-low // width) * width
    return list(range(first, high + 1, width))
