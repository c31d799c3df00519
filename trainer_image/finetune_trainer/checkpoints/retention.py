"""Pure: which states for restarts are kept."""

from collections.abc import Collection


def superseded(steps: Collection[int], *, damaged: Collection[int], newest: int, keep: int) -> set[int]:
    """Of the states of these steps, those that may go now that the one of step `newest` is known to be good.

    `keep` are kept: that one, and the latest of the others. A damaged one does not count as kept: it goes.
    """
    others = sorted(set(steps) - set(damaged) - {newest}, reverse=True)
    return set(steps) - {newest, *others[: keep - 1]}
