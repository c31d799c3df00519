"""What a model is to answer, and what its answers are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A conversation without its last message."""

    row: int
    """Its number in the data that it comes from, counted from 0."""
    prompt: Sequence[int]
    """Its tokens, down to where the model begins to write."""
    reference: str
    """The last message."""
