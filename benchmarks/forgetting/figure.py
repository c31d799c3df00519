"""Plots of the curves: a column for each learning rate."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from benchmarks.forgetting.comparison import Curve, Measured, Point, kept
from benchmarks.forgetting.methods import METHODS, written

# Told apart by people who see few colours, too: by lightness among osft's ratios, by dashes between methods.
_STYLES = {
    "sft": ("#d55e00", "--"),
    "osft_0.25": ("#6baed6", "-"),
    "osft_0.5": ("#2171b5", "-"),
    "osft_0.75": ("#041f3d", "-"),
    "lora": ("#7f7f7f", ":"),
}
_LEVELS = np.linspace(0.35, 0.95, 25)


def draw(measured: Measured, file: Path) -> None:
    """Write an SVG and a PNG file of this name."""
    # What an SVG file is made of gets the same names each time.
    plt.rcParams["svg.hashsalt"] = "forgetting"
    rates = sorted({rate for _, rate in measured.curves})
    figure, axes = plt.subplots(
        3, len(rates), figsize=(4.4 * len(rates), 10.5), sharey=True, layout="constrained", squeeze=False
    )
    for column, rate in zip(axes.T, rates, strict=True):
        curves = {method: measured.curves[method, rate] for method in METHODS}
        _over_steps(column[0], curves, lambda point: point.old)
        _over_steps(column[1], curves, lambda point: point.new)
        _old_over_new(column[2], curves)
        column[0].set_title(f"learning rate {written(rate)}")
    axes[0][0].set_ylabel("kept: accuracy on the old facts")
    axes[1][0].set_ylabel("learnt: accuracy on the new facts")
    axes[2][0].set_ylabel("kept where as much is learnt")
    axes[0][0].set_ylim(0, 1.03)
    axes[0][0].yaxis.set_major_formatter("{x:.0%}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(file.with_suffix(".png"), dpi=110)
    plt.close(figure)


def _over_steps(axes: Axes, by_method: dict[str, list[Curve]], value: Callable[[Point], float]) -> None:
    for method, curves in by_method.items():
        values = np.array([[value(point) for point in curve] for curve in curves])
        _line(axes, method, [point.step for point in curves[0]], values)
    axes.set_xlabel("steps of fine-tuning on the new facts")
    axes.grid(alpha=0.25)


def _old_over_new(axes: Axes, by_method: dict[str, list[Curve]]) -> None:
    for method, curves in by_method.items():
        reached = [(level, spread.values) for level in _LEVELS if (spread := kept(curves, level))]
        if reached:
            levels, values = zip(*reached, strict=True)
            _line(axes, method, levels, np.array(values).T)
    axes.set_xlabel("accuracy on the new facts, first reached")
    axes.set_xlim(_LEVELS[0], _LEVELS[-1])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.25)


def _line(axes: Axes, method: str, places: Sequence[float], values: npt.NDArray[np.float64]) -> None:
    """The mean over the seeds, and their standard deviation to both sides; `values` is [seeds, places]."""
    color, dashes = _STYLES[method]
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    axes.plot(places, mean, dashes, color=color, label=METHODS[method].label, lw=2)
    axes.fill_between(places, mean - deviation, mean + deviation, color=color, alpha=0.12, lw=0)
