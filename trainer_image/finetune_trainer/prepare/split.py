"""Pure: which samples, or documents, are held back from training.

That is decided by what is in them and a seed, whatever their order. Equal ones stay together: what a model has learnt
by heart tells nothing of how it does with what it has not seen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.contents import Contents
from finetune_trainer.splitmix import finalized


@dataclass(frozen=True)
class Split:
    """What is held back."""

    share: float
    seed: int

    def held_back(
        self, contents: Contents, sizes: npt.NDArray[np.integer[Any]], origin: str
    ) -> npt.NDArray[np.bool_]:
        """[n] Whether each is held back, so that the sizes of those that are come as near to the share as can be.

        Something is on either side. Raises InvalidDataError, about `origin`, where that cannot be.
        """
        distinct, group_of = np.unique(contents, return_inverse=True)
        if len(distinct) < 2:
            raise InvalidDataError(
                f"spec.dataset.validationSplit: {self.share:g} cannot be held back of data that are all equal "
                f"({origin}): add others, or name data of their own in spec.dataset.validation"
            )
        group_sizes = np.zeros(len(distinct), np.int64)
        np.add.at(group_sizes, group_of, sizes)
        # The generator is a bijection: no two groups have the same key, so that there is but one order of them.
        keys = finalized(distinct + finalized(np.array([self.seed], np.uint64)))
        order = np.argsort(keys)
        chosen = np.zeros(len(distinct), np.bool_)
        chosen[order] = _nearest(group_sizes[order], self.share * int(sizes.sum()))
        return chosen[group_of]


def _nearest(sizes: npt.NDArray[np.int64], wanted: float) -> npt.NDArray[np.bool_]:
    """[n] Those of which each, in their order, brings the sum nearer to what is wanted; but not none, and not all."""
    chosen = np.zeros(len(sizes), np.bool_)
    lacking, least = wanted, int(sizes.min())
    for place, size in enumerate(sizes.tolist()):
        if 2 * lacking <= least:
            break
        if size < 2 * lacking:
            chosen[place] = True
            lacking -= size
    if not chosen.any() or chosen.all():
        chosen[sizes.argmin()] ^= True
    return chosen
