"""Tables as kubectl prints them: whole, however narrow the terminal, so that grep and awk can read them."""

from collections.abc import Sequence

GAP = "   "


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its head first. Columns in which no row has anything are left out."""
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [[line[place] or "-" for place in used] for line in (head, *rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(used))]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
