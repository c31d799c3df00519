"""How the processes of one node ended, and which of them explains the others."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from finetune_api.failure import ExitCode, PodEnd, cause_of, culprit
from finetune_api.report import Failure
from finetune_trainer import commit
from finetune_trainer.ends import symptoms

# Where processes of a node leave their causes for its first process to read.
ENV_CAUSES = "FINETUNE_CAUSES"


@dataclass(frozen=True)
class Cause:
    """How one process ended."""

    process: str
    exit_code: int
    message: str
    time: float
    details: list[str] = field(default_factory=list)
    log: str | None = None
    """What it said about it."""
    signal: int | None = None
    """The signal that ended it, so that it said nothing."""


def leave(
    process: str,
    exit_code: int,
    message: str,
    details: Sequence[str] = (),
    *,
    log: str | None = None,
    signal: int | None = None,
) -> None:
    """Leave a cause for this node's first process. Does nothing where nobody will read it."""
    if directory := os.environ.get(ENV_CAUSES):
        cause = Cause(process, exit_code, message, time.time(), list(details), log, signal)
        # Whole or not at all: the process may be killed any moment.
        file = Path(directory) / f"{process.replace(' ', '-')}.json"
        commit.replace_file(file, json.dumps(asdict(cause)))


def of_signal(process: str, number: int) -> Cause:
    """The cause of a process that a signal ended."""
    message = f"{process} was ended by {signal.Signals(number).name}"
    return Cause(process, from_signal(number), message, time.time(), signal=number)


def collect(directory: Path) -> list[Cause]:
    """All causes that were left, the earliest first."""
    found = [Cause(**json.loads(file.read_text())) for file in directory.glob("*.json")]
    return sorted(found, key=lambda cause: cause.time)


def explain(causes: Sequence[Cause], output: str) -> Failure | None:
    """The cause that explains the others; None if there is none.

    `output` is the end of what the node printed: it speaks for processes that left no word of their own.
    """
    if not causes:
        return None
    causes = [_with_last_words(cause, output) for cause in causes]
    told = [PodEnd(pod=cause.process, exit_code=cause.exit_code, message=cause.message) for cause in causes]
    end = causes[told.index(culprit(told))]
    # Whoever was asked to stop has nothing to show.
    log = None if end.exit_code == ExitCode.TERMINATED else end.log or output
    return Failure.of(end.exit_code, end.message or cause_of(end.exit_code).reason, end.details, log)


def from_signal(number: int) -> ExitCode:
    """The exit code for a process that a signal ended."""
    return {9: ExitCode.KILLED, 15: ExitCode.TERMINATED}.get(number, ExitCode.ERROR)


def _with_last_words(cause: Cause, output: str) -> Cause:
    """Who ends himself in native code, as NCCL's watchdog does when a collective takes too long, says why before."""
    if cause.signal != signal.SIGABRT or (words := symptoms.last_words(output)) is None:
        return cause
    symptom = symptoms.of_native_code(words) or symptoms.of_collectives(words)
    return replace(
        cause,
        exit_code=symptom.exit_code if symptom else cause.exit_code,
        message=f"{symptom.meaning}: {words}" if symptom else f"{cause.message}: {words}",
    )
