"""Plots of the curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.forgetting.comparison import Measured, Point, Run, kept
from benchmarks.forgetting.methods import label

# Told apart by people who see few colours, too: by lightness among osft's ratios, by dashes between methods.
_STYLES = {
    "sft": ("#d55e00", "--"),
    "osft_0.1": ("#9ecae1", "-"),
    "osft_0.25": ("#4292c6", "-"),
    "osft_0.5": ("#08519c", "-"),
    "osft_0.75": ("#041f3d", "-"),
    "lora": ("#7f7f7f", ":"),
}
_LEVELS = np.linspace(0.35, 0.95, 25)


def draw(measured: Measured, file: Path) -> None:
    """Write an SVG and a PNG file of this name."""
    # What an SVG file is made of gets the same names each time.
    plt.rcParams["svg.hashsalt"] = "forgetting"
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    _over_steps(axes[0], measured, lambda point: point.old)
    axes[0].set_title("Kept: accuracy on the old facts")
    _over_steps(axes[1], measured, lambda point: point.new)
    axes[1].set_title("Learnt: accuracy on the new facts")
    _old_over_new(axes[2], measured)
    axes[2].set_title("Kept where as much is learnt")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(file.with_suffix(".png"), dpi=120)
    plt.close(figure)


def _over_steps(axes: Axes, measured: Measured, value: Callable[[Point], float]) -> None:
    for run, curves in measured.compared.items():
        values = np.array([[value(point) for point in curve] for curve in curves])
        _line(axes, run, measured, [point.step for point in curves[0]], values)
    axes.set_xlabel("steps of fine-tuning on the new facts")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.25)


def _old_over_new(axes: Axes, measured: Measured) -> None:
    for run, curves in measured.compared.items():
        reached = [(level, spread.values) for level in _LEVELS if (spread := kept(curves, level))]
        _line(
            axes,
            run,
            measured,
            [level for level, _ in reached],
            np.array([values for _, values in reached]).T,
        )
    axes.set_xlabel("accuracy on the new facts, first reached")
    axes.set_ylabel("accuracy on the old facts at that moment")
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.25)


def _line(axes: Axes, run: Run, measured: Measured, places: Sequence[float], values: np.ndarray) -> None:
    """The mean over the seeds, and their standard deviation to both sides; `values` is [seeds, places]."""
    method, rate = run
    color, dashes = _STYLES[method]
    # Thin, where it is not the rate that was chosen.
    width = 2.2 if rate == measured.chosen[method] else 1.1
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    axes.plot(places, mean, dashes, color=color, label=label(method, rate), lw=width)
    axes.fill_between(places, mean - deviation, mean + deviation, color=color, alpha=0.12, lw=0)
