"""Rows of a CSV file.

Cells are the text that they are: no number is made of 007, and nothing is missing where NA stands.
"""

import csv
import io
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from finetune_trainer.prepare import damage
from finetune_trainer.prepare.damage import DamagedError, too_long
from finetune_trainer.prepare.faults import listed


def rows(file: Path) -> Iterator[tuple[dict[str, str], int]]:
    """The rows below the header, each with the bytes of the file that were read by then.

    What a row lacks at its end is empty. Raises DamagedError, and OSError where the file cannot be read.
    """
    # The library's own limit is for the whole process, and is told in words of its own.
    csv.field_size_limit(sys.maxsize)
    with (
        file.open("rb") as content,
        # What is no UTF-8 is told with its line, which a decoder does not know.
        io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        lines = _Lines(text)
        # Otherwise what follows a closed quotation is joined to it, and one that is never closed swallows the rest.
        records = csv.reader(lines, strict=True)
        try:
            # Of an empty line the library makes a row without cells.
            header = next(filter(None, records), None)
            if header is None:
                raise DamagedError("there is nothing in it: the first line is to name the columns")
            _check_names(header)
            lines.begin_row()
            for cells in filter(None, records):
                if len(cells) > len(header):
                    raise DamagedError(
                        f"the row that ends in line {lines.number} has {len(cells)} cells, and there are "
                        f"{len(header)} columns: is a cell with a comma in it not in quotation marks?"
                    )
                yield dict(zip_longest(header, cells, fillvalue="")), content.tell()
                lines.begin_row()
        except csv.Error as error:
            raise DamagedError(
                f"the row that ends in line {lines.number} has quotation marks that are not closed, or not doubled "
                f"inside a cell ({error})"
            ) from error


def _check_names(header: list[str]) -> None:
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise DamagedError(f"the header names columns twice: {listed(sorted(twice))}")


class _Lines(Iterator[str]):
    """The lines of a file, as long as they make rows that are not too long."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0
        """Lines so far."""
        self._first, self._length = 1, 0

    def begin_row(self) -> None:
        """The next line begins a row."""
        self._first, self._length = self.number + 1, 0

    def __next__(self) -> str:
        line = self._text.readline(damage.MAX_ROW_BYTES + 1 - self._length)
        if not line:
            raise StopIteration
        self.number += 1
        self._length += len(line)
        if self._length > damage.MAX_ROW_BYTES:
            raise too_long(f"the row that begins in line {self._first}")
        try:
            line.encode()
        except UnicodeEncodeError as error:
            found = ord(line[error.start]) & 0xFF
            raise DamagedError(
                f"line {self.number} is not UTF-8 (byte 0x{found:02x} after {error.start} characters)"
            ) from None
        return line
