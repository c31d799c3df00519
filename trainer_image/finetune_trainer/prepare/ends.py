"""Pure: the tokens that end a turn. Nothing says which they are, but templates write them after words to try."""

import itertools
from collections.abc import Callable
from typing import Any

from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.render import Template, UnclearError, after_words
from finetune_trainer.prepare.rows import Conversation

_ASKED = {"role": "user", "content": "Hello"}
_ANSWERED = {"role": "assistant", "content": "Hi"}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"where": "here"}}}
_CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "string", "description": "Where to."}},
            "required": ["where"],
        },
    },
}


def find_ends(template: Template, specials: Callable[[str], list[str]], eos: str | None) -> list[str]:
    """Texts of the tokens that may end a turn. `specials` are the tokens of their own in a text, `eos` one of them.

    Raises UnclearError where the template does not show messages as they are, or does not end them.
    """
    after_user = after_words(Conversation([_ASKED], None, False), template)[0]
    last = after_words(Conversation([_ASKED, _ANSWERED], None, False), template)[1]
    try:
        earlier = after_words(Conversation([_ASKED, _ANSWERED] * 2, None, False), template)[1]
    except UnclearError:  # one question and its answer is all that it takes
        earlier = last
    # Most templates end everybody's turn with the same.
    ends = [*specials(after_user)[:1], *([eos] if eos else [])]
    # What follows an answer wherever it stands is its own: not the next header, and not the end of the text.
    pairs = zip(specials(earlier), specials(last), strict=False)
    ends += [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)][-1:]
    if not any(end in last for end in ends):
        ends += specials(last)[:1]
    if not any(end in last for end in ends):
        raise UnclearError(
            f"it ends an answer with {last!r}, which has no special token: the model would never learn to stop"
        )
    return list(dict.fromkeys(ends))


def find_ends_of_call(
    template: Template,
    specials: Callable[[str], list[str]],
    ends: list[str],
    *,
    ready: Callable[[Message], Message],
) -> list[str]:
    """Texts of further tokens that end a turn that calls a tool, whose message `ready` puts in the form that it takes.

    Raises UnclearError where the template does not show calls.
    """
    conversation = Conversation([_ASKED, ready(_CALLING)], [_TOOL], False)
    after_call = after_words(conversation, template)[1]
    return [] if any(end in after_call for end in ends) else specials(after_call)[-1:]
