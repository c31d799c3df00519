"""`evaluations.jsonl`: one line for each evaluation of the run, in the order of the steps.

When training stops and which weights are the best follow from it, so each line is flushed to disk before anything
else happens: whatever ends the process then, the next attempt comes to the same conclusions.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from finetune_api.report import EvaluationRecord
from finetune_trainer import commit
from finetune_trainer.storage import Storage


def records(storage: Storage) -> list[EvaluationRecord]:
    """All evaluations in the file."""
    return [record for _, record in _lines(storage.evaluations) if record is not None]


def append(storage: Storage, record: EvaluationRecord) -> None:
    """Add the line of an evaluation, for good."""
    file = storage.evaluations
    is_new = not file.exists()
    # Whoever wrote before may have been killed in the middle of a line.
    begins_line = is_new or file.read_bytes()[-1:] in (b"", b"\n")
    _add(file, [(b"" if begins_line else b"\n") + _line(record)])
    if is_new:
        commit.flush(file.parent)


def rewind(storage: Storage, step: int) -> None:
    """Take out the evaluations after `step`, which are about to be done again.

    Nothing is lost: they go to a file of the attempt that made them.
    """
    found = list(_lines(storage.evaluations))
    later = [record for _, record in found if record is not None and record.step > step]
    if not later:
        return
    for attempt in sorted({record.attempt for record in later}):
        kept = storage.repeated_evaluations(attempt)
        kept.parent.mkdir(parents=True, exist_ok=True)
        _add(kept, [_line(record) for record in later if record.attempt == attempt])
    earlier = [line for line, record in found if record is not None and record.step <= step]
    commit.replace_file(storage.evaluations, b"".join(earlier).decode(), durable=True)


def _add(file: Path, lines: Iterable[bytes]) -> None:
    with file.open("ab") as opened:
        opened.writelines(lines)
        opened.flush()
        os.fsync(opened.fileno())


def _line(record: EvaluationRecord) -> bytes:
    return record.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"


def _lines(file: Path) -> list[tuple[bytes, EvaluationRecord | None]]:
    """Every line, with what it says; None of one that was cut off before its end."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [(line, _record(line)) for line in lines]


def _record(line: bytes) -> EvaluationRecord | None:
    try:
        return EvaluationRecord.model_validate_json(line)
    except ValidationError:
        return None
