"""Pure: a conversation as the model's own chat template renders it, and what of it the model would have written.

Templates do not say where their text comes from. So a conversation is rendered a second time with marks around
everybody's words (see marks.py), and must come out the same but for these. What is between the words of two
messages is the template's. Where in there a turn of the assistant begins, the template's generation prompt tells:
what it renders is given to the model, and the model writes the rest, down to the token that ends its turn.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_trainer.prepare.marks import STYLES, Kind, Mark, Marker
from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.rows import Conversation


class UnclearError(Exception):
    """A conversation cannot be rendered, or the template's text cannot be told from the model's."""


class Template(Protocol):
    """A chat template."""

    def __call__(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None, *, prompt: bool
    ) -> str:
        """A conversation as text; with `prompt`, as the model is given it to go on. Raises UnclearError."""


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation."""

    text: str
    spans: list[tuple[int, int]]
    """[start, end) in characters of what loss is taken on, in order and apart."""


@dataclass(frozen=True)
class _Shown:
    """Marks of one message that follow one another."""

    message: int
    marks: list[Mark]

    @property
    def start(self) -> int:
        return self.marks[0].position

    @property
    def end(self) -> int:
        return self.marks[-1].position


def render(conversation: Conversation, template: Template, ends: Sequence[str], *, unmask: bool) -> Rendered:
    """Render a conversation.

    `ends` are the texts of the tokens that may end a turn. Loss is taken on what the assistant writes; with `unmask`
    also on the words of users and tools. Raises UnclearError saying why it cannot be told where these are.
    """
    text = template(conversation.messages, conversation.tools, prompt=False)
    try:
        marker = Marker(conversation.messages, text, ends)
    except ValueError as error:
        raise UnclearError(str(error)) from None
    unclear: UnclearError | None = None
    tried: list[list[Message]] = []
    for style in STYLES:
        marked = marker.mark(style)
        if marked in tried:
            continue
        tried.append(marked)
        try:
            found, marks = marker.find(template(marked, conversation.tools, prompt=False))
            if found != text:
                raise UnclearError("the chat template treats marked words in another way than these")
            turns = _Turns(conversation, marked, marker, template, text, marks)
            return Rendered(text, turns.spans(ends, unmask))
        except UnclearError as error:
            unclear = unclear or error
    assert unclear is not None
    raise unclear


def after_words(conversation: Conversation, template: Template) -> list[str]:
    """What the template puts after the words of each message, up to the words of the next. Raises UnclearError."""
    messages, tools = conversation.messages, conversation.tools
    text = template(messages, tools, prompt=False)
    marker = Marker(messages, text, ())
    found, marks = marker.find(template(marker.mark(STYLES[0]), tools, prompt=False))
    shown = _grouped(marks)
    if found != text or [each.message for each in shown] != list(range(len(messages))):
        raise UnclearError("the chat template does not show every message as it is, once and in order")
    starts = [each.start for each in shown[1:]] + [len(text)]
    return [text[each.end : start] for each, start in zip(shown, starts, strict=True)]


