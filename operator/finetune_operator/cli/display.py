"""How a job's status is followed on a terminal, or in a log."""

import time
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from finetune_api import status as api
from finetune_api.report import Stage
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.cli.watching.panel import Panel, telling
from finetune_operator.cli.watching.pods import Gang
from finetune_operator.lifecycle import gang
from finetune_operator.status import conditions
from finetune_operator.status.progress import decomposing
from finetune_operator.status.transitions import events

# Where there is no terminal, progress is a line now and then.
PLAIN_PROGRESS_SECONDS = 15.0


def news(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[tuple[str, str]]:
    """What happened between two statuses, as pairs of a word and a sentence."""
    told = events(old, new)
    for event in told:
        yield event.reason, event.message
    before = conditions.find(old.conditions, conditions.READY)
    ready = conditions.find(new.conditions, conditions.READY)
    if new.phase is None or ready is None or new.phase.is_terminal or new.phase is Phase.RESTARTING:
        return
    if ready.message in [event.message for event in told]:
        return
    if old.phase != new.phase or before is None or before.reason != ready.reason:
        yield new.phase.value, ready.message


def details(
    progress: api.Progress,
    subspaces: api.Subspaces | None = None,
    validation_loss: float | None = None,
) -> str:
    """The numbers beside the bar."""
    parts = [progress.summary]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if validation_loss is not None:
        parts.append(f"validation {validation_loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.remaining is not None:
        parts.append(f"ETA {progress.remaining}")
    if subspaces is not None and subspaces.trainable_share is not None:
        parts.append(f"{subspaces.trainable_share:.1%} trained")
    if subspaces is not None and subspaces.leak is not None:
        parts.append(f"leak {subspaces.leak:.1e}")
    return "  ".join(part for part in parts if part)


def _details(status: FineTuneJobStatus, progress: api.Progress) -> str:
    validation_loss = status.evaluation.validation_loss if status.evaluation else None
    return details(progress, status.subspaces, validation_loss)


def is_decomposing(status: FineTuneJobStatus) -> bool:
    """Whether the trainer is at decomposing the model's matrices just now."""
    progressing = conditions.find(status.conditions, conditions.PROGRESSING)
    is_loading = progressing is not None and progressing.reason == gang.STAGES[Stage.LOADING][1]
    return is_loading and decomposing(status.subspaces) is not None


def _is_uploading(status: FineTuneJobStatus) -> bool:
    published = conditions.find(status.conditions, conditions.PUBLISHED)
    return published is not None and published.status == "Unknown"


def _told_by(status: FineTuneJobStatus) -> str | None:
    """The condition that tells how far it has come with what is not training; None where that is training."""
    if _is_uploading(status):
        return conditions.PUBLISHED
    if is_decomposing(status) or status.phase is Phase.MERGING:
        return conditions.READY
    return conditions.READY if status.phase is Phase.PREPARING and status.progress is None else None


class Display:
    """Shows statuses as they come: what happens as lines; on a terminal, where the job stands in a view below."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known = FineTuneJobStatus()
        self._plain_step = 0
        self._plain_time = -PLAIN_PROGRESS_SECONDS
        self._panel = Panel()
        self.is_live = console.is_terminal and not console.is_dumb_terminal
        """Whether there is a view; else, there are more lines."""
        self._live = Live(self._panel, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_live:
            self._live.stop()

    def show(self, status: FineTuneJobStatus) -> None:
        """Show what is new in a status."""
        for word, sentence in news(self._known, status):
            self.say(word, sentence)
        type_ = _told_by(status)
        if self.is_live:
            self._show_live(status, type_)
        elif type_ is not None:
            self._show_words(status, type_)
        elif status.progress is not None:
            self._show_progress(status.progress, _details(status, status.progress))
        self._known = status

    def show_pods(self, gang: Gang) -> None:
        """Show the pods as they are now."""
        self._panel.gang = gang

    def say(self, word: str, sentence: str) -> None:
        """Print a line above the view."""
        line = Text.assemble((f"{datetime.now():%H:%M:%S}  ", "dim"), (f"{word:<16}", "bold"), sentence)
        self._console.print(line, soft_wrap=True)

    def _show_live(self, status: FineTuneJobStatus, type_: str | None) -> None:
        self._panel.status = status
        self._panel.shows_steps = type_ is None
        self._panel.message = telling(status, type_ or conditions.READY)
        self._live.refresh()

    def _show_words(self, status: FineTuneJobStatus, type_: str) -> None:
        """Tell how far it has come with what is not training, as the condition of this type does."""
        told, before = (conditions.find(known.conditions, type_) for known in (status, self._known))
        # That it has begun is news, and told already.
        if told is None or before is None or told.reason != before.reason or told.message == before.message:
            return
        now = time.monotonic()
        if now - self._plain_time >= PLAIN_PROGRESS_SECONDS:
            self._plain_time = now
            self.say("Progress", told.message)

    def _show_progress(self, progress: api.Progress, description: str) -> None:
        if progress.step == self._plain_step:
            return
        now = time.monotonic()
        if now - self._plain_time >= PLAIN_PROGRESS_SECONDS or progress.step == progress.total_steps:
            self._plain_step, self._plain_time = progress.step, now
            self.say("Progress", description)
