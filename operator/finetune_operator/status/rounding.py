"""Pure: numbers as people read them."""

import math


def rounded(value: float | None, *, decimals: int) -> float | None:
    """A number with so many decimals."""
    return None if value is None else round(value, decimals)


def significant(value: float | None, digits: int = 5) -> float | None:
    """A number with so many digits, wherever its point is."""
    if value is None or value == 0:
        return value
    try:
        return round(value, digits - 1 - math.floor(math.log10(abs(value))))
    except OverflowError:
        # Rounded up, the largest numbers of all are none any more.
        return value
