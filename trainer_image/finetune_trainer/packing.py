"""Pure: how the samples of a step are divided among processes and micro-batches.

Every process gets the same number of micro-batches, for every micro-batch is a collective, and none has more tokens
than the budget. How many there are is decided by first-fit decreasing; it depends on the samples' lengths alone. The
samples are then spread anew over that many, so that processes do not wait for one another.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.status import MicroBatches
from finetune_trainer.batches import Indices, Schedule

Lengths = npt.NDArray[np.integer[Any]]

# A sample of this length costs as much in attention as in everything else: 12 times the width of a model's layers,
# here 2048. Only the balance depends on it, so that one figure is good enough for all models.
_ATTENTION_LENGTH = 24_576

# Bounds of what is counted at a time: steps, whose bins should stay in the processor's cache, and samples.
_STEPS_AT_A_TIME = 4096
_SAMPLES_AT_A_TIME = 2**23
# How often it is worth looking for bins that nothing fits into any more.
_LOOK_EVERY = 64


def pack(samples: Indices, lengths: Lengths, *, budget: int, world_size: int) -> list[list[Indices]]:
    """Divide samples among processes: for each process its micro-batches, as sample numbers.

    All processes get the same number of micro-batches; some may be empty. Micro-batches of the same index cost about
    the same, and so do all micro-batches of each process. The costliest come first: what does not fit into memory
    shows at once. `lengths[sample]` is a sample's length in tokens; raises ValueError where one exceeds `budget`.
    """
    of_samples = lengths[samples].astype(np.int64)
    _check(samples, of_samples, budget)
    longest_first = np.argsort(-of_samples, kind="stable")
    ordered = of_samples[longest_first]
    bins = first_fit(ordered[:, None], budget)[:, 0]
    rounds = -(-(int(bins.max()) + 1) // world_size)
    bins = _spread(ordered, rounds, world_size, budget, otherwise=bins)
    sizes = np.bincount(bins, minlength=rounds * world_size)
    costs = np.bincount(bins, weights=costs_of(ordered), minlength=rounds * world_size)
    by_bin = samples[longest_first[np.argsort(bins, kind="stable")]]
    members = np.split(by_bin, np.cumsum(sizes)[:-1])
    shares: list[list[Indices]] = [[] for _ in range(world_size)]
    loads = np.zeros(world_size)
    for of_round in np.argsort(-costs, kind="stable").reshape(rounds, world_size):
        # Whoever has had least so far gets the costliest.
        for rank, chosen in zip(np.argsort(loads, kind="stable"), of_round, strict=True):
            shares[rank].append(members[chosen])
            loads[rank] += costs[chosen]
    return shares


def count(
    lengths: Lengths, schedule: Schedule, budget: int, world_size: int, tick: Callable[[], None]
) -> MicroBatches:
    """Micro-batches of each process per step, over the first epoch: as many as `pack` will make.

    `tick` is called every second or so. Raises ValueError where a sample exceeds `budget`.
    """
    _check(np.arange(len(lengths)), lengths, budget)
    order, size = schedule.order(0), schedule.batch_size
    at_a_time = max(1, min(_STEPS_AT_A_TIME, _SAMPLES_AT_A_TIME // size)) * size
    whole = len(order) - len(order) % size
    # The last step, if it is short, goes alone.
    starts = [*range(0, whole, at_a_time), whole, len(order)]
    rounds = []
    for start, end in pairwise(starts):
        if start < end:
            some = lengths[order[start:end]].astype(np.int32).reshape(-1, min(size, end - start))
            some.sort(axis=1)
            bins = first_fit(np.ascontiguousarray(some[:, ::-1].T), budget)
            rounds.append(-(-(bins.max(axis=0) + 1) // world_size))
            tick()
    counts = np.concatenate(rounds)
    return MicroBatches(min=int(counts.min()), mean=float(counts.mean()), max=int(counts.max()))


def _check(samples: Indices, lengths: Lengths, budget: int) -> None:
    longest = int(lengths.argmax())
    if lengths[longest] > budget:
        raise ValueError(
            f"sample {samples[longest]} has {lengths[longest]} tokens, more than the budget of {budget}"
        )


def first_fit(longest_first: Lengths, budget: int) -> npt.NDArray[np.int64]:
    """First-fit decreasing, for many steps at a time: bins [samples, steps] for lengths [samples, steps].

    Each column is descending. The samples of one step are placed one after the other, each into the first bin that
    has room for it; the same of every step at the same time.
    """
    samples, steps = longest_first.shape
    # Of two bins that follow each other the second was opened because the first had no room.
    most = min(samples, 2 * int(longest_first.sum(axis=0, dtype=np.int64).max()) // budget + 1)
    rooms = np.full((steps, most), budget, np.int32)
    every, shortest = np.arange(steps), longest_first[-1][:, None]
    bins = np.empty((samples, steps), np.int64)
    # Bins before `low` are full in every step, bins from `high` on are empty in every step.
    low, high = 0, 1
    for sample, length in enumerate(longest_first):
        bins[sample] = chosen = (rooms[:, low:high] >= length[:, None]).argmax(axis=1) + low
        rooms[every, chosen] -= length
        high = min(most, max(high, int(chosen.max()) + 2))
        if sample % _LOOK_EVERY == 0:
            low += int((rooms[:, low:high] >= shortest).any(axis=0).argmax())
    return bins


def _spread(
    longest_first: Lengths, rounds: int, world_size: int, budget: int, *, otherwise: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Each sample into the bin that lacks most of its level and has room; `otherwise` if one finds no room."""
    costs = costs_of(longest_first)
    lacking = np.repeat(_levels(costs, rounds, world_size), world_size)
    rooms, bins = np.full(len(lacking), budget), np.empty_like(otherwise)
    for sample, (length, cost) in enumerate(zip(longest_first, costs, strict=True)):
        bins[sample] = chosen = np.where(rooms >= length, lacking, -np.inf).argmax()
        if rooms[chosen] < length:
            return otherwise
        rooms[chosen] -= length
        lacking[chosen] -= cost
    return bins


def _levels(costs: npt.NDArray[np.float64], rounds: int, world_size: int) -> npt.NDArray[np.float64]:
    """What the micro-batches of each round should cost, [rounds], so that their costliest ones add up to least.

    A round takes as long as its costliest micro-batch. One that has a very long sample may as well be filled up to
    its cost in every process; what is left is shared equally by the other rounds. `costs` are descending.
    """
    levels = np.zeros(rounds)
    # However samples are divided, the costliest of a round is at least this: so many are dearer.
    least = costs[::world_size][:rounds]
    levels[: len(least)] = least
    left = costs.sum() / world_size
    for index, level in enumerate(levels):
        if (equal := left / (rounds - index)) >= level:
            levels[index:] = equal
            break
        left -= level
    return levels


def costs_of(lengths: Lengths) -> npt.NDArray[np.float64]:
    """What samples cost to compute, in tokens of a short sample: attention grows with the square of the length."""
    cost: npt.NDArray[np.float64] = lengths + np.square(lengths, dtype=np.float64) / _ATTENTION_LENGTH
    return cost
