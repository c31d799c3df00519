"""Pure: who works on which matrix."""

from collections.abc import Sequence


def deal(costs: Sequence[int], hands: int) -> list[list[int]]:
    """Deal things out to so many hands that all of them have about equally much, by cost; each gets its dearest first.

    The longest-processing-time rule: the dearest of what is left goes to whoever has least. The fullest hand has at
    most 4/3 of what the best deal would give it (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969).
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    totals = [0] * hands
    for thing in sorted(range(len(costs)), key=lambda thing: -costs[thing]):
        hand = totals.index(min(totals))
        dealt[hand].append(thing)
        totals[hand] += costs[thing]
    return dealt


def decomposition_cost(rows: int, columns: int) -> int:
    """What a singular value decomposition costs, up to a factor; what an optimizer step costs goes with it."""
    return rows * columns * min(rows, columns)
