"""Pure: what is wrong with a row, said so that it can be found and mended."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# So much of a value stands in a message.
_SHOWN = 40


class FaultyRowError(Exception):
    """A row cannot be trained on."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        """Path of what is wrong inside the row; empty for the row itself."""
        self.reason = reason
        """What is wrong with it, to be read after the field."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be trained on, and why."""

    place: str
    """Where the row stands in its file: "line 3", or "row 3" where a row is no line."""
    field: str
    reason: str

    @classmethod
    def at(cls, place: str, error: FaultyRowError) -> "Fault":
        """The fault that an error tells of, of the row at `place`."""
        return cls(place, error.field, error.reason)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.field, self.reason) if part)


def from_json(field: str, text: str | bytes) -> Any:
    """What JSON text says. Raises FaultyRowError for `field` where it is none."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise FaultyRowError(field, f"is not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise FaultyRowError(field, f"is not JSON ({error})") from None
    except RecursionError:
        raise FaultyRowError(field, "is nested too deeply") from None


def shown(value: Any) -> str:
    """A value in a few words: itself where it is short, otherwise its kind."""
    if isinstance(value, str):
        short = value if len(value) <= _SHOWN else f"{value[: _SHOWN - 3]}..."
        # Half of a surrogate pair cannot be printed.
        return json.dumps(short, ensure_ascii=False).encode(errors="backslashreplace").decode()
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**_SHOWN):
        return json.dumps(value)
    return kind(value)


def kind(value: Any) -> str:
    """What a value is, in JSON's words where it has one."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value)) or f"a {type(value).__name__}"


def listed(names: Iterable[Any], limit: int = 8) -> str:
    """Names for a message, the first of many."""
    every = [str(name) for name in names]
    short = [name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..." for name in every[:limit]]
    text = ", ".join([*short, "..."] if len(every) > limit else short)
    return text.encode(errors="backslashreplace").decode()
