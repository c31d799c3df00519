"""Pure: documents, joined and cut into blocks of one size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune_trainer.prepare.encode import MASKED, Encoded, Ids


@dataclass(frozen=True)
class Block(Encoded):
    """A sample of `block_size` tokens."""

    sample: int
    """Number of the first row that any of its tokens is from."""


class Blocks:
    """Cuts a stream of documents into blocks, in their order and without losing a token.

    Loss is taken on every token but the first of each document, which nothing before it tells, and padding.
    """

    def __init__(self, block_size: int, padding: int) -> None:
        """`padding` is the token that fills the last block."""
        self._size = block_size
        self._padding = padding
        self._input_ids = np.empty(block_size, np.int32)
        self._labels = np.empty(block_size, np.int32)
        self._filled = 0
        self._sample = 0

    def add(self, ids: Ids, sample: int) -> Iterator[Block]:
        """Append a document, [its tokens, the one that ends it included]; yields the blocks that are full with it.

        `sample` is the number of its row.
        """
        document = np.asarray(ids, np.int32)
        labels = document.copy()
        labels[:1] = MASKED
        taken = 0
        while taken < len(document):
            if not self._filled:
                self._sample = sample
            count = min(len(document) - taken, self._size - self._filled)
            place = slice(self._filled, self._filled + count)
            self._input_ids[place] = document[taken : taken + count]
            self._labels[place] = labels[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._size:
                yield self._block()

    def finish(self) -> Iterator[Block]:
        """The last block, filled up; nothing if the documents end with a block."""
        if self._filled:
            self._input_ids[self._filled :] = self._padding
            self._labels[self._filled :] = MASKED
            yield self._block()

    def _block(self) -> Block:
        self._filled = 0
        return Block(self._input_ids.copy(), self._labels.copy(), self._sample)
