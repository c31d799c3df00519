"""Pure: which samples each process trains on, in which micro-batches, at which step.

An optimizer step takes exactly `batch_size` samples over all processes, and fewer only at the end of an epoch.
The order is a permutation seeded with seed + epoch, and does not depend on the number of processes. A step is all
that is needed to go on from: nothing here has a state.
"""

import bisect
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# Sample indices, one list per micro-batch.
MicroBatches = list[list[int]]


@dataclass(frozen=True)
class Batch:
    """The samples of one optimizer step."""

    epoch: int
    """Counts from 0."""
    samples: list[int]
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
        order = _permutation(self.samples, self.seed + epoch)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        return Batch(epoch, chosen, ends_epoch=index == self.steps_per_epoch - 1)

    def samples_before(self, step: int) -> int:
        """Samples trained on before a step."""
        epochs, index = divmod(step, self.steps_per_epoch)
        return epochs * self.samples + index * self.batch_size


@lru_cache(maxsize=2)
def _permutation(samples: int, seed: int) -> list[int]:
    order = list(range(samples))
    random.Random(seed).shuffle(order)
    return order


def pack(
    samples: Sequence[int], lengths: Sequence[int], *, budget: int, world_size: int
) -> list[MicroBatches]:
    """Divide samples among processes: for each process a list of micro-batches of at most `budget` tokens.

    All processes get the same number of micro-batches, as few as the packing finds; some may be empty, for every
    process must take part in every collective. `lengths[sample]` is a sample's length in tokens, at most `budget`.
    """
    longest_first = sorted(samples, key=lambda sample: -lengths[sample])
    bins = _best_fit(longest_first, lengths, budget)
    rounds = -(-len(bins) // world_size)
    # What the rounding gained is used to even the loads out: processes wait for the slowest of them.
    bins = _spread(longest_first, lengths, rounds * world_size, budget) or bins
    bins.sort(key=lambda members: -sum(lengths[sample] for sample in members))
    bins += [[] for _ in range(rounds * world_size - len(bins))]
    # Micro-batches of one round have similar loads; who gets the largest alternates.
    shares: list[MicroBatches] = [[] for _ in range(world_size)]
    for index in range(rounds):
        of_round = bins[index * world_size : (index + 1) * world_size]
        for share, members in zip(shares, of_round if index % 2 == 0 else reversed(of_round), strict=True):
            share.append(members)
    return shares


def _best_fit(longest_first: Sequence[int], lengths: Sequence[int], budget: int) -> MicroBatches:
    """Best-fit decreasing: each sample goes where it leaves the least room.

    It is as good as first-fit decreasing (at most 11/9 of the optimum), and finds its place by bisection.
    """
    bins: MicroBatches = []
    rooms: list[tuple[int, int]] = []  # (tokens left, bin), in order
    for sample in longest_first:
        length = lengths[sample]
        if length > budget:
            raise ValueError(f"sample {sample} has {length} tokens, more than the budget of {budget}")
        at = bisect.bisect_left(rooms, (length, 0))
        if at == len(rooms):
            bins.append([sample])
            room, chosen = budget, len(bins) - 1
        else:
            room, chosen = rooms.pop(at)
            bins[chosen].append(sample)
        bisect.insort(rooms, (room - length, chosen))
    return bins


def _spread(
    longest_first: Sequence[int], lengths: Sequence[int], bins: int, budget: int
) -> MicroBatches | None:
    """Each sample onto the least loaded of a given number of bins; None if that breaks the budget."""
    loads = [(0, index) for index in range(bins)]
    result: MicroBatches = [[] for _ in range(bins)]
    for sample in longest_first:
        load, index = loads[0]
        if load + lengths[sample] > budget:
            return None
        result[index].append(sample)
        heapq.heapreplace(loads, (load + lengths[sample], index))
    return result
