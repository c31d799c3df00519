"""What a model is to answer, and what its answers are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.evaluation import Generate
from finetune_trainer.evaluating.matching import problem
from finetune_trainer.prepare.faults import FaultyRowError
from finetune_trainer.prepare.rows import Conversation


@dataclass(frozen=True)
class Question:
    """A conversation without its last message."""

    row: int
    """Its number in the data that it comes from, counted from 0."""
    prompt: Sequence[int]
    """Its tokens, down to where the model begins to write."""
    reference: str
    """The last message."""


def check_reference(conversation: Conversation, generate: Generate) -> None:
    """Make sure that a conversation ends with an answer that others can be compared with.

    Raises FaultyRowError, and nothing else.
    """
    *asked, last = conversation.messages
    if last["role"] != "assistant":
        raise FaultyRowError(
            "", f"ends with a message of role {last['role']}, not with an answer to compare others with"
        )
    if not asked:
        raise FaultyRowError("", "has an answer only: nothing is asked")
    if not last["content"].strip():
        raise FaultyRowError("", "ends with an answer that has no content to compare others with")
    if wrong := problem(generate, last["content"]):
        raise FaultyRowError("", f"ends with an answer that cannot be looked for: {wrong}")