class _Turns:
    """A rendered conversation whose messages were found in its text."""

    def __init__(
        self,
        conversation: Conversation,
        marked: list[Message],
        marker: Marker,
        template: Template,
        text: str,
        marks: list[Mark],
    ) -> None:
        self._conversation, self._marked = conversation, marked
        self._marker, self._template, self._text = marker, template, text
        self._shown = _grouped(marks)
        self._check()

    def spans(self, ends: Sequence[str], unmask: bool) -> list[tuple[int, int]]:
        """[start, end) in characters of what loss is taken on."""
        starts = self._starts()
        spans = []
        for index, shown in enumerate(self._shown):
            role = self._role(index)
            given = shown.message < self._conversation.context and not unmask
            if role == "assistant" and not given:
                start = starts[index]
                if not self._text[start : shown.end].strip():  # thoughts that are left out, and nothing else
                    raise UnclearError(f"the chat template shows nothing of messages[{shown.message}]")
                spans.append((start, self._end(index, ends)))
            elif unmask and role != "system":
                if not shown.marks[0].opens:
                    raise UnclearError(f"it cannot be told where messages[{shown.message}] begins")
                spans.append((shown.start, _closed(shown)))
        return spans

    def _check(self) -> None:
        """Every message must be there, and what loss may be taken on only once."""
        times = [0] * len(self._marked)
        called = set()
        for shown in self._shown:
            times[shown.message] += 1
            if any(mark.kind is not Kind.WORDS for mark in shown.marks):
                called.add(shown.message)
        for index, message in enumerate(self._conversation.messages):
            if message.get("tool_calls") and index not in called:
                raise UnclearError(f"the chat template does not show messages[{index}].tool_calls")
            if not times[index] and (message["role"] == "assistant" or message["content"].strip()):
                raise UnclearError(f"the chat template does not show messages[{index}]")
            if times[index] > 1 and message["role"] != "system":
                raise UnclearError(f"the chat template shows messages[{index}] {times[index]} times")

    def _role(self, index: int) -> str:
        return str(self._conversation.messages[self._shown[index].message]["role"])

    def _before(self, index: int) -> int:
        """Where the words before message `index` of those shown end."""
        return self._shown[index - 1].end if index else 0

    def _starts(self) -> dict[int, int]:
        """Where the model begins to write each of its turns.

        Prompts are as long as what they follow, so a long conversation would take time by the square of its length.
        Of turns with the same text in front, after the same role, the first and the last are asked for; if they
        begin alike, so do those between.
        """
        alike = defaultdict(list)
        for index, shown in enumerate(self._shown):
            if self._role(index) == "assistant":
                after = self._role(index - 1) if index else None
                alike[after, self._text[self._before(index) : shown.start]].append(index)
        starts: dict[int, int] = {}
        for turns in alike.values():
            first, last = turns[0], turns[-1]
            starts |= {index: self._start(index) for index in {first, last}}
            header = starts[first] - self._before(first)
            if header == starts[last] - self._before(last):
                starts |= {index: self._before(index) + header for index in turns}
            else:
                starts |= {index: self._start(index) for index in turns[1:-1]}
        return starts

    def _start(self, index: int) -> int:
        """Where the model begins to write a turn: after the prompt that it is given."""
        shown = self._shown[index]
        asked = self._marked[: shown.message]
        if (start := self._after(self._header(asked, None, prompt=True), index)) is not None:
            return start
        # The turn is not shown as the model wrote it: once the conversation has gone on, templates leave out the
        # reasoning that their prompt begins. Then what they put before plain words in its place is theirs.
        plain = {"role": "assistant", "content": self._marker.plain(shown.message)}
        instead = [*asked, plain, *self._marked[shown.message + 1 :]]
        if (start := self._after(self._header(instead, shown.message, prompt=False), index)) is not None:
            return start
        if shown.marks[0].kind is not Kind.WORDS or not shown.marks[0].opens:
            raise UnclearError(f"it cannot be told where messages[{shown.message}] begins")
        return shown.start

    def _header(
        self, messages: list[Message], until: int | None, *, prompt: bool
    ) -> tuple[int | None, str] | None:
        """What the template puts before the words of message `until`, or at the end: after which message, and what.

        None if it does not take these messages.
        """
        try:
            text, marks = self._marker.find(self._template(messages, self._conversation.tools, prompt=prompt))
        except UnclearError:  # no message yet, for example: templates may insist on a user who speaks first
            return None
        end = next((mark.position for mark in marks if mark.message == until), len(text))
        before = list(itertools.takewhile(lambda mark: mark.message != until, marks))
        last = before[-1] if before else None
        return (last.message, text[last.position : end]) if last else (None, text[:end])

    def _after(self, header: tuple[int | None, str] | None, index: int) -> int | None:
        """Where a header ends in the text, if a turn begins with it."""
        start = self._before(index)
        if header is None or header[0] != (self._shown[index - 1].message if index else None):
            return None
        end = start + len(header[1])
        return end if self._text.startswith(header[1], start) and end <= self._shown[index].end else None

    def _end(self, index: int, ends: Sequence[str]) -> int:
        """Where the turn ends: after its token for that, or with its words where the template writes none."""
        start = _closed(self._shown[index])
        stop = self._shown[index + 1].start if index + 1 < len(self._shown) else len(self._text)
        found = [(at, -len(end)) for end in ends if (at := self._text.find(end, start, stop)) >= 0]
        if not found:
            return start
        at, length = min(found)
        return at - length


def _grouped(marks: list[Mark]) -> list[_Shown]:
    return [
        _Shown(message, list(own)) for message, own in itertools.groupby(marks, lambda mark: mark.message)
    ]


def _closed(shown: _Shown) -> int:
    if shown.marks[-1].opens:
        raise UnclearError(f"it cannot be told where messages[{shown.message}] ends")
    return shown.end
