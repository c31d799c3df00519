"""Pure: the course of a number in one line of text."""

from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """At most `width` blocks from the lowest to the highest value; each is the mean of its share of the values."""
    known = [value for value in values if value is not None]
    if not known or width < 1:
        return ""
    count = min(width, len(known))
    edges = [round(number * len(known) / count) for number in range(count + 1)]
    means = [sum(known[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    if high <= low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[round((mean - low) / (high - low) * (len(_BLOCKS) - 1))] for mean in means)
