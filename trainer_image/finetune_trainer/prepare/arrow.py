"""Prepared samples as an Arrow data set: written once, memory-mapped by every process.

The directory is one that `datasets.load_from_disk` opens. Writing and reading it through pyarrow alone spares every
process that library's import, and gives samples without a copy.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_api.status import DatasetStatus
from finetune_trainer.batches import Indices
from finetune_trainer.prepare.encode import Encoded
from finetune_trainer.prepare.questions import Question

_DATA = "data-00000-of-00001.arrow"
_LENGTHS = "lengths.npy"

_TOKENS = pa.list_(pa.int32())
_SCHEMA = pa.schema({"input_ids": _TOKENS, "labels": _TOKENS, "sample": pa.int64()})
# A record batch is written once it has as many tokens or samples: enough to be cheap, few enough to be held in memory.
_TOKENS_PER_BATCH = 1 << 20
_SAMPLES_PER_BATCH = 4096

Ids = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Some n samples of t tokens in all, one behind the other."""

    input_ids: Ids
    """[t]"""
    labels: Ids
    """[t]"""
    lengths: Ids
    """[n] tokens of each sample."""
    loss_tokens: Ids
    """[n] those of them that loss is taken on."""
    numbers: Numbers
    """[n] the number of each sample in the data that it comes from."""

    @classmethod
    def of(cls, samples: Iterable[tuple[int, Encoded]]) -> Self:
        """Samples with their numbers, put together."""
        numbered = list(samples)
        encoded = [each for _, each in numbered]
        return cls(
            input_ids=_joined([each.input_ids for each in encoded]),
            labels=_joined([each.labels for each in encoded]),
            lengths=np.array([len(each.input_ids) for each in encoded], np.int32),
            loss_tokens=np.array([each.loss_tokens for each in encoded], np.int32),
            numbers=np.array([number for number, _ in numbered], np.int64),
        )

    def __len__(self) -> int:
        return len(self.lengths)


class SampleWriter:
    """Writes samples in the order in which they come."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        """`fingerprint` is what the `datasets` library tells data sets apart by."""
        self._directory = directory
        self._fingerprint = fingerprint
        self._sink = pa.OSFile(str(directory / _DATA), "wb")
        self._stream = pa.ipc.new_stream(self._sink, _SCHEMA)
        self._pending: list[Part] = []
        self._lengths: list[npt.NDArray[np.int32]] = []

    def write(self, part: Part) -> None:
        """Add samples."""
        if not len(part):
            return
        self._pending.append(part)
        self._lengths.append(np.stack([part.lengths, part.loss_tokens], axis=1))
        if (
            sum(len(each.input_ids) for each in self._pending) >= _TOKENS_PER_BATCH
            or sum(map(len, self._pending)) >= _SAMPLES_PER_BATCH
        ):
            self._flush()

    def _flush(self) -> None:
        lengths = _joined([part.lengths for part in self._pending])
        offsets = pa.array(np.concatenate([[0], lengths.cumsum(dtype=np.int32)]).astype(np.int32))
        columns = [
            pa.ListArray.from_arrays(offsets, pa.array(_joined([part.input_ids for part in self._pending]))),
            pa.ListArray.from_arrays(offsets, pa.array(_joined([part.labels for part in self._pending]))),
            pa.array(np.concatenate([part.numbers for part in self._pending])),
        ]
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if self._pending:
                self._flush()
            lengths = np.concatenate([np.empty((0, 2), np.int32), *self._lengths])
            np.save(self._directory / _LENGTHS, lengths)
            self._describe()
        self._stream.close()
        self._sink.close()

    def _describe(self) -> None:
        """What the `datasets` library wants to know before it opens the data."""
        tokens = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
        features = {"input_ids": tokens, "labels": tokens, "sample": {"dtype": "int64", "_type": "Value"}}
        state: dict[str, object] = {
            "_data_files": [{"filename": _DATA}],
            "_fingerprint": self._fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self._directory / "dataset_info.json").write_text(json.dumps({"features": features}, indent=1))
        (self._directory / "state.json").write_text(json.dumps(state, indent=1))


class Samples:
    """Prepared samples, by their place in the data set."""

    def __init__(self, directory: Path) -> None:
        with pa.memory_map(str(directory / _DATA)) as source:
            batches = list(pa.ipc.open_stream(source))
        # Views of the mapped file: offsets, input_ids and labels of each record batch.
        self._batches = [
            (
                batch["input_ids"].offsets.to_numpy(),
                batch["input_ids"].values.to_numpy(),
                batch["labels"].values.to_numpy(),
            )
            for batch in batches
        ]
        self._numbers = [batch["sample"].to_numpy() for batch in batches]
        self._starts = np.cumsum([0, *map(len, batches)])
        self._places: Indices | None = None
        table: Ids = np.load(directory / _LENGTHS)
        self.lengths: Ids = table[:, 0].copy()
        """Tokens of each sample."""
        self.loss_tokens: Ids = table[:, 1].copy()
        """Tokens of each sample that loss is taken on."""

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, places: Indices) -> Self:
        """Some of the samples, as a data set of its own, without a copy of them."""
        part = copy.copy(self)
        part._places = places if self._places is None else self._places[places]
        part.lengths, part.loss_tokens = self.lengths[places], self.loss_tokens[places]
        return part

    def __getitem__(self, place: int) -> tuple[Ids, Ids]:
        """input_ids and labels of a sample, both [its length], read-only and without a copy."""
        batch, row = self._find(place)
        offsets, input_ids, labels = self._batches[batch]
        own = slice(offsets[row], offsets[row + 1])
        return input_ids[own], labels[own]

    def number(self, place: int) -> int:
        """The number of a sample in the data that it comes from, counted from 0."""
        batch, row = self._find(place)
        return int(self._numbers[batch][row])

    def _find(self, place: int) -> tuple[int, int]:
        """The record batch of a sample, and its row in there."""
        if not 0 <= place < len(self):
            raise IndexError(f"there is no sample {place} among {len(self)}")
        if self._places is not None:
            place = int(self._places[place])
        batch = int(self._starts.searchsorted(place, side="right")) - 1
        return batch, place - int(self._starts[batch])


@dataclass(frozen=True)
class Prepared:
    """Prepared data, open for reading."""

    samples: Samples
    status: DatasetStatus
    questions: Sequence[Question] = ()
    """What is answered, where answers are compared."""


def _joined(arrays: Iterable[npt.ArrayLike]) -> Ids:
    """One [sum of lengths] array of [length] arrays or lists."""
    return np.concatenate([np.empty(0, np.int32), *(np.asarray(each, np.int32) for each in arrays)])
