"""Rows of files, one by one: nothing is held in memory but what is being read.

Lines and lists of JSON are told apart here and parsed by whoever takes them, for parsing costs more than reading. They
are not left to a library that makes tables: in a table all rows have the same columns, "2026-01-01" becomes a date, and
one damaged row takes a whole file with it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from finetune_api.sources import DATA_SUFFIXES
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import csv_file, damage
from finetune_trainer.prepare.damage import DamagedError, too_long
from finetune_trainer.prepare.faults import FaultyRowError, from_json, kind
from finetune_trainer.prepare.rows import UNMASK

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20


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
            raise DamagedError(
                f"the name must end in {', '.join(others)} or {last}, which tells how to read the file"
            )
        yield from reader(file)
    except DamagedError as error:
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
    for number, line in enumerate(iter(partial(lines.readline, damage.MAX_ROW_BYTES + 1), b""), start=1):
        end += len(line)
        if len(line) > damage.MAX_ROW_BYTES:
            raise too_long(f"line {number}")
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
        if len(buffer) - start > damage.MAX_ROW_BYTES:
            raise too_long(f"row {number + 1}")
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
                    raise DamagedError(f"the list ends with }} after row {number}")
                start = position
                if closed:
                    break
        else:
            position = len(buffer)
    if not closed:
        raise DamagedError(f"the list ends in the middle of row {number + 1}: is the file complete?")
    rest = buffer[start:]
    while rest and not rest.strip():
        rest = opened.read(_CHUNK_BYTES)
    if rest:
        raise DamagedError(
            f"something follows the end of the list, after row {number}: "
            "one list of objects is needed, or a .jsonl file with an object on each line"
        )


def _parquet(file: Path) -> Iterator[RawRow]:
    # It takes a library that lines of JSON need not wait for.
    from finetune_trainer.prepare import parquet_file

    for number, row in enumerate(parquet_file.rows(file), start=1):
        yield RawRow(f"row {number}", {key: _without_fillers(value) for key, value in row.items()}, 0)


def _csv(file: Path) -> Iterator[RawRow]:
    flags = {"true": True, "false": False, "": None}
    for number, (cells, end) in enumerate(csv_file.rows(file), start=1):
        row: dict[str, Any] = dict(cells)
        if UNMASK in row:
            row[UNMASK] = flags.get(row[UNMASK].lower(), row[UNMASK])
        yield RawRow(f"row {number}", row, end)


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}


def _without_fillers(value: Any) -> Any:
    """Without the nulls that a table puts where an object lacks what others have."""
    if isinstance(value, dict):
        return {key: _without_fillers(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_fillers(item) for item in value]
    return value
