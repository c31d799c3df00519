"""What lies in the directory of a run."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from finetune_api import names
from finetune_api.checkpoint_scores import judged
from finetune_api.scores import Evaluated
from finetune_api.status import Checkpoint
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.keeping.shelf import Result, Shelf, shelf
from finetune_operator.cli.run_files import evaluations


class _Identity(BaseModel):
    uid: str


class _File(BaseModel):
    bytes: int


class _Facts(BaseModel):
    step: int
    epoch: float | None = None
    format: Literal["model", "adapter"] = "model"


class _Manifest(BaseModel):
    """What the trainer writes last into a directory: without it, or before it, nothing there counts."""

    uid: str | None = None
    time: datetime
    facts: _Facts
    files: dict[str, _File]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


def read(directory: Path) -> Shelf:
    """The complete checkpoints of a run, and its result. Raises CommandError where no run has been."""
    uid = _uid(directory)
    found = [
        checkpoint
        for parent in (names.CHECKPOINTS_DIR, names.RESUME_DIR)
        for checkpoint in _checkpoints(directory, parent, uid)
    ]
    history = [record.evaluated for record in evaluations(directory)]
    return shelf(judged(found, history), list(_results(directory, history, uid)))


def _checkpoints(directory: Path, parent: str, uid: str) -> Iterator[Checkpoint]:
    for path in sorted((directory / parent).glob("*")):
        manifest = _manifest(path, uid)
        if manifest is None:
            continue
        kind: Any = "weights"
        if parent == names.RESUME_DIR:
            kind = "resume"
        elif path.name.startswith(names.FULL_STATE_PREFIX):
            kind = "fullState"
        yield Checkpoint(
            name=path.name,
            step=manifest.facts.step,
            epoch=manifest.facts.epoch,
            kind=kind,
            path=str(path),
            bytes=manifest.bytes,
            time=manifest.time,
        )


def _results(directory: Path, history: list[Evaluated], uid: str) -> Iterator[Result]:
    losses = {one.step: one.validation_loss for one in history}
    for name in (names.OUTPUT_DIR, names.MERGED_DIR):
        manifest = _manifest(directory / name, uid)
        if manifest is not None:
            is_output = name == names.OUTPUT_DIR
            yield Result(
                step=manifest.facts.step,
                epoch=manifest.facts.epoch,
                format=manifest.facts.format if is_output else "model",
                path=str(directory / name),
                bytes=manifest.bytes,
                time=manifest.time,
                validation_loss=losses.get(manifest.facts.step) if is_output else None,
            )


def _manifest(path: Path, uid: str) -> _Manifest | None:
    """That of a complete directory of this run."""
    try:
        found = _Manifest.model_validate_json((path / names.COMPLETE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as error:
        raise CommandError(f"{path / names.COMPLETE_FILE} cannot be read: {error.strerror}") from error
    return found if found.uid == uid else None


def _uid(directory: Path) -> str:
    file = directory / names.RUN_IDENTITY_FILE
    try:
        return _Identity.model_validate_json(file.read_bytes()).uid
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandError(
            f"there is no {names.RUN_IDENTITY_FILE} in {directory}: name the directory of a run on its claim, which is "
            "spec.storage.path in it, or a job on a cluster"
        ) from error
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CommandError(f"{file} does not tell whose run this is: {error}") from error
