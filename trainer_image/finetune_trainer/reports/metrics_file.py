"""`metrics.jsonl`: one line for each optimizer step of the run, in the order of the steps."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from finetune_api.report import StepRecord
from finetune_trainer.storage import Storage

# Where the last lines of the file are looked for: a line has some hundred bytes.
_TAIL_BYTES = 1 << 16


class MetricsFile:
    """The file, open to add lines to. Only rank 0 has it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._file = storage.metrics.open("ab", buffering=0)
        self.position = self._file.tell()
        """Length of the file. A state for restarts remembers it, and `rewind` comes back to it."""
        # Whoever wrote before may have been killed in the middle of a line.
        if not _ends_line(storage.metrics, self.position):
            self._write(b"\n")

    def append(self, record: StepRecord) -> None:
        """Add the line of a step."""
        self._write(record.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")

    def rewind(self, step: int, position: int | None, *, attempt: int) -> None:
        """Take out the steps after `step`, which this attempt is about to do again.

        Nothing is lost: they go to a file of the attempt that made them. `position` is where the line of `step` ended
        when its state was saved; where that is not known, or no longer true, lines are counted.
        """
        if step == 0:
            position = 0
        elif position is None or position > self.position or not _ends_line(self._storage.metrics, position):
            position = _end_of(self._storage.metrics, step)
        if position == self.position:
            return
        self._set_aside(position, attempt)
        self._file.truncate(position)
        self.position = position

    def close(self) -> None:
        """Nothing more will be added."""
        self._file.close()

    def _set_aside(self, position: int, attempt: int) -> None:
        made: dict[int, list[bytes]] = {}
        with self._storage.metrics.open("rb") as file:
            file.seek(position)
            for line in file:
                # What was cut off in its middle belongs to the lines before it.
                attempt = _attempt_of(line) or attempt
                made.setdefault(attempt, []).append(line)
        for maker, lines in made.items():
            kept = self._storage.repeated_steps(maker)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.open("ab") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def _write(self, data: bytes) -> None:
        # A volume that becomes full takes a part first; only what comes then is an error.
        while data:
            written = self._file.write(data)
            self.position += written
            data = data[written:]


def records(storage: Storage) -> Iterator[StepRecord]:
    """All steps in the file."""
    for line in _lines(storage.metrics):
        if record := _record(line):
            yield record


def last_record(storage: Storage, *, up_to: int | None = None) -> StepRecord | None:
    """The last step in the file; with `up_to`, the last that is no later than that step."""
    end = None if up_to is None else _end_of(storage.metrics, up_to)
    for line in reversed(_tail(storage.metrics, end).splitlines()):
        if record := _record(line):
            return record
    return None


def _end_of(file: Path, step: int) -> int:
    """Where the line of the last step up to `step` ends: what was cut off after it is not to stay."""
    end = offset = 0
    for line in _lines(file):
        offset += len(line)
        record = _record(line)
        if record is not None and record.step > step:
            break
        if record is not None:
            end = offset
    return end


def _record(line: bytes) -> StepRecord | None:
    # A line that was cut off, or one of a trainer that kept Reports here, is no step's.
    try:
        return StepRecord.model_validate_json(line)
    except ValidationError:
        return None


def _attempt_of(line: bytes) -> int | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    attempt = found.get("attempt") if isinstance(found, dict) else None
    return attempt if isinstance(attempt, int) else None


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            yield from opened
    except FileNotFoundError:
        return


def _ends_line(file: Path, position: int) -> bool:
    return position == 0 or _tail(file, position, size=1) == b"\n"


def _tail(file: Path, end: int | None, *, size: int = _TAIL_BYTES) -> bytes:
    """What comes right before `end`."""
    try:
        with file.open("rb") as opened:
            end = opened.seek(0, os.SEEK_END) if end is None else end
            opened.seek(max(0, end - size))
            return opened.read(min(size, end))
    except FileNotFoundError:
        return b""
