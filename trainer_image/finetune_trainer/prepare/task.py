"""What decides how data are prepared, and the digest of all of it."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finetune_api.hyperparameters import Pretraining
from finetune_api.runconfig import RunConfig
from finetune_api.sources import Columns
from finetune_trainer import commit
from finetune_trainer.ends.errors import described
from finetune_trainer.prepare.tokenizer import FILES as TOKENIZER_FILES

# Changes whenever the same data would be prepared differently.
_FORMAT = 4


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

    @classmethod
    def of(cls, config: RunConfig, name: str, context_length: int) -> Self:
        """A data set of a run. Where the spec sets no limit, the limit is what the model reads at a time."""
        stated, data = config.hyperparameters, config.data_sets[name]
        files = tuple(map(Path, config.locations.data[name]))
        return cls(
            model=Path(config.locations.model),
            files=files,
            origin=f"{data.field}: {described(data.source, _place(files))}",
            limit=stated.max_seq_len or context_length,
            columns=data.columns,
            drop_invalid=config.dataset.invalid_rows == "Drop",
            unmask_messages=stated.unmask_messages,
            pretraining=stated.pretraining,
        )

    def digest(self, tick: Callable[[], None]) -> str:
        """SHA-256 of everything that decides what comes out, in hexadecimal. `tick` is called while files are read."""
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
            "tokenizer": {
                str(file.relative_to(self.model)): commit.sha256(file, tick) for file in model_files
            },
            # The name tells no more than how to read the file.
            "data": [[file.suffix, commit.sha256(file, tick)] for file in self.files],
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _place(files: Sequence[Path]) -> Path:
    """Where files are: the one that there is, or the directory that has them all."""
    return files[0] if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
