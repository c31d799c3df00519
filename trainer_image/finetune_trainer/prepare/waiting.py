"""Documents that wait, on the volume, until all of them are known."""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.arrow import Ids

Documents = Sequence[tuple[int, Ids]]
"""Numbers and tokens."""


class Waiting:
    """Documents, in the order in which they came. They are gone when this is left."""

    def __init__(self, directory: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed when this is left
        self._numbers, self._lengths, self._counts = array("q"), array("q"), array("q")

    def add(self, documents: Documents) -> None:
        """Add some documents."""
        for number, ids in documents:
            self._numbers.append(number)
            self._lengths.append(len(ids))
            self._file.write(ids.tobytes())
        self._counts.append(len(documents))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] tokens of each."""
        return np.array(self._lengths, np.int64)

    def those(self, wanted: npt.NDArray[np.bool_]) -> Iterator[Documents]:
        """Some of them, as many at a time as were added; whether each is wanted, [n]."""
        self._file.seek(0)
        start = 0
        for count in self._counts:
            some = range(start, start + count)
            read = [(place, self._next(self._lengths[place])) for place in some]
            yield [(self._numbers[place], ids) for place, ids in read if wanted[place]]
            start += count

    def _next(self, length: int) -> Ids:
        return np.frombuffer(self._file.read(length * np.dtype(np.int32).itemsize), np.int32)

    def __len__(self) -> int:
        return len(self._numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
