"""Checkpoints with what the evaluations of the run have shown of them."""

from collections.abc import Iterable, Sequence

from finetune_api.scores import Evaluated, best
from finetune_api.status import Checkpoint


def judged(found: Iterable[Checkpoint], history: Sequence[Evaluated]) -> list[Checkpoint]:
    """The same checkpoints with the validation loss of their step, and the weights of the lowest one marked."""
    losses = {one.step: one.validation_loss for one in history}
    lowest = best(history)
    return [
        one.model_copy(
            update={
                "validation_loss": losses.get(one.step),
                "best": True if lowest and one.kind == "weights" and one.step == lowest.step else None,
            }
        )
        for one in found
    ]
