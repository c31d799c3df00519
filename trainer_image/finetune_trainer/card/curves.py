"""The plot of a run's losses, as PNG."""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune_api.evaluation import VALIDATION
from finetune_api.report import StepRecord
from finetune_api.scores import Evaluated

_TRAINING = "#4c78a8"
_VALIDATION = "#d1495b"
# Of other sets.
_COLORS = ("#2a9d8f", "#e9a23b", "#7b5ea7", "#6c757d")
_MARKS = ("s", "^", "D", "v")
# A step's loss is smoothed over this share of the steps to either side, and over so many of them at most.
_SMOOTHED, _MOST_SMOOTHED = 1 / 40, 50


def draw(steps: Sequence[StepRecord], history: Sequence[Evaluated], delivered: int) -> bytes | None:
    """The losses of steps and evaluations; `delivered` is the step whose weights are the result.

    None where there are too few to see anything in.
    """
    losses = [(record.step, record.loss) for record in steps if record.loss is not None]
    if len(losses) + len(history) < 2:
        return None
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _training(axes, losses)
    _evaluated(axes, history, delivered)
    _dress(axes)
    image = io.BytesIO()
    # The same losses make the same file.
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _training(axes: Axes, losses: Sequence[tuple[int, float]]) -> None:
    if not losses:
        return
    steps = [step for step, _ in losses]
    values = [loss for _, loss in losses]
    width = min(round(len(losses) * _SMOOTHED), _MOST_SMOOTHED)
    if width < 2:
        axes.plot(
            steps, values, color=_TRAINING, lw=1.8, label="training", marker="." if len(losses) < 3 else ""
        )
        return
    axes.plot(steps, values, color=_TRAINING, alpha=0.25, lw=0.8)
    axes.plot(
        steps,
        smoothed(values, width),
        color=_TRAINING,
        lw=1.8,
        label=f"training, mean of {2 * width + 1} steps",
    )


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Each value as the mean of itself and of up to `width` to either side, as far as there are any."""
    sums = [0.0, *accumulate(values)]
    result = []
    for place in range(len(values)):
        first, end = max(0, place - width), min(len(values), place + width + 1)
        result.append((sums[end] - sums[first]) / (end - first))
    return result


def _evaluated(axes: Axes, history: Sequence[Evaluated], delivered: int) -> None:
    names = list(dict.fromkeys(score.name for one in history for score in one.sets))
    looks = _looks()
    for name in names:
        points = {
            one.step: score.loss
            for one in history
            for score in one.sets
            if score.name == name and score.loss is not None
        }
        if name != VALIDATION:
            color, mark = next(looks)
            axes.plot(*_xy(points), color=color, marker=mark, ms=4, lw=1.2, label=name)
            continue
        axes.plot(*_xy(points), color=_VALIDATION, marker="o", ms=4.5, lw=1.8, label=name)
        if delivered in points:
            axes.plot(
                delivered,
                points[delivered],
                color=_VALIDATION,
                marker="o",
                ms=11,
                mfc="none",
                mew=1.6,
                ls="none",
                label=f"the result: step {delivered}",
            )


def _xy(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())


def _looks() -> Iterator[tuple[str, str]]:
    """A color and a mark for each of the sets: told apart by either, too, as far as there are so many."""
    return (
        (_COLORS[number % len(_COLORS)], _MARKS[(number + number // len(_COLORS)) % len(_MARKS)])
        for number in count()
    )


def _dress(axes: Axes) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
