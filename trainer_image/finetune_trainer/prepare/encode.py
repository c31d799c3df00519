"""Pure: token ids and labels of a rendered conversation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from finetune_trainer.prepare.render import Rendered

# What torch's cross-entropy ignores.
MASKED = -100

Ids: TypeAlias = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class Encoded:
    """A conversation as the model sees it."""

    input_ids: Ids
    """[tokens]"""
    labels: Ids
    """[tokens] The token itself where loss is taken on it, MASKED elsewhere. Not shifted."""

    @property
    def loss_tokens(self) -> int:
        """Tokens that loss is taken on. The first of a sequence is never predicted."""
        return int(np.count_nonzero(np.asarray(self.labels[1:]) != MASKED))


def encode(rendered: Rendered, encoding: Encoding, special: Collection[int]) -> Encoded:
    """Label the tokens of what loss is taken on.

    A token that holds any character of a span belongs to it, but for `special` ones that begin before it: they are
    a header's, and hold a character of the span because they swallow blanks.
    """
    input_ids = np.array(encoding.ids, np.int32)
    labels = np.full(len(input_ids), MASKED, np.int32)
    for start, end in rendered.spans:
        first, stop = _tokens(encoding, start, end)
        if first < stop and _start(encoding, first) < start and input_ids[first] in special:
            first += 1
        labels[first:stop] = input_ids[first:stop]
    return Encoded(input_ids, labels)


def _tokens(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """[first, stop) of the tokens that hold any of the characters [start, end)."""
    # Characters that a tokenizer drops are in no token.
    first = next((t for at in range(start, end) if (t := encoding.char_to_token(at)) is not None), None)
    if first is None:
        return 0, 0
    last = next(t for at in reversed(range(start, end)) if (t := encoding.char_to_token(at)) is not None)
    # A character may be several tokens; this was the first of them.
    while last + 1 < len(encoding) and _start(encoding, last + 1) < end:
        last += 1
    return first, last + 1


def _start(encoding: Encoding, token: int) -> int:
    """The first character of a token of the text."""
    characters = encoding.token_to_chars(token)
    assert characters is not None
    return characters[0]
