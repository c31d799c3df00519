"""Pure: after which steps a run is evaluated."""

import math
from dataclasses import dataclass

from finetune_api.evaluation import Evaluation


@dataclass(frozen=True)
class Timing:
    """When one run is evaluated, if there is anything to evaluate it on."""

    wanted: Evaluation
    steps_per_epoch: int
    total_steps: int

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after so many steps; 0 is before the first one.

        After the last one it always is: a result that nobody has judged tells nothing.
        """
        if step == 0:
            return self.wanted.baseline
        ends_epoch = step % self.steps_per_epoch == 0
        counted = self.wanted.every_steps is not None and step % self.wanted.every_steps == 0
        return (ends_epoch and self.wanted.every_epoch) or counted or step == self.total_steps

    def left(self, step: int) -> int:
        """How many are due after more steps than so many."""
        if step >= self.total_steps:
            return 0
        lengths = [self.steps_per_epoch] if self.wanted.every_epoch else []
        if self.wanted.every_steps is not None:
            lengths.append(self.wanted.every_steps)

        def multiples(length: int) -> int:
            # Of those before the last step, after which there is one anyhow.
            return (self.total_steps - 1) // length - step // length

        twice = multiples(math.lcm(*lengths)) if len(lengths) == 2 else 0
        return sum(multiples(length) for length in lengths) - twice + 1
