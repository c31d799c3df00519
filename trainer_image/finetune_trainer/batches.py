"""Pure: which samples are trained on at which step.

An optimizer step takes exactly `batch_size` samples over all processes, and fewer only at the end of an epoch.
The order does not depend on the number of processes, nor on the version of any library. A step is all that is
needed to go on from: nothing here has a state.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from finetune_trainer.splitmix import INCREMENT, finalized

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one optimizer step."""

    epoch: int
    """Counts from 0."""
    samples: Indices
    ends_epoch: bool


@dataclass(frozen=True)
class Schedule:
    """The course of a whole run over `samples` samples."""

    samples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last one may be short."""
        return -(-self.samples // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The samples of a step, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        chosen = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        return Batch(epoch, chosen, ends_epoch=index == self.steps_per_epoch - 1)

    def order(self, epoch: int) -> Indices:
        """All samples in the order in which an epoch takes them."""
        return _permutation(self.samples, self.seed + epoch)

    def samples_before(self, step: int) -> int:
        """Samples trained on before a step."""
        epochs, index = divmod(step, self.steps_per_epoch)
        return epochs * self.samples + index * self.batch_size


# Two: whoever looks one step ahead is in the next epoch while the last step of this one is asked for.
@lru_cache(maxsize=2)
def _permutation(samples: int, seed: int) -> Indices:
    """The numbers below `samples`, ordered by the outputs of SplitMix64.

    It is a bijection, so no two samples ever have the same key, and every algorithm for sorting gives the same order.
    """
    keys = np.arange(1, samples + 1, dtype=np.uint64)
    keys *= np.uint64(INCREMENT)
    # Neighbouring seeds start far apart.
    keys += finalized(np.array([seed], np.uint64))
    order = np.argsort(finalized(keys))
    order.setflags(write=False)
    return order
