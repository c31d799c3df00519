"""Pure: whether a run's loss has come to rest while it is high, which is how a model that underfits shows itself.

Losses of single steps differ by what their batches hold, and a loss that no longer falls on samples that are new each
time may be as low as it can be for them. So whole passes over the data are compared: each is over the same samples,
whatever their order, and what a model has room to learn, it answers better when it sees it again. What a pass shows is
what was learnt in the one before, so it is the rate of that one that must have been high.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

# A loss that has not moved in fewer steps has not had the time to.
_FEWEST_STEPS = 10
# The first batch alone may be an easy one.
_FIRST_STEPS = 5
# A model that learns what it is shown gets further than that from one pass to the next.
_AT_REST = 0.05
# Of the peak: half of it, so that an end whose rate goes to zero is not taken for one of learning. Of a cosine over
# three epochs or more, passes count up to the middle of the run.
_HIGH_RATE = 0.5
# In nats per token. Below it, the right token gets more than 1/e, 37 %, of the probability in the (geometric) mean.
_SMALL_LOSS = 1.0
# Of the loss at the start. What is left of twice as much is no sign that there is too little room to learn.
_FALLEN_WELL = 0.5


@dataclass(frozen=True)
class StepLoss:
    """What one optimizer step showed."""

    loss: float
    """Mean loss per token, before the step."""
    learning_rate: float
    samples: int
    """Samples of the step: the last one of an epoch may have few."""


@dataclass(frozen=True)
class Plateau:
    """A loss that is high and no longer falls."""

    steps: int
    """How many are compared with as many before them: one pass over the data, or several that are short."""
    start: float
    before: float
    now: float


def plateau(steps: Sequence[StepLoss], steps_per_epoch: int) -> Plateau | None:
    """Where the loss of a run's steps, from its first one on, stays while it is far above where it should go.

    The newest whole pass over the data is compared with the last one before it that trained at half the peak rate or
    more. None where they differ by more than 5 %, up or down; where the loss is at most 1, has halved since the start,
    or risen; or where no two such passes are over. Passes of fewer than ten steps are taken together.
    """
    length = steps_per_epoch * -(-_FEWEST_STEPS // steps_per_epoch)
    passes = [steps[first : first + length] for first in range(0, len(steps) - length + 1, length)]
    if len(passes) < 2:
        return None
    high = _HIGH_RATE * max(step.learning_rate for step in steps)
    learning = [
        number
        for number, of_pass in enumerate(passes[:-1])
        if fmean(step.learning_rate for step in of_pass) >= high
    ]
    if not learning:
        return None
    before, now = _mean(passes[learning[-1]]), _mean(passes[-1])
    start = max(steps[0].loss, _mean(steps[:_FIRST_STEPS]))
    if abs(now - before) > _AT_REST * before or now <= _SMALL_LOSS:
        return None
    if not _FALLEN_WELL < now / start <= 1 + _AT_REST:
        return None
    return Plateau(length, start, before, now)


def _mean(steps: Sequence[StepLoss]) -> float:
    # By samples: batches differ in their tokens at random, and over a whole pass that evens out.
    return fmean((step.loss for step in steps), weights=[step.samples for step in steps])
