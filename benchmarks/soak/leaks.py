"""Whether something grows without end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# With fewer measurements than this a line says nothing.
LEAST = 10
# So many times its own standard error must a slope be before it is taken for one.
_CERTAIN = 3.0


@dataclass(frozen=True)
class Trend:
    """A line through the measurements of the second half."""

    growth: float
    """What it rises by over that half."""
    certainty: float
    """Its slope over the standard error of that slope."""
    allowance: float
    """A rise that is none."""

    @property
    def leaks(self) -> bool:
        """Whether it rises by more than the allowance, and is no accident."""
        return self.growth > self.allowance and self.certainty > _CERTAIN


def trend(times: Sequence[float], values: Sequence[float], allowance: float) -> Trend | None:
    """The line of least squares through the second half of the time; None where that has too few measurements.

    What fills up once, such as a cache, has levelled off by then; what leaks has not.
    """
    if len(times) == 0:
        return None
    middle = (times[0] + times[-1]) / 2
    half = [(time, value) for time, value in zip(times, values, strict=True) if time >= middle]
    if len(half) < LEAST:
        return None
    x, y = np.array(half, dtype=float).T
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    around = y - y.mean() - slope * x
    error = float(np.sqrt(around @ around / (len(x) - 2) / (x @ x)))
    certainty = slope / error if error else float("inf") if slope > 0 else 0.0
    return Trend(slope * float(x[-1] - x[0]), certainty, allowance)
