"""The files in which a trainer keeps the course of a run."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import EvaluationRecord, StepRecord
from finetune_operator.cli.errors import CommandError

Record = TypeVar("Record", StepRecord, EvaluationRecord)


def steps(file: Path) -> list[StepRecord]:
    """The steps of a run that led to its newest one. Raises CommandError where they cannot be read."""
    return in_force(_records(file, StepRecord))


def evaluations(directory: Path) -> list[EvaluationRecord]:
    """The evaluations of a run that led to its newest one; none where there were none."""
    return in_force(_records(directory / names.EVALUATIONS_FILE, EvaluationRecord))


def in_force(records: Iterable[Record]) -> list[Record]:
    """The records of the run that led to the newest one.

    An attempt that goes on from an earlier step takes back what was done after it, and does it again.
    """
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1].step >= record.step:
            kept.pop()
        kept.append(record)
    return kept


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
