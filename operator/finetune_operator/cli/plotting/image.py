"""Charts as an image."""

from pathlib import Path

from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.plotting.panels import X_LABEL, Line, Panel

SUFFIXES = (".png", ".svg")
_COLORS = ("#4c78a8", "#d1495b", "#2a9d8f", "#7b5ea7", "#e9a23b", "#6c757d")
_WIDTH, _HEIGHT = 8.0, 2.0
"""In inches, of a panel of weight 1."""


def write(path: Path, panels: list[Panel], *, log_scale: bool) -> None:
    """Draw the charts one above the other, over the same steps. Raises CommandError."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise CommandError(
            f"--output needs matplotlib ({error}): pip install 'finetune-operator[operator,plot]'. Without "
            "--output the plot is drawn in the terminal"
        ) from error
    weights = [panel.weight for panel in panels]
    figure = Figure(figsize=(_WIDTH, 0.8 + _HEIGHT * sum(weights)), dpi=150, layout="constrained")
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=weights)[:, 0]
    for panel, axes in zip(panels, drawn, strict=True):
        several = len({line.run for line in panel.lines}) > 1
        for line in panel.lines:
            steps = [step for step, _ in line.points]
            values = [value for _, value in line.points]
            axes.plot(steps, values, **_look(line), label=_label(line, panel, several=several))
        axes.set_ylabel(panel.title)
        if log_scale and panel.is_loss:
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5), useMathText=True)
        if panel.from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, lw=0.6)
        axes.margins(x=0.02)
        axes.spines[["top", "right"]].set_visible(False)
    if any(panel.has_validation for panel in panels) or len({line.run for line in panels[0].lines}) > 1:
        drawn[0].legend(frameon=False, fontsize=9)
    if len({line.name for panel in panels for line in panel.lines}) == 1:
        drawn[0].set_title(panels[0].lines[0].name, fontsize=11)
    figure.align_ylabels()
    drawn[-1].set_xlabel(X_LABEL)
    drawn[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    try:
        figure.savefig(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _look(line: Line) -> dict[str, object]:
    color = _COLORS[line.run % len(_COLORS)]
    if line.validation:
        return {"color": color, "marker": "o", "ms": 4.5, "lw": 1.4, "ls": "--"}
    # A single point has no line.
    return {"color": color, "lw": 1.5, "marker": "." if len(line.points) == 1 else ""}


def _label(line: Line, panel: Panel, *, several: bool) -> str:
    kind = "validation" if line.validation else "training"
    if not several:
        return kind
    return f"{line.name}, {kind}" if panel.has_validation else line.name
