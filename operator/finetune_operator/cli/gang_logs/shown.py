"""How lines of a gang's pods are printed."""

from rich.console import Console
from rich.text import Text

from finetune_operator.cli.gang_logs.lines import Line

# Of the ranks, in their order.
_COLORS = ("cyan", "yellow", "green", "magenta", "blue", "red", "bright_cyan", "bright_yellow")


class Printer:
    """Prints lines, each with the rank of its pod in front where there are several."""

    def __init__(self, console: Console, *, pods: int) -> None:
        self._console = console
        self._width = len(str(pods - 1)) if pods > 1 else 0

    def print(self, line: Line) -> None:
        """Print one."""
        # What a progress bar has drawn over itself is of no interest.
        text = Text(line.text.rpartition("\r")[2].expandtabs())
        if self._width:
            color = _COLORS[line.rank % len(_COLORS)]
            text = Text.assemble((f"{line.rank:>{self._width}} | ", color), text)
        self._console.print(text, soft_wrap=True)
