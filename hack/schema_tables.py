"""What pages that are generated have in common: tables, and what a field may be, in words."""

from collections.abc import Iterable, Iterator
from typing import Any


def line(text: str) -> str:
    """Text that was wrapped, as one line."""
    return " ".join(text.split())


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table, and an empty one after it."""
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def bounds(schema: dict[str, Any]) -> str:
    """What a field of this structural schema may be."""
    kind = schema.get("type")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if kind in ("integer", "number"):
        low, high = (f"{schema[bound]:,}" for bound in ("minimum", "maximum"))
        least = f"more than {low}" if schema.get("exclusiveMinimum") else f"at least {low}"
        most = f"less than {high}" if schema.get("exclusiveMaximum") else f"at most {high}"
        return f"{least}, {most}"
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "array":
        kind = "blocks" if schema["items"].get("type") == "object" else "texts"
        return f"up to {schema['maxItems']} {kind}"
    return {"string": "a text", "object": "a block of its own"}[str(kind)]
