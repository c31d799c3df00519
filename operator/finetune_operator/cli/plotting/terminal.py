"""Charts as lines of text."""

import math
from collections.abc import Callable
from typing import Any

import plotext  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from finetune_operator.cli.plotting.panels import X_LABEL, Line, Panel, steps, ticks

# Of the runs, in their order, as codes of plotext and of rich.
_COLORS = ("blue", "red", "green", "magenta", "cyan", "yellow")
_CODES = {"blue": 12, "red": 9, "green": 10, "magenta": 13, "cyan": 14, "yellow": 11}
_CURVE, _POINT = "braille", "●"
_MIN_WIDTH, _MAX_WIDTH, _MIN_HEIGHT = 30, 160, 8


def draw(console: Console, panels: list[Panel], *, log_scale: bool) -> None:
    """Print the charts, as large as the terminal allows.

    Without colors, several runs are told apart by their number.
    """
    width = max(_MIN_WIDTH, min(_MAX_WIDTH, console.width))
    # Each panel has a heading of its own; the prompt comes below.
    room = console.height - len(panels) - 1 if console.is_terminal else 14 * len(panels)
    unit = room / sum(panel.weight for panel in panels)
    colorless = not console.is_terminal or console.no_color
    for number, panel in enumerate(panels):
        numbered = colorless and len({line.run for line in panel.lines}) > 1
        console.print(_heading(panel, numbered=numbered), soft_wrap=True)
        height = max(_MIN_HEIGHT, int(unit * panel.weight))
        text = _chart(
            panel,
            (width, height),
            steps(panels),
            log_scale=log_scale and panel.is_loss,
            numbered=numbered,
            is_last=number == len(panels) - 1,
        ).string(colorless)
        console.print(Text(text.rstrip("\n")) if colorless else Text.from_ansi(text), soft_wrap=True)


def _heading(panel: Panel, *, numbered: bool) -> Text:
    heading = Text(panel.title, style="bold")
    runs = {line.run: line.name for line in panel.lines}
    for run, name in runs.items():
        sign = str(run + 1) if numbered else "━"
        heading.append(f"   {sign} ", style=f"not bold {_color(run)}").append(name, style="not bold")
    if panel.has_validation:
        heading.append(f"   {_POINT} validation", style="not bold")
    return heading


def _color(run: int) -> str:
    return _COLORS[run % len(_COLORS)]


def _chart(
    panel: Panel,
    size: tuple[int, int],
    span: tuple[int, int],
    *,
    log_scale: bool,
    numbered: bool,
    is_last: bool,
) -> Any:
    # plotext has one figure; what was drawn in it before is of no more use.
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(*size)
    # The ruler shows what was measured, wherever the chart has it.
    place = math.log10 if log_scale and min(panel.values) > 0 else float
    for line in panel.lines:
        figure.draw(_signal(figure, line, place, numbered=numbered))
    marks = ticks(*span, max(2, size[0] // 12))
    # A run of one step has a width, too.
    figure.ruler("x").lim(span[0], max(span[1], span[0] + 1))
    figure.ruler("x").ticks(marks, [f"{mark:,}" for mark in marks])
    _set_values(figure.ruler("y", "left"), panel, place, most=size[1] // 3)
    if is_last:
        figure.label(X_LABEL, axis="x")
    return figure.build()


def _set_values(ruler: Any, panel: Panel, place: Callable[[float], float], *, most: int) -> None:
    low, high = place(0 if panel.from_zero else min(panel.values)), place(max(panel.values))
    if high <= low:
        # Of a single value the chart finds a middle by itself.
        marks = [high]
    else:
        marks = [low + (high - low) * number / (most - 1) for number in range(most)]
        ruler.lim(low, high)
    shown = [10**mark if place is math.log10 else mark for mark in marks]
    ruler.ticks(marks, [f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" for value in shown])


def _signal(figure: Any, line: Line, place: Callable[[float], float], *, numbered: bool) -> Any:
    mark = _POINT if line.validation else str(line.run + 1)[-1] if numbered else _CURVE
    signal = figure.signal(
        [step for step, _ in line.points],
        [place(value) for _, value in line.points],
        marker=plotext.marker(mark, _CODES[_color(line.run)]),
    )
    if not line.validation:
        signal.lines()
    return signal
