"""How the processes of one node ended, and which of them explains the others."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from finetune_api.failure import ExitCode, PodEnd, cause_of, culprit
from finetune_api.report import Failure

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


def leave(process: str, exit_code: int, message: str, details: Sequence[str] = ()) -> None:
    """Leave a cause for this node's first process. Does nothing where nobody will read it."""
    if directory := os.environ.get(ENV_CAUSES):
        cause = Cause(process, exit_code, message, time.time(), list(details))
        (Path(directory) / f"{process.replace(' ', '-')}.json").write_text(json.dumps(asdict(cause)))


def collect(directory: Path) -> list[Cause]:
    """All causes that were left, the earliest first."""
    found = [Cause(**json.loads(file.read_text())) for file in directory.glob("*.json")]
    return sorted(found, key=lambda cause: cause.time)


def explain(causes: list[Cause]) -> Failure | None:
    """The cause that explains the others; None if there is none."""
    if not causes:
        return None
    told = [PodEnd(pod=cause.process, exit_code=cause.exit_code, message=cause.message) for cause in causes]
    end = culprit(told)
    assert end.exit_code is not None
    details = causes[told.index(end)].details
    return Failure.of(end.exit_code, end.message or cause_of(end.exit_code).reason, details)


def from_signal(number: int) -> ExitCode:
    """The exit code for a process that a signal ended."""
    return {9: ExitCode.KILLED, 15: ExitCode.TERMINATED}.get(number, ExitCode.ERROR)
