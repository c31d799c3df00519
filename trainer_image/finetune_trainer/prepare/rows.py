"""Pure: a row of the data as the conversation or the document that is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.sources import Columns
from finetune_trainer.prepare.faults import Fault, FaultyRowError, kind, listed, shown
from finetune_trainer.prepare.messages import ROLES, Message, messages, says_something, text, tools

__all__ = [
    "ROLES",
    "UNMASK",
    "Conversation",
    "Fault",
    "FaultyRowError",
    "Message",
    "conversation",
    "document",
]

Row = Mapping[str, Any]

UNMASK = "unmask"
"""The column that asks, for one row, for loss on everything but system messages."""


@dataclass(frozen=True)
class Conversation:
    """What a row says, in the form that chat templates take."""

    messages: list[Message]
    """With contents that are strings, and arguments of tool calls that are objects."""
    tools: list[dict[str, Any]] | None
    """JSON schemas of what the assistant may call."""
    unmask: bool
    """Whether loss is taken on all messages but those of the system."""
    context: int = 0
    """So many messages at the beginning are a prompt: without `unmask`, no loss is taken on its answers either."""


def conversation(
    row: Row,
    columns: Columns,
    *,
    unmask_messages: bool = False,
    columns_field: str = "spec.dataset.columns",
) -> Conversation:
    """The conversation that a row is.

    A row is messages, a prompt with its completion, or an instruction with its output; where `columns`, which are
    stated in `columns_field`, do not tell which, the usual names do. With `unmask_messages` every row is unmasked.
    Raises FaultyRowError, and nothing else.
    """
    try:
        found, schemas, context = _READERS[_shape(row, columns, columns_field)](row, columns)
        unmask = _unmask(row) or unmask_messages
    except RecursionError:
        raise FaultyRowError("", "is nested too deeply") from None
    if not any(
        says_something(message)
        for message in found
        if message["role"] == "assistant" or (unmask and message["role"] != "system")
    ):
        reason = "nobody but the system says anything" if unmask else "no message is of the assistant"
        raise FaultyRowError("", f"{reason}, so there is nothing to learn")
    return Conversation(found, schemas, unmask, context)


def document(row: Row, column: str) -> str:
    """The text of a document; an empty string where there is nothing but blanks in it.

    Raises FaultyRowError, and nothing else.
    """
    found = text(column, _required(row, column))
    return found if found.strip() else ""


# Columns of each shape. Without names in the spec, a row is of the first shape whose first column it has.
_SHAPES = {
    "messages": ("messages", "tools"),
    "completion": ("completion", "prompt"),
    "output": ("output", "instruction", "input"),
}
_NAMES = {
    "messages": "messages",
    "completion": "prompt and completion",
    "output": "instruction and output",
}


def _shape(row: Row, columns: Columns, columns_field: str) -> str:
    for shape, fields in _SHAPES.items():
        if any(getattr(columns, field) is not None for field in fields):
            return shape
    # Messages have a role for what the system says, and no column.
    possible = [shape for shape in _SHAPES if columns.system is None or shape != "messages"]
    # An incomplete row is told what it lacks, by the shape that it is the beginning of.
    for index in range(2):
        for shape in possible:
            if row.get(_SHAPES[shape][index]) is not None:
                return shape
    wanted = ", nor ".join(_NAMES[shape] for shape in possible)
    raise FaultyRowError("", f"has neither {wanted}, but {_has(row)}: name the columns in {columns_field}")


# Messages, what the assistant may call, and how many of the messages are a prompt.
Parts = tuple[list[Message], list[dict[str, Any]] | None, int]


def _conversation(row: Row, columns: Columns) -> Parts:
    column = columns.messages or "messages"
    return messages(column, _required(row, column)), _tools(row, columns), 0


def _completion(row: Row, columns: Columns) -> Parts:
    prompt, completion = columns.prompt or "prompt", columns.completion or "completion"
    asked = _said(prompt, _required(row, prompt), "user")
    answered = _said(completion, _required(row, completion), "assistant")
    if not any(message["role"] == "assistant" for message in answered):
        raise FaultyRowError(completion, "has no message of the assistant, so there is nothing to learn")
    given = _system(row, columns, asked) + asked
    return given + answered, _tools(row, columns), len(given)


def _instruction(row: Row, columns: Columns) -> Parts:
    instruction, output = columns.instruction or "instruction", columns.output or "output"
    asked = _spoken(instruction, _required(row, instruction))
    context = columns.input or "input"
    if row.get(context) is not None and (about := text(context, row[context])).strip():
        asked = f"{asked}\n\n{about}"
    answered = _spoken(output, _required(row, output))
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return _system(row, columns, said) + said, None, 0


_READERS = {"messages": _conversation, "completion": _completion, "output": _instruction}


def _said(column: str, value: Any, role: str) -> list[Message]:
    """A prompt or a completion: messages, or the words of one."""
    if isinstance(value, str):
        return [{"role": role, "content": _spoken(column, value)}]
    if isinstance(value, list):
        return messages(column, value)
    raise FaultyRowError(column, f"must be a string or a list of messages, not {kind(value)}")


def _spoken(column: str, value: Any) -> str:
    words = text(column, value)
    if not words.strip():
        raise FaultyRowError(column, "is empty")
    return words


def _system(row: Row, columns: Columns, said: list[Message]) -> list[Message]:
    column = columns.system or "system"
    if row.get(column) is None or not (words := text(column, row[column])).strip():
        return []
    if said[0]["role"] == "system":
        raise FaultyRowError(column, "is one system message too many: the prompt begins with another")
    return [{"role": "system", "content": words}]


def _tools(row: Row, columns: Columns) -> list[dict[str, Any]] | None:
    column = columns.tools or "tools"
    return tools(column, row.get(column))


def _unmask(row: Row) -> bool:
    value = row.get(UNMASK)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise FaultyRowError(UNMASK, f"must be true or false, not {shown(value)}")


def _required(row: Row, column: str) -> Any:
    value = row.get(column)
    if value is None:
        raise FaultyRowError(column, f"is {'null' if column in row else f'missing; the row has {_has(row)}'}")
    return value


def _has(row: Row) -> str:
    return listed(row) or "nothing"
