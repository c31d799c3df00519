"""What earlier processes of this run left on the storage volume."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from finetune_api.report import Report, Stage
from finetune_api.status import MAX_LISTED_CHECKPOINTS, Checkpoint, Output
from finetune_trainer import commit
from finetune_trainer.commit import Manifest
from finetune_trainer.storage import Storage

# Where the last line of a file is looked for: several times what a Report can have.
_TAIL_BYTES = 1 << 20


def finished_output(storage: Storage) -> Output | None:
    """The run's result, if it is complete."""
    manifest = commit.read(storage.output, uid=storage.uid)
    return output_of(storage, manifest) if manifest else None


def output_of(storage: Storage, manifest: Manifest) -> Output:
    """The result as a Report names it."""
    return Output(path=storage.on_claim(storage.output), format="model", bytes=manifest.bytes)


def complete(directory: Path, *, uid: str) -> Iterator[tuple[Path, Manifest]]:
    """The complete directories of this run inside `directory`, in the order of their names."""
    for path in sorted(directory.glob("step-*")):
        if manifest := commit.read(path, uid=uid):
            yield path, manifest


def checkpoints(storage: Storage) -> list[Checkpoint]:
    """The newest complete checkpoints, oldest first, as many as a Report lists."""
    found = [
        checkpoint_of(storage, path, manifest)
        for directory in (storage.checkpoints, storage.resume)
        for path, manifest in complete(directory, uid=storage.uid)
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.time)[-MAX_LISTED_CHECKPOINTS:]


def checkpoint_of(storage: Storage, path: Path, manifest: Manifest) -> Checkpoint:
    """A complete directory as a Report names it."""
    kind = "resume" if path.parent == storage.resume else "weights"
    return Checkpoint(
        name=f"{path.parent.name}/{path.name}",
        step=manifest.facts["step"],
        epoch=manifest.facts["epoch"],
        kind=kind,
        path=storage.on_claim(path),
        bytes=manifest.bytes,
        time=manifest.time,
    )


def last_report(storage: Storage, attempt: int) -> Report:
    """What this run reported last, as a Report of `attempt` that follows it."""
    for line in reversed(_tail(storage.metrics, _TAIL_BYTES).splitlines()):
        try:
            report = Report.model_validate_json(line)
        except ValidationError:
            # The writer was killed in the middle of a line, or the volume filled up.
            continue
        if report.attempt == attempt:
            return report.model_copy(update={"sequence": report.sequence + 1, "failure": None})
        fresh = {"attempt": attempt, "sequence": 0, "failure": None, "resumed_from_step": None}
        return report.model_copy(update=fresh)
    return Report(attempt=attempt, sequence=0, stage=Stage.STARTING)


def open_metrics(storage: Storage) -> BinaryIO:
    """The metrics file, to add lines to. A line that was cut off is ended first."""
    torn = not (_tail(storage.metrics, 1) or b"\n").endswith(b"\n")
    file = storage.metrics.open("ab", buffering=0)
    if torn:
        file.write(b"\n")
    return file


def append(file: BinaryIO, report: Report) -> None:
    """Add a Report to the metrics file, on a line of its own."""
    file.write(report.to_json().encode() + b"\n")


def _tail(file: Path, size: int) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, 2) - size))
            return opened.read()
    except FileNotFoundError:
        return b""
