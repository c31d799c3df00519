"""Rows of files, one by one: nothing is held in memory but what is being read.

Lines and lists of JSON are told apart here and parsed by whoever takes them, for parsing costs more than reading. They
are not left to a library that makes tables: in a table all rows have the same columns, "2026-01-01" becomes a date, and
one damaged row takes a whole file with it.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from finetune_api.sources import DATA_SUFFIXES
from finetune_api.units import size
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.faults import FaultyRowError, from_json, kind
from finetune_trainer.prepare.rows import UNMASK

if TYPE_CHECKING:
    from datasets import IterableDataset

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
# A row is held whole, and several times over while it is parsed and tokenised. Longer than any book, it is a file
# without line breaks, or one that is damaged.
MAX_ROW_BYTES = 128 << 20
# Rows of a Parquet file that are in memory at a time; its row groups may hold a million.
_ROWS_AT_A_TIME = 1000


class _DamagedError(Exception):
    """What is wrong with a whole file."""


class RawRow(NamedTuple):
    """A row as it stands in the file."""

    place: str
    """Where, for people: "line 3" of JSONL, "row 3" of what has no lines."""
    value: bytes | Mapping[str, Any]
    """JSON that is still to be parsed, or the row itself."""
    end: int
    """Bytes of the file up to here, and of those before it; without its own where they are not known."""


def rows(file: Path, origin: str) -> Iterator[RawRow]:
    """The rows of a file, in the format that its name ends in.

    Raises InvalidDataError, which begins with `origin`, where it has no such format or is damaged; and OSError where it
    cannot be read.
    """
    reader = _READERS.get(file.suffix.lower())
    try:
        if reader is None:
            *others, last = DATA_SUFFIXES
            raise _DamagedError(
                f"the name must end in {', '.join(others)} or {last}, which tells how to read the file"
            )
        yield from reader(file)
    except _DamagedError as error:
        raise InvalidDataError(f"{origin}: {error}") from error.__cause__


def all_rows(files: Sequence[Path], origin: str) -> Iterator[RawRow]:
    """The rows of files, one behind the other, as if they were one; where there are several, places name the file.

    Raises what `rows` does.
    """
    if len(files) == 1:
        yield from rows(files[0], origin)
        return
    base = os.path.commonpath([file.parent for file in files])
    before = 0
    for file in files:
        name = file.relative_to(base)
        for row in rows(file, f"{origin}: {name}"):
            yield RawRow(f"{row.place} of {name}", row.value, before + row.end)
        before += file.stat().st_size


def parse(raw: RawRow) -> Mapping[str, Any]:
    """A row as an object. Raises FaultyRowError where it is none."""
    row = from_json("", raw.value) if isinstance(raw.value, bytes) else raw.value
    if not isinstance(row, dict):
        raise FaultyRowError("", f"must be an object, not {kind(row)}")
    return row


def _jsonl(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as lines:
        yield from _lines(lines)


def _lines(lines: IO[bytes]) -> Iterator[RawRow]:
    end = 0
    for number, line in enumerate(iter(partial(lines.readline, MAX_ROW_BYTES + 1), b""), start=1):
        end += len(line)
        if len(line) > MAX_ROW_BYTES:
            raise _too_long(f"line {number}")
        # Only the line feed ends a line for all editors; what is left of another kind of break is blank.
        text = line.removeprefix(_BYTE_ORDER_MARK).strip() if number == 1 else line.strip()
        if text:
            yield RawRow(f"line {number}", text, end)


def _json(file: Path) -> Iterator[RawRow]:
    """A list of objects; or lines of them, which often go by the same name."""
    with file.open("rb") as opened:
        start = opened.read(_CHUNK_BYTES)
        opened.seek(0)
        if start.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"["):
            yield from _items(opened)
        else:
            yield from _lines(opened)


def _too_long(place: str) -> _DamagedError:
    return _DamagedError(
        f"{place} is longer than {size(MAX_ROW_BYTES)}: is a line break missing, or the file damaged? "
        "Split a text that is longer than that"
    )


# A string in one piece, or a character that opens, closes or divides. A quotation mark alone begins a string whose end
# was not read yet.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


def _items(opened: IO[bytes]) -> Iterator[RawRow]:
    """The items of a list as they stand between its commas."""
    number = depth = offset = 0
    closed, buffer = False, b""
    position = start = 0
    step = _CHUNK_BYTES
    while not closed and (chunk := opened.read(step)):
        if len(buffer) - start > MAX_ROW_BYTES:
            raise _too_long(f"row {number + 1}")
        buffer, offset = buffer[start:] + chunk, offset + start
        position, start = position - start, 0
        # What is longer than a chunk is looked through from its beginning each time.
        step = max(_CHUNK_BYTES, len(buffer))
        for token in _TOKENS.finditer(buffer, position):
            mark = token[0]
            if mark == b'"':
                position = token.start()
                break
            position = token.end()
            if mark in b"[{":
                depth += 1
                if depth == 1:
                    start = position
            elif mark in b"]}":
                depth -= 1
            if (mark == b"," and depth == 1) or depth == 0:
                closed = depth == 0
                item = buffer[start : token.start()].strip()
                if item or number or not closed:
                    number += 1
                    yield RawRow(f"row {number}", item, offset + position)
                if mark == b"}":
                    raise _DamagedError(f"the list ends with }} after row {number}")
                start = position
                if closed:
                    break
        else:
            position = len(buffer)
    if not closed:
        raise _DamagedError(f"the list ends in the middle of row {number + 1}: is the file complete?")
    rest = buffer[start:]
    while rest and not rest.strip():
        rest = opened.read(_CHUNK_BYTES)
    if rest:
        raise _DamagedError(
            f"something follows the end of the list, after row {number}: "
            "one list of objects is needed, or a .jsonl file with an object on each line"
        )


def _parquet(file: Path) -> Iterator[RawRow]:
    from datasets import IterableDataset

    def opened(path: str, cache: str) -> "IterableDataset":
        return IterableDataset.from_parquet(path, cache_dir=cache, batch_size=_ROWS_AT_A_TIME)

    for number, row in enumerate(_tabled(file, opened), start=1):
        yield RawRow(f"row {number}", {key: _without_fillers(value) for key, value in row.items()}, 0)


def _csv(file: Path) -> Iterator[RawRow]:
    """Cells are the text that they are: no number is made of 007, and nothing is missing where NA stands."""
    import pandas as pd
    from datasets import Features, IterableDataset, Value

    def opened(path: str, cache: str) -> "IterableDataset":
        header = pd.read_csv(path, nrows=0, dtype=str, index_col=False)
        texts = Features({name: Value("string") for name in header.columns})
        # Otherwise a cell too many in every row would make the first column a name of the row.
        return IterableDataset.from_csv(
            path, features=texts, cache_dir=cache, na_filter=False, index_col=False
        )

    flags = {"true": True, "false": False, "": None}
    for number, row in enumerate(_tabled(file, opened), start=1):
        if UNMASK in row:
            row[UNMASK] = flags.get(row[UNMASK].lower(), row[UNMASK])
        yield RawRow(f"row {number}", row, 0)


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}


def _tabled(file: Path, opened: Callable[[str, str], "IterableDataset"]) -> Iterator[dict[str, Any]]:
    """Rows as the `datasets` library reads them, which neither asks the network nor leaves anything behind."""
    with file.open("rb"):
        # Of a file that cannot be read, the system's own words are clearer.
        pass
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        # The library takes characters of some names for patterns.
        link = Path(scratch) / "rows"
        link.symlink_to(file.absolute())
        with _complaints():
            tables = iter(opened(str(link), scratch).with_format("arrow").iter(_ROWS_AT_A_TIME))
        while True:
            with _complaints():
                table = next(tables, None)
                if table is None:
                    return
                found = table.to_pylist()
            yield from found


@contextmanager
def _complaints() -> Iterator[None]:
    """What libraries have to say of a damaged file, as one kind of error."""
    import datasets
    import pyarrow as pa

    # It tells us, too, and we are the ones to tell.
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # That a row has more cells than there are columns is but a warning.
            warnings.filterwarnings("error", message="Length of header")
            yield
    except (ValueError, Warning, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise _damaged(error) from error
    except OSError as error:
        # Arrow raises this for damaged files, too.
        if error.errno is not None:
            raise
        raise _damaged(error) from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def _damaged(error: Exception) -> _DamagedError:
    words = " ".join(str(error).split()) or type(error).__name__
    return _DamagedError(f"the file cannot be read: {words}")


def _without_fillers(value: Any) -> Any:
    """Without the nulls that a table puts where an object lacks what others have."""
    if isinstance(value, dict):
        return {key: _without_fillers(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_fillers(item) for item in value]
    return value
