"""The logs in the directory of a run."""

import re
from pathlib import Path

from finetune_api import names
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.gang_logs.choice import STEPS, StepName, called
from finetune_operator.cli.gang_logs.lines import Line, of_file

_NODE = re.compile(r"node-(\d+)\.log")
_ATTEMPT = re.compile(r"attempt-(\w+)")


def read(
    directory: Path,
    attempt: int | None,
    step: StepName | None,
    rank: int | None,
    *,
    previous: bool,
    tail: int | None,
) -> list[list[Line]]:
    """The lines of every node of an attempt, or of a step; of the newest one if none is named. Raises CommandError."""
    number = _chosen(directory, attempt, step, previous=previous)
    folder = directory / names.attempt_logs(number)
    files = {
        int(found[1]): path
        for path in folder.glob(names.node_log("*"))
        if (found := _NODE.fullmatch(path.name))
    }
    if not files:
        raise CommandError(f"there is no log of {called(number)} in {folder}")
    if rank is not None and rank not in files:
        raise CommandError(
            f"{called(number)} has no log of rank {rank}: there are {', '.join(map(str, sorted(files)))}"
        )
    wanted = sorted(files) if rank is None else [rank]
    return [_lines(files[one], one, tail) for one in wanted]


def _chosen(directory: Path, attempt: int | None, step: StepName | None, *, previous: bool) -> int:
    if step is not None:
        return STEPS[step]
    logs = directory / names.LOGS_DIR
    labels = (found[1] for path in logs.glob("attempt-*") if (found := _ATTEMPT.fullmatch(path.name)))
    known = sorted(
        number for label in labels if (number := names.labelled_attempt(label)) is not None and number >= 0
    )
    if not known:
        raise CommandError(f"there are no logs in {logs}: name the directory of a run, or a job on a cluster")
    number = (attempt if attempt is not None else known[-1]) - previous
    if number not in known:
        raise CommandError(
            f"there is no log of attempt {number} in {logs}: there are {', '.join(map(str, known))}"
        )
    return number


def _lines(path: Path, rank: int, tail: int | None) -> list[Line]:
    try:
        texts = path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    lines = [of_file(rank, text) for text in texts]
    return lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]
