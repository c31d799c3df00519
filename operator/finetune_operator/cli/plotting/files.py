"""The files in which a trainer keeps the course of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import EvaluationRecord, StepRecord
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.plotting.series import Course, of_records

Record = TypeVar("Record", StepRecord, EvaluationRecord)


def read(path: Path) -> Course:
    """The course of a run: of its directory, or of its file of steps, beside which that of evaluations lies.

    Raises CommandError where there is none.
    """
    directory = path if path.is_dir() else path.parent
    steps = directory / names.METRICS_FILE if path.is_dir() else path
    if not steps.exists():
        raise CommandError(
            f"there is no {names.METRICS_FILE} in {directory}: name the directory of a run on its claim, which is "
            f"spec.storage.path in it, or a job on a cluster"
        )
    found = list(_records(steps, StepRecord))
    if not found:
        raise CommandError(f"{steps} has no optimizer step (yet)")
    # A copy has a name of its own.
    name = directory.resolve().name if steps.name == names.METRICS_FILE else steps.name
    return of_records(name, found, _records(directory / names.EVALUATIONS_FILE, EvaluationRecord))


def _records(file: Path, kind: type[Record]) -> Iterator[Record]:
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    for line in lines:
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            # The last line of a trainer that was killed, or that is just being written.
            continue
