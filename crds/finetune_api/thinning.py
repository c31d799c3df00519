"""How the course of a run is thinned out to a Curve. Pure.

The points follow from the steps alone, so they are the same whether a run is followed step by step or read from its
files after a restart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_api.curve import MAX_POINTS, Curve
from finetune_api.evaluation import VALIDATION
from finetune_api.report import Metrics
from finetune_api.scores import Evaluated


@dataclass
class _Mean:
    sum: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.sum += value
        self.count += 1

    def join(self, other: "_Mean") -> None:
        self.sum += other.sum
        self.count += other.count

    @property
    def value(self) -> float | None:
        return self.sum / self.count if self.count else None


class _Point:
    """The steps of one point."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.last_step = 0
        self.learning_rate: float | None = None
        self._loss = _Mean()
        # Steps of a run have about as many tokens each, so what is averaged is the time that one takes.
        self._seconds_per_token = _Mean()

    def add(self, metrics: Metrics) -> None:
        self.last_step = metrics.step
        self.learning_rate = metrics.learning_rate
        if metrics.loss is not None:
            self._loss.add(metrics.loss)
        if metrics.tokens_per_second:
            self._seconds_per_token.add(1 / metrics.tokens_per_second)

    def join(self, later: "_Point") -> None:
        self.last_step = later.last_step
        self.learning_rate = later.learning_rate
        self._loss.join(later._loss)
        self._seconds_per_token.join(later._seconds_per_token)

    @property
    def loss(self) -> float | None:
        return self._loss.value

    @property
    def tokens_per_second(self) -> float | None:
        seconds = self._seconds_per_token.value
        return 1 / seconds if seconds else None


class Course:
    """The steps of a run so far, in at most MAX_POINTS points.

    A point stands for a power of two of steps. When there is no room for another one, each two become one: that costs
    next to nothing per step, and points stay where they are until then.
    """

    def __init__(self, steps: Iterable[Metrics] = ()) -> None:
        self._steps_per_point = 1
        self._points: list[_Point] = []
        for metrics in steps:
            self.add(metrics)

    def add(self, metrics: Metrics) -> None:
        """Tell of the next step. One that is not later than the last is not counted again."""
        if self._points and metrics.step <= self._points[-1].last_step:
            return
        while (number := (metrics.step - 1) // self._steps_per_point) >= MAX_POINTS:
            self._halve()
        if not self._points or self._points[-1].number != number:
            self._points.append(_Point(number))
        self._points[-1].add(metrics)

    def curve(self, evaluations: Sequence[Evaluated] = ()) -> Curve:
        """The course as it is told, with that of the validation."""
        judged = thinned([one for one in evaluations if VALIDATION in {score.name for score in one.sets}])
        return Curve(
            steps=[point.last_step for point in self._points],
            loss=[point.loss for point in self._points],
            learning_rate=[point.learning_rate for point in self._points],
            tokens_per_second=[point.tokens_per_second for point in self._points],
            validation_steps=[one.step for one in judged],
            validation_loss=[one.validation_loss for one in judged],
        )

    def _halve(self) -> None:
        self._steps_per_point *= 2
        halved: list[_Point] = []
        for point in self._points:
            point.number //= 2
            if halved and halved[-1].number == point.number:
                halved[-1].join(point)
            else:
                halved.append(point)
        self._points = halved


def thinned(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """At most MAX_POINTS of the evaluations, evenly: the first, which is that of the base model, and the latest too.

    Each is shown as it was measured: a mean of several models would be that of none.
    """
    every = 1
    while len(evaluations) > (MAX_POINTS - 1) * every:
        every *= 2
    chosen = list(evaluations[::every])
    if evaluations and chosen[-1] is not evaluations[-1]:
        chosen.append(evaluations[-1])
    return chosen
