"""Pure: SplitMix64 (Steele, Lea, Flood 2014), for whatever is drawn by a seed.

A run that goes on with another version of numpy must not meet other numbers, and numpy keeps no promise for its own
generators' shuffles. This is a few integer operations.
"""

import numpy as np
import numpy.typing as npt

INCREMENT = 0x9E3779B97F4A7C15
_FINALIZER = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def finalized(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The generator's outputs in the place of its states; integers wrap around. No two states have the same output."""
    for shift, factor in _FINALIZER:
        states ^= states >> np.uint64(shift)
        states *= np.uint64(factor)
    states ^= states >> np.uint64(_LAST_SHIFT)
    return states
