"""The live view: where a job stands, in as many lines as there is something to say."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune_api.status import Checkpoint, FineTuneJobStatus, Phase, Progress, newest_state
from finetune_operator.cli.watching.pods import Gang
from finetune_operator.cli.watching.sparkline import sparkline
from finetune_operator.lifecycle import steps
from finetune_operator.monitoring.job_facts import disruptions
from finetune_operator.status import conditions
from finetune_operator.status.progress import duration

_STYLES = {
    Phase.RUNNING: "green",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.RESTARTING: "yellow",
    Phase.QUEUED: "yellow",
    Phase.SUSPENDED: "yellow",
}
# The widest first column, and what a line of numbers takes beside a sparkline.
_LABEL_WIDTH, _NUMBERS_WIDTH = 13, 34
_MAX_SPARKLINE, _MAX_BAR = 48, 40
_MOST_PODS = 8


class Panel:
    """A rich renderable; what it shows is set from outside, and times go on by themselves."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self.status = FineTuneJobStatus()
        self.gang: Gang | None = None
        """None where there are no pods to show."""
        self.shows_steps = True
        """Whether training is what the job is about just now."""
        self.message = ""
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the terminal is now."""
        if self.status.phase is None:
            return
        yield self._head()
        grid = Table.grid(padding=(0, 2))
        # On a narrow terminal what is said matters more than what it is called.
        is_wide = options.max_width >= 5 * _LABEL_WIDTH
        grid.add_column(style="dim", no_wrap=True, min_width=_LABEL_WIDTH if is_wide else None)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for label, value in self._rows(options.max_width):
            grid.add_row(label, value)
        yield grid

    def _head(self) -> Table:
        phase = self.status.phase
        assert phase is not None
        head = Table.grid(padding=(0, 1))
        # Three columns, the last of which takes what is left of the line.
        head.add_column()
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_row(
            "" if phase.is_terminal else self._spinner,
            Text(phase.value, style=f"bold {_STYLES.get(phase, '')}".strip()),
            Text(self.message),
        )
        return head

    def _rows(self, width: int) -> Iterator[tuple[str, Text | Table]]:
        status, now = self.status, self._clock()
        if status.progress is not None and self.shows_steps:
            yield from self._training(status.progress, width, now)
        if status.evaluation is not None and status.evaluation.summary:
            yield "evaluation", Text(status.evaluation.summary)
        if status.checkpoints:
            yield "checkpoints", Text(checkpoints(status.checkpoints, now))
        if (told := interruptions(status)) is not None:
            yield "interruptions", Text(told)
        if (told := queue(status, now)) is not None:
            yield "queue", Text(told)
        yield from self._pods()

    def _training(self, progress: Progress, width: int, now: datetime) -> Iterator[tuple[str, Text | Table]]:
        room = max(8, width - _LABEL_WIDTH - _NUMBERS_WIDTH)
        if progress.total_steps:
            line = Table.grid(padding=(0, 2))
            line.add_column()
            line.add_column(no_wrap=True, overflow="ellipsis")
            bar = ProgressBar(progress.total_steps, progress.step, width=min(room, _MAX_BAR))
            line.add_row(bar, Text(" ".join(filter(None, (progress.summary, eta(progress, now))))))
            yield "steps", line
        else:
            yield "steps", Text(str(progress.step))
        curve = self.status.curve
        if progress.loss is not None:
            course = sparkline(curve.loss, min(room, _MAX_SPARKLINE)) if curve is not None else ""
            first = f"  from {progress.initial_loss:.4f}" if progress.initial_loss is not None else ""
            yield "loss", Text.assemble(f"{progress.loss:.4f}", first, "  ", (course, "cyan"))
        if curve is not None and curve.validation_loss:
            course = sparkline(curve.validation_loss, min(room, _MAX_SPARKLINE))
            latest = curve.validation_loss[-1]
            shown = "not finite" if latest is None else f"{latest:.4f}"
            yield "validation", Text.assemble(shown, "  ", (course, "magenta"))
        if told := speed(self.status, progress):
            yield "speed", Text(told)

    def _pods(self) -> Iterator[tuple[str, Text | Table]]:
        if self.gang is None:
            return
        if self.gang.hidden is not None:
            yield "pods", Text(self.gang.hidden, style="yellow")
            return
        names = max((len(row.name) for row in self.gang.rows), default=0)
        nodes = max((len(row.node) for row in self.gang.rows), default=0)
        for number, row in enumerate(self.gang.rows[:_MOST_PODS]):
            words = Text.assemble(
                f"{row.name:<{names}}  {row.node:<{nodes}}  ", (row.words, "" if row.is_well else "yellow")
            )
            yield "" if number else "pods", words
        if (more := len(self.gang.rows) - _MOST_PODS) > 0:
            troubled = sum(not row.is_well for row in self.gang.rows[_MOST_PODS:])
            yield "", Text(f"and {more} more" + (f", {troubled} of them not well" if troubled else ""))


def eta(progress: Progress, now: datetime) -> str | None:
    """How long training will take yet, as of now rather than of the last report."""
    if progress.estimated_finish is None:
        return None
    return f" ETA {duration(max(0, (progress.estimated_finish - now).total_seconds()))}"


def speed(status: FineTuneJobStatus, progress: Progress) -> str:
    """The numbers that tell how training goes besides its loss."""
    subspaces = status.subspaces
    parts = [
        f"{progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second is not None else "",
        f"{progress.mfu:.0%} MFU" if progress.mfu is not None else "",
        f"learning rate {progress.learning_rate:.3g}" if progress.learning_rate is not None else "",
        f"gradient norm {progress.grad_norm:.3g}" if progress.grad_norm is not None else "",
        f"{subspaces.trainable_share:.1%} trained"
        if subspaces and subspaces.trainable_share is not None
        else "",
        f"leak {subspaces.leak:.1e}" if subspaces and subspaces.leak is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def checkpoints(found: list[Checkpoint], now: datetime) -> str:
    """What there is to go on from, and which weights are the best."""
    newest = max(found, key=lambda one: one.time)
    age = duration((now - newest.time).total_seconds())
    parts = [f"newest {newest.kind} of step {newest.step} ({age} ago)"]
    if (state := newest_state(found)) and state != newest.step:
        parts.append(f"restarts go on from step {state}")
    best = next((one for one in found if one.best), None)
    if best is not None:
        loss = f" ({best.validation_loss:.4g})" if best.validation_loss is not None else ""
        parts.append(f"best of step {best.step}{loss}")
    return ", ".join(parts)


def interruptions(status: FineTuneJobStatus) -> str | None:
    """How often training had to begin anew, and why."""
    preemptions = status.queue.preemptions if status.queue is not None else 0
    counts = {"restart": status.restarts or 0, "disruption": disruptions(status), "preemption": preemptions}
    told = [f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items() if count]
    if not told:
        return None
    ended = [one for one in status.attempts if one.end_time is not None and one.reason != steps.COMPLETED]
    last = f"; the last: attempt {ended[-1].number}, {ended[-1].reason}" if ended else ""
    return ", ".join(told) + last


def queue(status: FineTuneJobStatus, now: datetime) -> str | None:
    """How the job stands in its queue."""
    known = status.queue
    if known is None:
        return None
    if known.waiting_since is not None:
        return f"{known.name}, waiting for {duration((now - known.waiting_since).total_seconds())}"
    return f"{known.name}, admitted after {duration(known.waited_seconds)} in all"


def telling(status: FineTuneJobStatus, type_: str = conditions.READY) -> str:
    """What the condition of this type says."""
    condition = conditions.find(status.conditions, type_)
    return condition.message if condition is not None else ""
