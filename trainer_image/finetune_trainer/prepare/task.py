"""What decides how data are prepared, and the digest of all of it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finetune_api.evaluation import TRAIN, VALIDATION, Generate
from finetune_api.hyperparameters import Pretraining
from finetune_api.runconfig import DataSet, RunConfig
from finetune_api.sources import Columns
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidDataError, described
from finetune_trainer.prepare.split import Split
from finetune_trainer.prepare.tokenizer import FILES as TOKENIZER_FILES
from finetune_trainer.prepare.tokenizer import date_shown

# Changes whenever the same data would be prepared differently.
_FORMAT = 4


@dataclass(frozen=True)
class Identity:
    """What a task is told apart by."""

    digest: str
    """SHA-256 of everything that decides what comes out, in hexadecimal."""
    versions: tuple[tuple[int, int], ...]
    """What the files of the data were like before they were read for that."""


@dataclass(frozen=True)
class Task:
    """Data to prepare for a model."""

    model: Path
    """Directory with the tokenizer."""
    files: tuple[Path, ...]
    """Where the data are, in the order in which they are read."""
    origin: str
    """What messages call the data."""
    limit: int
    """Tokens that a sample may have."""
    columns: Columns
    drop_invalid: bool
    """Leave rows that cannot be trained on out, instead of giving up."""
    unmask_messages: bool
    pretraining: Pretraining | None
    """Documents, not conversations."""
    generate: Generate | None = None
    """How answers are compared with the last message of each conversation, where they are."""
    split: Split | None = None
    """Which documents are held back: they are joined apart from the others. Of conversations it is decided later."""
    verb: str = "trained"
    """What is done on the data."""
    columns_field: str = "spec.dataset.columns"
    """Where the names of columns are stated."""

    @classmethod
    def of(cls, config: RunConfig, name: str, context_length: int) -> Self:
        """A data set of a run. Where the spec sets no limit, the limit is what the model reads at a time."""
        stated, data = config.hyperparameters, config.data_sets[name]
        return cls(
            model=Path(config.locations.model),
            files=_files(config, name),
            origin=origin_of(config, name),
            limit=stated.max_seq_len or context_length,
            columns=data.columns,
            drop_invalid=config.dataset.invalid_rows == "Drop",
            unmask_messages=stated.unmask_messages,
            pretraining=stated.pretraining,
            generate=data.generate,
            verb="trained" if name == TRAIN else "evaluated",
            columns_field=_columns_field(data),
            split=split_of(config) if name == TRAIN and stated.pretraining is not None else None,
        )

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)

    def identity(self, tick: Callable[[], None]) -> Identity:
        """What decides what comes out. `tick` is called while files are read."""
        versions = self._versions()
        return Identity(self._digest(tick), versions)

    def expect_unchanged(self, identity: Identity) -> None:
        """Make sure that what was read is what has this identity. Raises InvalidDataError, OSError."""
        for file, before, now in zip(self.files, identity.versions, self._versions(), strict=True):
            if now != before:
                raise InvalidDataError(
                    f'{self.origin}: "{file}" was written to or replaced while it was read, so nobody could tell what '
                    "was trained on: make the job when the data are complete"
                )

    def _versions(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the files, and when they were written last."""
        return tuple((found.st_size, found.st_mtime_ns) for found in map(os.stat, self.files))

    def _digest(self, tick: Callable[[], None]) -> str:
        model_files = {
            file for pattern in TOKENIZER_FILES for file in self.model.glob(pattern) if file.is_file()
        }
        everything = {
            "format": _FORMAT,
            "limit": self.limit,
            "columns": self.columns.to_wire(),
            "drop_invalid": self.drop_invalid,
            "unmask_messages": self.unmask_messages,
            "pretraining": self.pretraining and self.pretraining.to_wire(),
            "questions": self.generate and [self.generate.match, self.generate.max_samples],
            "split": self.split and dataclasses.asdict(self.split),
            "tokenizer": {
                str(file.relative_to(self.model)): commit.sha256(file, tick) for file in model_files
            },
            # The name tells no more than how to read the file.
            "data": [[file.suffix, commit.sha256(file, tick)] for file in self.files],
        }
        # Only where it is shown: what others have prepared is as good as it was.
        if self.pretraining is None and (date := date_shown(model_files)) is not None:
            everything["date"] = date
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def split_of(config: RunConfig) -> Split | None:
    """What is held back of the data that are trained on."""
    share = config.dataset.validation_split
    return None if share is None else Split(share, config.hyperparameters.seed)


def _columns_field(data: DataSet) -> str:
    own = data.name not in (TRAIN, VALIDATION)
    return f"{data.field if own else 'spec.dataset'}.columns"


def origin_of(config: RunConfig, name: str) -> str:
    """What messages call a data set, with the file that it is, or the directory of all its files."""
    data, files = config.data_sets[name], _files(config, name)
    place = files[0] if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
    return f"{data.field}: {described(data.source, place)}"


def _files(config: RunConfig, name: str) -> tuple[Path, ...]:
    return tuple(map(Path, config.locations.data[name]))
