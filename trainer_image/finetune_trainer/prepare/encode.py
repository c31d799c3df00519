"""Pure: token ids and labels of a rendered conversation."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.prepare.render import Rendered

# What torch's cross-entropy ignores.
MASKED = -100


@dataclass(frozen=True)
class Encoded:
    """A conversation as the model sees it."""

    input_ids: Sequence[int]
    labels: list[int]
    """The token itself where loss is taken on it, MASKED elsewhere. Not shifted."""

    @property
    def loss_tokens(self) -> int:
        """Tokens that loss is taken on. The first of a sequence is never predicted."""
        return sum(label != MASKED for label in self.labels[1:])


def encode(
    rendered: Rendered, input_ids: Sequence[int], offsets: Sequence[tuple[int, int]], end_of_turn: int
) -> Encoded:
    """Label what the assistant says and the token that ends its turn.

    `offsets` are the [start, end) characters of each token; a token that holds any of the assistant's characters
    is the assistant's.
    """
    labels = [MASKED] * len(input_ids)
    token = 0
    for start, end in rendered.spans:
        while token < len(input_ids) and offsets[token][1] <= start:
            token += 1
        while token < len(input_ids) and offsets[token][0] < end:
            labels[token] = input_ids[token]
            token += 1
        # Templates may put blanks between the last word and the token that ends the turn.
        while token < len(input_ids) and input_ids[token] != end_of_turn:
            if rendered.text[offsets[token][0] : offsets[token][1]].strip():
                break
            token += 1
        if token < len(input_ids) and input_ids[token] == end_of_turn:
            labels[token] = end_of_turn
            token += 1
    return Encoded(input_ids, labels)
