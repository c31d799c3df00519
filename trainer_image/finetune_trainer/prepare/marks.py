"""Pure: the words of a conversation between characters that occur nowhere else, and where these are after rendering."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from finetune_trainer.prepare.messages import Message

# Planes 16 and 15 of Unicode are for private use: hardly any text has their characters, least of all both.
_SIZE = 0xFFFE
_PLANES = {base: re.compile(f"([{chr(base)}-{chr(base + _SIZE - 1)}])") for base in (0x100000, 0xF0000)}
# What templates look for in an answer to take it apart: <think>, </think>, [THINK].
_TAG = r"</?[\w:-]+>|\[/?[A-Z_]+\]"


class Kind(Enum):
    """What marks are around."""

    WORDS = auto()
    """Content and reasoning."""
    ARGUMENTS = auto()
    """Strings among the arguments of tool calls."""
    NAME = auto()
    """The name of a tool that is called."""


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


class Mark(NamedTuple):
    """A mark that was found."""

    message: int
    """Index of the message whose words it is at."""
    kind: Kind
    opens: bool
    """Whether words begin here; otherwise they end."""
    position: int
    """Characters before it, without marks."""


class Marker:
    """Marks the words of one conversation."""

    def __init__(self, messages: Sequence[Message], text: str, ends: Sequence[str]) -> None:
        """`text` is the conversation as it is rendered without marks; `ends` are the tokens that end a turn, which
        are no tags. Raises ValueError if there are not enough characters that do not occur in it.
        """
        self._messages = messages
        self._tag = re.compile(f"(?!{'|'.join(map(re.escape, ends))})(?:{_TAG})" if ends else _TAG)
        base = next((base for base in _PLANES if text.isascii() or not _PLANES[base].search(text)), None)
        if base is None:
            raise ValueError("it uses all planes of Unicode that are for private use")
        self._base, self._pattern = base, _PLANES[base]
        # Of what a pair of marks is; those of a message one behind the other.
        self._pairs: list[tuple[int, Kind]] = []
        self._first: list[int] = []
        for index, message in enumerate(messages):
            self._first.append(len(self._pairs))
            self._pairs.append((index, Kind.WORDS))
            if calls := message.get("tool_calls"):
                self._pairs.append((index, Kind.ARGUMENTS))
                self._pairs += [(index, Kind.NAME)] * len(calls)
        if 2 * len(self._pairs) > _SIZE:
            raise ValueError(f"it has more than {_SIZE // 2} messages and tool calls")

    def mark(self, style: Style) -> list[Message]:
        """The messages with marks in them. Blank words stay as they are: templates ask whether there are any."""
        return [self._message(index, message, style) for index, message in enumerate(self._messages)]

    def plain(self, index: int) -> str:
        """Marked words that could be any message's, as those of message `index`."""
        return self._around(self._first[index])("words")

    def find(self, rendered: str) -> tuple[str, list[Mark]]:
        """The text of a rendered conversation without its marks, and the marks in their order.

        Of each name of a tool the first is taken: templates may name it again where its result is shown.
        """
        text, *rest = self._pattern.split(rendered)
        parts, marks, position = [text], [], len(text)
        named = set()
        for character, text in zip(rest[::2], rest[1::2], strict=True):
            pair, closes = divmod(ord(character) - self._base, 2)
            message, kind = self._pairs[pair]
            if kind is not Kind.NAME or character not in named:
                marks.append(Mark(message, kind, not closes, position))
            if kind is Kind.NAME:
                named.add(character)
            parts.append(text)
            position += len(text)
        return "".join(parts), marks

    def _around(self, pair: int) -> Callable[[str], str]:
        opening, closing = chr(self._base + 2 * pair), chr(self._base + 2 * pair + 1)
        return lambda text: _wrapped(text, opening, closing)

    def _message(self, index: int, message: Message, style: Style) -> Message:
        pair = self._first[index]
        around = self._around(pair)

        def words(text: str) -> str:
            return _between(self._tag, text, around) if style.between_tags else around(text)

        marked = {**message, "content": words(message["content"])}
        if reasoning := message.get("reasoning_content"):
            marked["reasoning_content"] = words(reasoning)
        if calls := message.get("tool_calls"):
            marked["tool_calls"] = [
                _call(call, style, name=self._around(pair + 2 + number), arguments=self._around(pair + 1))
                for number, call in enumerate(calls)
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


def _call(
    call: dict[str, Any], style: Style, *, name: Callable[[str], str], arguments: Callable[[str], str]
) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _call(call["function"], style, name=name, arguments=arguments)}
    marked = dict(call)
    if style.names:
        marked["name"] = name(call["name"])
    if style.arguments:
        marked["arguments"] = _deep(call["arguments"], arguments)
    return marked


def _deep(value: Any, wrapped: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return wrapped(value)
    if isinstance(value, dict):
        return {key: _deep(item, wrapped) for key, item in value.items()}
    if isinstance(value, list):
        return [_deep(item, wrapped) for item in value]
    return value
