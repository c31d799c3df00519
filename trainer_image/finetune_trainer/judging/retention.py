"""Pure: of the weights that are kept because they were the best ones, which may go."""

from collections.abc import Collection, Sequence

from finetune_api.scores import Evaluated, best


def superseded(kept: Collection[int], history: Sequence[Evaluated], newest_state: int) -> set[int]:
    """Of weights after the steps `kept`, those that nobody will want now that the best ones of all are complete.

    These stay, and so do those that were the best up to the newest state: if this attempt ends here, the next one goes
    on from there, and may find other scores after it.
    """
    until_then = [one for one in history if one.step <= newest_state]
    return set(kept) - {found.step for each in (history, until_then) if (found := best(each))}
