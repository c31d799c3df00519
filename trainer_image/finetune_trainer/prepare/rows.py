"""Pure: rows of a JSONL file, and what is wrong with them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Row:
    """A valid row."""

    line: int
    """Counts from 1."""
    messages: list[Message]


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be trained on."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return (
            f"line {self.line}: {self.field}: {self.reason}"
            if self.field
            else f"line {self.line}: {self.reason}"
        )


class _FaultyError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason


def parse(lines: Iterable[bytes]) -> Iterator[Row | Fault]:
    """Read JSONL: one result per line that is not blank."""
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            yield Row(number, _messages(text))
        except _FaultyError as error:
            yield Fault(number, error.field, error.reason)


def _messages(text: bytes) -> list[Message]:
    try:
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise _FaultyError("", f"is not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise _FaultyError("", f"is not JSON ({error})") from None
    except RecursionError:
        raise _FaultyError("", "is nested too deeply") from None
    if not isinstance(row, dict):
        raise _FaultyError("", f"must be an object, not {_kind(row)}")
    messages = row.get("messages")
    if messages is None:
        raise _FaultyError("messages", "is missing")
    if not isinstance(messages, list) or not messages:
        raise _FaultyError("messages", "must be a list of at least one message")
    checked = [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in checked):
        raise _FaultyError("messages", "has no message of the assistant, so there is nothing to learn")
    return checked


def _message(where: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise _FaultyError(where, f"must be an object with role and content, not {_kind(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise _FaultyError(f"{where}.role", f"must be one of {', '.join(ROLES)}, not {json.dumps(role)}")
    if not isinstance(content, str):
        raise _FaultyError(f"{where}.content", f"must be a string, not {_kind(content)}")
    if role == "assistant" and not content.strip():
        raise _FaultyError(f"{where}.content", "is empty: the assistant must say something to learn from")
    # A template might show these to the model, and then what it learns is not what was checked.
    if unknown := sorted(key for key, value in message.items() if key not in ("role", "content") and value):
        raise _FaultyError(f"{where}.{unknown[0]}", "is not supported; a message has role and content")
    return {"role": role, "content": content}


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
