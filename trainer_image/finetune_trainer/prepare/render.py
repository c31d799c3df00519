"""Pure: a conversation as the model's own chat template renders it, and where the assistant speaks in it.

Templates say nothing of where their text comes from. So the words of one turn are replaced by a character that
occurs nowhere else and the conversation is rendered again: what comes before and after that character is what the
template adds around the turn, whatever the template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Message = dict[str, str]
Render = Callable[[Sequence[Message]], str]

# Unicode's first private-use plane block: characters without a meaning that text could depend on.
_PRIVATE = [chr(code) for code in range(0xE000, 0xE100)]


class TemplateError(Exception):
    """The template's text cannot be told from the assistant's words."""


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation."""

    text: str
    spans: list[tuple[int, int]]
    """[start, end) in characters of what the assistant says, turn by turn; end-of-turn tokens are not included."""


def render(messages: Sequence[Message], template: Render) -> Rendered:
    """Render a conversation. Raises TemplateError, and whatever the template raises."""
    text = template(messages)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return Rendered(text, [_span(messages, turn, text, template) for turn in turns])


def _span(messages: Sequence[Message], turn: int, text: str, template: Render) -> tuple[int, int]:
    content = messages[turn]["content"]
    mark = next((mark for mark in _PRIVATE if mark not in text), None)
    if mark is None:
        raise TemplateError("the text uses every private character")
    marked = [*messages[:turn], {**messages[turn], "content": mark}, *messages[turn + 1 :]]
    before, *after = template(marked).split(mark)
    if len(after) != 1:
        raise TemplateError(f"the chat template shows messages[{turn}] {len(after)} times")
    # Templates that treat parts of an answer apart (its reasoning, say) put other text around it than around the
    # mark; what they share is still what the template adds.
    start = len(before) if text.startswith(before) else _shared(text, before)
    rest = text[start:]
    tail = after[0]
    if not rest.endswith(tail):
        tail = tail[len(tail) - _shared(rest[::-1], tail[::-1]) :]
    end = len(text) - len(tail)
    # Blanks are the template's to choose; words are not.
    said, meant = "".join(text[start:end].split()), "".join(content.split())
    if not said or (said not in meant and meant not in said):
        raise TemplateError(f"the chat template does not show messages[{turn}].content as it is")
    return start, end


def after_answer(template: Render) -> str:
    """What the template puts after the last answer: its end-of-turn token and whatever follows it."""
    mark = _PRIVATE[0]
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    _, *after = template(probe).split(mark)
    if len(after) != 1:
        raise TemplateError(f"the chat template shows an answer {len(after)} times")
    return after[0]


def _shared(one: str, other: str) -> int:
    """Number of characters that two texts begin with in common."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
