"""Pure: the messages of a conversation and the tools they speak of, checked one by one."""

import json
from collections.abc import Mapping
from typing import Any

from finetune_trainer.prepare.faults import FaultyRowError, from_json, kind, listed, shown

Message = dict[str, Any]
"""role and content; of the assistant also reasoning_content and tool_calls, of a tool also name and tool_call_id."""

# What a message may have beside role and content.
_EXTRAS: dict[str, tuple[str, ...]] = {
    "system": (),
    "user": (),
    "assistant": ("reasoning_content", "tool_calls"),
    "tool": ("name", "tool_call_id"),
}
ROLES = tuple(_EXTRAS)
# What an unknown key may hold without saying anything: writers fill up what a message does not have.
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def messages(field: str, value: Any) -> list[Message]:
    """A list of messages, or JSON text of one. Raises FaultyRowError with the path of what is wrong, from `field`."""
    found = from_json(field, value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise FaultyRowError(field, f"must be a list of messages, not {kind(found)}")
    if not found:
        raise FaultyRowError(field, "must be a list of at least one message")
    return [_message(f"{field}[{index}]", message) for index, message in enumerate(found)]


def tools(field: str, value: Any) -> list[dict[str, Any]] | None:
    """JSON schemas of what the assistant may call, as a list or as JSON text of one; None where there are none."""
    if isinstance(value, str):
        value = from_json(field, value) if value.strip() else None
    if value is None or value == []:
        return None
    found = [value] if isinstance(value, Mapping) else value
    if not isinstance(found, list):
        raise FaultyRowError(field, f"must be a list of JSON schemas, not {kind(found)}")
    return [_tool(f"{field}[{index}]", tool) for index, tool in enumerate(found)]


def text(field: str, value: Any) -> str:
    """Text that can be tokenized. Raises FaultyRowError for anything else."""
    if not isinstance(value, str):
        raise FaultyRowError(field, f"must be a string, not {kind(value)}")
    _check_unicode(field, value)
    return value


def says_something(message: Message) -> bool:
    """Whether there is anything in a message but its role."""
    return any(
        value.strip() if isinstance(value, str) else value
        for key, value in message.items()
        if key in ("content", "reasoning_content", "tool_calls")
    )


def _message(where: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise FaultyRowError(where, f"must be an object with role and content, not {kind(message)}")
    role = message.get("role")
    if role is None:
        has = f"the message has {listed(message)}" if message else "the message is empty"
        raise FaultyRowError(f"{where}.role", f"is missing ({has}); it must be one of {', '.join(ROLES)}")
    if role not in ROLES:
        raise FaultyRowError(f"{where}.role", f"must be one of {', '.join(ROLES)}, not {shown(role)}")
    # A template might show these to the model, and then what it learns is not what was checked.
    known = ("role", "content", *_EXTRAS[role])
    for key, value in message.items():
        if key not in known and value not in _NOTHING:
            raise FaultyRowError(
                f"{where}.{listed([key])}",
                f"is not supported; a message of role {role} has {', '.join(known)}",
            )
    return _assistant(where, message) if role == "assistant" else _other(where, message)


def _other(where: str, message: dict[str, Any]) -> Message:
    role = message["role"]
    extras = {
        key: text(f"{where}.{key}", message[key]) for key in _EXTRAS[role] if message.get(key) is not None
    }
    return {"role": role, "content": text(f"{where}.content", message.get("content"))} | extras


def _assistant(where: str, message: dict[str, Any]) -> Message:
    checked: Message = {"role": "assistant", "content": ""}
    calls = message.get("tool_calls")
    if isinstance(calls, str):
        calls = from_json(f"{where}.tool_calls", calls) if calls.strip() else None
    # Who calls a tool need not say anything: OpenAI's format has null there.
    if not calls or message.get("content") is not None:
        checked["content"] = text(f"{where}.content", message.get("content"))
    if not calls and not checked["content"].strip():
        raise FaultyRowError(f"{where}.content", "is empty: the assistant must say something to learn from")
    if message.get("reasoning_content") is not None:
        checked["reasoning_content"] = text(f"{where}.reasoning_content", message["reasoning_content"])
    if calls:
        if not isinstance(calls, list):
            raise FaultyRowError(f"{where}.tool_calls", f"must be a list of calls, not {kind(calls)}")
        checked["tool_calls"] = [
            _call(f"{where}.tool_calls[{index}]", call) for index, call in enumerate(calls)
        ]
    return checked


def _call(where: str, call: Any) -> dict[str, Any]:
    """A call with its arguments as an object: templates write JSON text as a string, with quotes around it."""
    call = _named(where, call)
    wrapped = "function" in call
    function: dict[str, Any] = call["function"] if wrapped else call
    path = f"{where}.function.arguments" if wrapped else f"{where}.arguments"
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = from_json(path, arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise FaultyRowError(path, f"must be an object, or JSON text of one, not {kind(arguments)}")
    function = {**function, "arguments": arguments}
    checked = {**call, "function": function} if wrapped else function
    _check_json(where, checked)
    return checked


def _tool(where: str, tool: Any) -> dict[str, Any]:
    schema = from_json(where, tool) if isinstance(tool, str) else tool
    named = _named(where, schema)
    _check_json(where, named)
    return named


def _named(where: str, value: Any) -> dict[str, Any]:
    """A tool, or a call of one, has a name: inside `function` as OpenAI writes them, or without it."""
    if not isinstance(value, dict):
        raise FaultyRowError(where, f"must be an object, not {kind(value)}")
    function = value.get("function")
    if function is not None and not isinstance(function, dict):
        raise FaultyRowError(f"{where}.function", f"must be an object, not {kind(function)}")
    path = where if function is None else f"{where}.function"
    name = (value if function is None else function).get("name")
    if name is None:
        raise FaultyRowError(f"{path}.name", "is missing")
    if not isinstance(name, str) or not name.strip():
        raise FaultyRowError(f"{path}.name", f"must be a name, not {shown(name)}")
    return {key: item for key, item in value.items() if key != "function" or item is not None}


def _check_json(where: str, value: Any) -> None:
    """Templates write these as JSON."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FaultyRowError(where, f"cannot be written as JSON ({error})") from None
    _check_unicode(where, written)


def _check_unicode(where: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X} at character {error.start}"
        raise FaultyRowError(
            where, f"has half of a surrogate pair ({half}), which no tokenizer takes"
        ) from None
