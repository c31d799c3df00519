"""Pieces of Markdown, whatever is put into them."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty without rows."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(head), "|---" * len(head) + "|", *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {_one_line(text)}" for text in texts)


def code(text: str) -> str:
    """Text as it is, in one line."""
    fence = "`" * (1 + max((len(run) for run in _runs_of_backticks(text)), default=0))
    inner = f" {text} " if text[:1] == "`" or text[-1:] == "`" else text
    return f"{fence}{inner}{fence}"


def paragraphs(texts: Iterable[str]) -> str:
    """One after the other, without empty ones."""
    return "\n\n".join(text for text in texts if text)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _runs_of_backticks(text: str) -> list[str]:
    return "".join(letter if letter == "`" else " " for letter in text).split()
