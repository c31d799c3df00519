"""Prepared samples as an Arrow file: written once, memory-mapped by every process.

The file is Arrow's stream format, as the `datasets` library keeps it (`Dataset.from_file` opens it); reading it
through pyarrow alone spares every process that library's import and gives samples without a copy.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_trainer.prepare.encode import Encoded

_TOKENS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "input_ids": _TOKENS,
        "labels": _TOKENS,
        "sample": pa.int64(),
        "length": pa.int32(),
        "loss_tokens": pa.int32(),
    }
)
# All record batches but the last have as many, so that a sample's place follows from its number.
_SAMPLES_PER_BATCH = 1024

Ids = npt.NDArray[np.int32]


class SampleWriter:
    """Writes samples in the order in which they come."""

    def __init__(self, file: Path) -> None:
        self._sink = pa.OSFile(str(file), "wb")
        self._stream = pa.ipc.new_stream(self._sink, _SCHEMA)
        self._pending: list[dict[str, object]] = []

    def write(self, encoded: Encoded, *, sample: int) -> None:
        """Add a sample; `sample` is its number in the data that it comes from."""
        self._pending.append(
            {
                "input_ids": encoded.input_ids,
                "labels": encoded.labels,
                "sample": sample,
                "length": len(encoded.input_ids),
                "loss_tokens": encoded.loss_tokens,
            }
        )
        if len(self._pending) == _SAMPLES_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._pending, schema=_SCHEMA))
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._pending:
            self._flush()
        self._stream.close()
        self._sink.close()


class Samples:
    """Prepared samples, by number."""

    def __init__(self, file: Path) -> None:
        with pa.memory_map(str(file)) as source:
            self._batches = list(pa.ipc.open_stream(source))
        self.lengths = self._whole("length")
        """Tokens of each sample."""
        self.loss_tokens = self._whole("loss_tokens")
        """Tokens of each sample that loss is taken on."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sample: int) -> tuple[Ids, Ids]:
        """input_ids and labels of a sample."""
        batch, row = divmod(sample, _SAMPLES_PER_BATCH)
        columns = self._batches[batch]
        return columns["input_ids"][row].values.to_numpy(), columns["labels"][row].values.to_numpy()

    def _whole(self, column: str) -> Ids:
        return np.concatenate([batch[column].to_numpy() for batch in self._batches])
