"""What an estimate of memory assumes where the plan does not tell."""

from enum import IntEnum


class Case(IntEnum):
    """From the least that is likely to the most."""

    LOW = 0
    """One micro-batch per step, so there are no gradients from the one before; blocks are gathered just in time, and
    their gradients reduced at once; osft has one round of matrices."""
    ESTIMATE = 1
    """Several micro-batches per step; one block is gathered ahead, and one of osft's matrices."""
    HIGH = 2
    """Two blocks are gathered ahead; attention that reaches back over a window needs its mask; of osft's matrices a
    process has one more than its share, and one more on its way."""
