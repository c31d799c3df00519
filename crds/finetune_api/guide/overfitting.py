"""Rules about models that learn their training data by heart. Only evaluations show that, while it trains.

Losses of evaluations go up and down a little by chance. Of four losses in an order that only chance decides, one in
24 is a row that rises all the way; while the training loss falls, there is a plainer explanation than chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from finetune_api.evaluation import VALIDATION
from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.guideline import guideline
from finetune_api.guide.loss_curve import StepLoss
from finetune_api.scores import Evaluated

# As many as earlyStopping waits for if nobody says otherwise.
_RISES = 3


@dataclass(frozen=True)
class Overfit:
    """A validation loss that rises while the training loss falls."""

    best: Evaluated
    """The evaluation with the lowest validation loss, which was the last one before it began, or earlier."""
    lowest: float
    """Its loss."""
    now: float
    """That of the last rise in the row."""
    trained_before: float
    trained_now: float
    """Training losses, of the steps up to the first and up to the last rise in the row."""


def overfit(steps: Sequence[StepLoss], evaluations: Sequence[Evaluated]) -> Overfit | None:
    """Where the validation loss has risen in three evaluations in a row, and was not as low as before again since.

    Meanwhile the mean loss of the steps between two evaluations has fallen. `steps` begin with the first of the run.
    """
    known = [
        (one, loss)
        for one in evaluations
        # A loss that is not finite is another trouble.
        if (loss := one.validation_loss) is not None
    ]
    if not known:
        return None
    best, lowest = min(known, key=lambda each: (each[1], each[0].step))
    since = [each for each in known if each[0].step >= best.step]
    found = None
    for first in range(len(since) - _RISES):
        row = since[first : first + _RISES + 1]
        losses = [loss for _, loss in row]
        if all(later > earlier for earlier, later in pairwise(losses)):
            trained = [_mean(steps[begin.step : end.step]) for (begin, _), (end, _) in pairwise(row)]
            if trained[-1] < trained[0]:
                found = Overfit(best, lowest, losses[-1], trained[0], trained[-1])
    return found


def _mean(steps: Sequence[StepLoss]) -> float:
    # Files of metrics may lack a line; a mean of nothing compares with nothing.
    return fmean(step.loss for step in steps) if steps else float("nan")


@guideline("General advice", Severity.WARNING, "spec.evaluation.earlyStopping")
def overfitting(case: Case) -> str | None:
    """Validation loss tells when to stop. Told while it trains: the validation loss has risen in three evaluations in a
    row while the training loss fell, and has not been as low as before since."""
    found = overfit(case.steps, case.evaluations)
    if found is None:
        return None
    when = f"after step {found.best.step}" if found.best.step else "before training"
    remedies = [] if case.recipe.evaluation.early_stopping else ["set earlyStopping"]
    remedies += ["train for fewer epochs", "lower learningRate", "train on more data"]
    return (
        f"the model overfits: while the training loss fell from {found.trained_before:.2f} to {found.trained_now:.2f}, "
        f"the {VALIDATION} loss rose in {_RISES} evaluations in a row, to {found.now:.2f}; it was lowest {when}, at "
        f"{found.lowest:.2f}. In another run, {'; or '.join(remedies)}"
    )


RULES = (overfitting,)
