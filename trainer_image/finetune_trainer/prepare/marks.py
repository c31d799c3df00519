"""Pure: the words of a conversation between characters that occur nowhere else, and where these are after rendering."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from finetune_trainer.prepare.messages import Message

# Planes 16 and 15 of Unicode are for private use: hardly any text has their characters, least of all both.
_SIZE = 0xFFFE
_PLANES = {base: re.compile(f"([{chr(base)}-{chr(base + _SIZE - 1)}])") for base in (0x100000, 0xF0000)}
# What templates look for in an answer to take it apart: <think>, </think>, [THINK].
_TAG = r"</?[\w:-]+>|\[/?[A-Z_]+\]"


class Kind(IntEnum):
    """What a mark says."""

    OPEN = 0
    """Words begin."""
    CLOSE = 1
    """Words end."""
    CALL_OPEN = 2
    """The name or an argument of a tool call begins."""
    CALL_CLOSE = 3
    """And ends."""


@dataclass(frozen=True)
class Style:
    """Which words are marked, and how."""

    between_tags: bool = False
    """Marks before, between and after tags, which thereby stay at the ends of what templates look at."""
    names: bool = True
    """Marks around the names of tools that are called."""
    arguments: bool = True
    """Marks around their arguments."""


# From the one that tells most to those that templates notice least: they may compare the beginning of an answer,
# the name of a tool, or write arguments in ASCII alone.
STYLES = (
    Style(),
    Style(between_tags=True, arguments=False),
    Style(between_tags=True, names=False),
)


_KINDS = tuple(Kind)


class Mark(NamedTuple):
    """A mark that was found."""

    message: int
    """Index of the message whose words it is at."""
    kind: Kind
    position: int
    """Characters before it, without marks."""

    @property
    def opens(self) -> bool:
        """Whether words begin here."""
        return self.kind is Kind.OPEN or self.kind is Kind.CALL_OPEN


class Marker:
    """Marks the words of one conversation."""

    def __init__(self, messages: Sequence[Message], text: str, ends: Sequence[str]) -> None:
        """`text` is the conversation as it is rendered without marks; `ends` are the tokens that end a turn, which
        are no tags. Raises ValueError if there are not enough characters that do not occur in it.
        """
        self._messages = messages
        base = next((base for base in _PLANES if text.isascii() or not _PLANES[base].search(text)), None)
        if base is None:
            raise ValueError("it uses all planes of Unicode that are for private use")
        if len(_KINDS) * len(messages) > _SIZE:
            raise ValueError(f"it has more than {_SIZE // len(_KINDS)} messages")
        self._base, self._pattern = base, _PLANES[base]
        self._tag = re.compile(f"(?!{'|'.join(map(re.escape, ends))})(?:{_TAG})" if ends else _TAG)

    def mark(self, style: Style) -> list[Message]:
        """The messages with marks in them. Blank words stay as they are: templates ask whether there are any."""
        return [self._message(index, message, style) for index, message in enumerate(self._messages)]

    def plain(self, index: int) -> str:
        """Marked words that could be any message's, as those of message `index`."""
        return str(self._message(index, {"content": "words"}, Style())["content"])

    def find(self, rendered: str) -> tuple[str, list[Mark]]:
        """The text of a rendered conversation without its marks, and the marks in their order."""
        text, *pairs = self._pattern.split(rendered)
        parts, marks, position = [text], [], len(text)
        for character, text in zip(pairs[::2], pairs[1::2], strict=True):
            message, kind = divmod(ord(character) - self._base, len(_KINDS))
            marks.append(Mark(message, _KINDS[kind], position))
            parts.append(text)
            position += len(text)
        return "".join(parts), marks

    def _message(self, index: int, message: Message, style: Style) -> Message:
        first = self._base + len(_KINDS) * index
        opening, closing = chr(first + Kind.OPEN), chr(first + Kind.CLOSE)

        def words(text: str) -> str:
            if not style.between_tags:
                return _wrapped(text, opening, closing)
            return _between(self._tag, text, lambda part: _wrapped(part, opening, closing))

        marked = {**message, "content": words(message["content"])}
        if reasoning := message.get("reasoning_content"):
            marked["reasoning_content"] = words(reasoning)
        if calls := message.get("tool_calls"):
            opening, closing = chr(first + Kind.CALL_OPEN), chr(first + Kind.CALL_CLOSE)
            marked["tool_calls"] = [
                _call(call, style, lambda text: _wrapped(text, opening, closing)) for call in calls
            ]
        return marked


def _wrapped(text: str, opening: str, closing: str) -> str:
    """Marks around the words in `text`. Blanks at its ends stay outside, where templates trim them."""
    core = text.strip()
    if not core:
        return text
    if len(core) == len(text):
        return opening + text + closing
    start = len(text) - len(text.lstrip())
    return text[:start] + opening + core + closing + text[start + len(core) :]


def _between(tag: re.Pattern[str], text: str, wrapped: Callable[[str], str]) -> str:
    parts, end = [], 0
    for match in tag.finditer(text):
        parts += [wrapped(text[end : match.start()]), match.group()]
        end = match.end()
    return "".join([*parts, wrapped(text[end:])])


def _call(call: dict[str, Any], style: Style, wrapped: Callable[[str], str]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _call(call["function"], style, wrapped)}
    marked = dict(call)
    if style.names:
        marked["name"] = wrapped(call["name"])
    if style.arguments:
        marked["arguments"] = _deep(call["arguments"], wrapped)
    return marked


def _deep(value: Any, wrapped: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return wrapped(value)
    if isinstance(value, dict):
        return {key: _deep(item, wrapped) for key, item in value.items()}
    if isinstance(value, list):
        return [_deep(item, wrapped) for item in value]
    return value
