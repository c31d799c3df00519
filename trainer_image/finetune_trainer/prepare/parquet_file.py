"""Rows of a Parquet file. However much it makes itself out to hold, what is in memory at a time is bounded.

It may hold a thousand times its size: its pages are compressed, and a text that is there a million times is written
once. So texts are read as references to those that differ, in batches of few rows where rows are large; and rows are
written out one by one where those of a batch would be too much together.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune_api.units import size
from finetune_trainer.prepare import damage
from finetune_trainer.prepare.damage import DamagedError

_ROWS_AT_A_TIME = 1000
_BYTES_AT_A_TIME = 64 << 20
# Read ahead of each column.
_BUFFER_BYTES = 1 << 20
# A group of rows may become as large as this, whatever it takes in the file. Beyond that, it may become so many times
# as large as the file: text shrinks to a tenth, and repeated text is not written again.
_HARMLESS_BYTES = 512 << 20
_LARGEST_RATIO = 200
_REFERENCE_BYTES = 8
# What can be read as references.
_TEXTS = ("STRING", "JSON", "ENUM", "NONE")


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """All rows of a file. Raises DamagedError, and OSError where it cannot be read."""
    number = 0
    with file.open("rb") as opened, _complaints():
        for batch in _batches(opened):
            for row in _written_out(batch, number):
                number += 1
                yield row


def _batches(opened: IO[bytes]) -> Iterator[pa.RecordBatch]:
    about = pq.read_metadata(opened)
    columns = [about.schema.column(index) for index in range(len(about.schema))]
    texts = [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _TEXTS
    ]
    table = pq.ParquetFile(
        opened,
        metadata=about,
        read_dictionary=texts,
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
    )
    size_of_file = os.fstat(opened.fileno()).st_size
    lists = [number for number, column in enumerate(columns) if column.max_repetition_level]
    before = 0
    for index in range(about.num_row_groups):
        group = about.row_group(index)
        # Where what is said of a column is damaged, to ask for that ends the process, but to read on is an error. Even
        # to read no rows is; a ParquetFile itself reads one at least, and that may be large.
        next(table.reader.iter_batches(0, row_groups=[index], use_threads=False), None)
        _check(group, lists, before, size_of_file)
        before += group.num_rows
        values = sum(group.column(number).num_values for number in range(group.num_columns))
        written = max(group.total_byte_size, _REFERENCE_BYTES * values)
        of_each = max(1, written // max(1, group.num_rows))
        some = max(1, min(_ROWS_AT_A_TIME, _BYTES_AT_A_TIME // of_each))
        yield from table.iter_batches(some, row_groups=[index], use_threads=False)


def _check(group: pq.RowGroupMetaData, lists: Iterable[int], before: int, size_of_file: int) -> None:
    """Raise DamagedError for a group of rows that is too much by what is said of it, before anything of it is read.

    A row is read whole, and what is in its lists may take nothing in the file. `lists` are the columns with any, and
    `before` the group there are so many rows.
    """
    # What stands for an empty list is no item.
    items: int = sum(max(0, group.column(number).num_values - group.num_rows) for number in lists)
    in_lists = _REFERENCE_BYTES * items
    if (least := in_lists // max(1, group.num_rows)) > damage.MAX_ROW_BYTES:
        last = before + group.num_rows
        place = f"row {last}" if group.num_rows == 1 else f"one of rows {before + 1} to {last}"
        raise _too_large(place, f"{size(least)} or more")
    in_memory = max(group.total_byte_size, in_lists)
    if in_memory > max(_HARMLESS_BYTES, _LARGEST_RATIO * size_of_file):
        raise DamagedError(
            f"rows of it would become {size(in_memory)} in memory, and the whole file has {size(size_of_file)}: "
            "no data that one learns from shrink so far"
        )


def _too_large(place: str, much: str) -> DamagedError:
    return DamagedError(
        f"{place} would take {much}, and a row may take {size(damage.MAX_ROW_BYTES)}: split it"
    )


def _written_out(batch: pa.RecordBatch, before: int) -> Iterator[dict[str, Any]]:
    """The rows of a batch; `before` it there were so many others."""
    if _size(batch) <= _BYTES_AT_A_TIME:
        try:
            yield from batch.to_pylist()
            return
        except (ValueError, OverflowError):
            # One by one they tell which it is.
            pass
    for index in range(len(batch)):
        row, place = batch.slice(index, 1), f"row {before + index + 1}"
        if (large := _size(row)) > damage.MAX_ROW_BYTES:
            raise _too_large(place, size(large))
        try:
            yield from row.to_pylist()
        except (ValueError, OverflowError) as error:
            raise DamagedError(f"{place}: {error}") from error


def _size(found: pa.RecordBatch | pa.Array) -> int:
    """Bytes of values when each of them is written out; none is taken for less than the reference that a list has."""
    if isinstance(found, pa.RecordBatch):
        return sum(map(_size, found.columns))
    kind = found.type
    if pa.types.is_struct(kind):
        return sum(map(_size, found.flatten()))
    if pa.types.is_nested(kind):
        # A list has its size, even if it is empty.
        return _REFERENCE_BYTES * len(found) + _size(found.flatten())
    if pa.types.is_dictionary(kind) and not pa.types.is_primitive(kind.value_type):
        lengths = pc.binary_length(found.dictionary)
        return int(pc.sum(lengths.take(found.indices)).as_py() or 0) + _REFERENCE_BYTES * len(found)
    return max(int(found.nbytes), _REFERENCE_BYTES * len(found))


@contextmanager
def _complaints() -> Iterator[None]:
    """What the library has to say of a damaged file, as one kind of error."""
    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(error) from error
    except OSError as error:
        # It raises this for damaged files, too.
        if error.errno is not None:
            raise
        raise _damaged(error) from error


def _damaged(error: Exception) -> DamagedError:
    words = " ".join(str(error).split()) or type(error).__name__
    return DamagedError(f"the file cannot be read: {words}")
