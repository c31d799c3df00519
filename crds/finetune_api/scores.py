"""What evaluations have shown, as status, and what follows from it. Pure."""

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from finetune_api.evaluation import VALIDATION, EarlyStopping
from finetune_api.model import ApiModel, FiniteFloat, ListMap

MAX_SUMMARY_LENGTH = 1024


class SetScore(ApiModel):
    """How the model does on one data set."""

    name: Annotated[str, Field(max_length=32)]
    """validation, or the set's name."""
    loss: FiniteFloat = None
    """Mean loss per token, over all tokens that loss is taken on."""
    perplexity: FiniteFloat = None
    """exp(loss)."""
    token_accuracy: FiniteFloat = None
    """Share of those tokens that the model finds most probable."""
    answered: FiniteFloat = None
    """Share of generated answers that match their references; absent where none are generated."""
    tokens: int
    """Tokens that loss is taken on."""
    change: FiniteFloat = None
    """Loss, less that of the baseline; absent without one."""

    @property
    def label(self) -> str:
        """What its loss is called, for people."""
        return f"{VALIDATION} loss" if self.name == VALIDATION else self.name

    @classmethod
    def of(
        cls, name: str, *, loss_sum: float, correct: int, tokens: int, answered: float | None = None
    ) -> Self:
        """The score of a set, of the sum of its tokens' losses and the number of those that were guessed."""
        loss = loss_sum / tokens if tokens else math.nan
        return cls(
            name=name,
            loss=loss,
            # Beyond that it has no meaning, and no room in a double.
            perplexity=math.exp(loss) if loss < 700 else math.inf,
            token_accuracy=correct / tokens if tokens else math.nan,
            answered=answered,
            tokens=tokens,
        )


class Evaluated(ApiModel):
    """One evaluation of the model."""

    step: int
    """Optimizer steps done; 0 is the base model."""
    epoch: FiniteFloat = None
    """Epochs done, with their fraction."""
    time: AwareDatetime
    """When it was done."""
    sets: Annotated[
        list[SetScore],
        Field(max_length=17),
        ListMap("name"),
    ]
    """Every data set."""

    @property
    def validation_loss(self) -> float | None:
        """Loss on the validation data; None without any, or where it is not finite."""
        return next((score.loss for score in self.sets if score.name == VALIDATION), None)


class EvaluationStatus(ApiModel):
    """What the evaluations have shown."""

    validation_loss: FiniteFloat = None
    """The latest loss on the validation data; once there is an output, that of the output."""
    summary: Annotated[str, Field(max_length=MAX_SUMMARY_LENGTH)] | None = None
    """From the baseline to that evaluation, in words."""
    stopped_early: Annotated[str, Field(max_length=512)] | None = None
    """Why training ended before its last step, if it did."""
    baseline: Evaluated | None = None
    """The base model."""
    latest: Evaluated | None = None
    """The latest evaluation."""
    best: Evaluated | None = None
    """The one of the lowest validation loss; absent without validation data."""
    final: Evaluated | None = None
    """The model that is the output."""


def with_changes(evaluated: Evaluated, baseline: Evaluated | None) -> Evaluated:
    """An evaluation with the change of every set since the baseline."""
    before = {score.name: score.loss for score in baseline.sets} if baseline else {}
    return evaluated.model_copy(
        update={"sets": [_with_change(score, before.get(score.name)) for score in evaluated.sets]}
    )


def _with_change(score: SetScore, before: float | None) -> SetScore:
    change = None if score.loss is None or before is None else score.loss - before
    return score.model_copy(update={"change": change})


def best(history: Sequence[Evaluated]) -> Evaluated | None:
    """The evaluation of the lowest validation loss, the first of equals, after at least one step.

    The baseline is no checkpoint: however good it is, it is not what a run can lead to.
    """
    known = [one for one in history if one.step > 0 and one.validation_loss is not None]
    return min(known, key=lambda one: (one.validation_loss, one.step), default=None)


def status_of(
    history: Sequence[Evaluated], *, stopped_early: str | None = None, final_step: int | None = None
) -> EvaluationStatus | None:
    """All that a history shows; None of one without an evaluation. `final_step` is that of the output, once it is."""
    if not history:
        return None
    baseline, latest = _at(history, 0), history[-1]
    final = None if final_step is None else _at(history, final_step)
    # Once it is there, people want to know of the output: with deliverBest, that is an earlier one.
    shown = final or latest
    return EvaluationStatus(
        validation_loss=shown.validation_loss,
        summary=summary(baseline, shown),
        stopped_early=stopped_early,
        baseline=baseline,
        latest=latest,
        best=best(history),
        final=final,
    )


def _at(history: Sequence[Evaluated], step: int) -> Evaluated | None:
    return next((one for one in history if one.step == step), None)


def why_to_stop(history: Sequence[Evaluated], rule: EarlyStopping) -> str | None:
    """Why training is to end now by the rule, in words; None as long as it is to go on."""
    since = since_improvement(history, rule)
    if since < rule.patience:
        return None
    by = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    said = f"no improvement of the {VALIDATION} loss{by} in {since} evaluation{'s' * (since != 1)}"
    lowest, before = best(history), _at(history, 0)
    known = [one for one in (before, lowest) if one is not None and one.validation_loss is not None]
    if not known:
        return f"{said}: it was never finite"
    found = min(known, key=lambda one: (one.validation_loss, one.step))
    when = f"at step {found.step}" if found.step else "before training"
    return f"{said}: best {found.validation_loss:.4g} {when}"


def since_improvement(history: Sequence[Evaluated], rule: EarlyStopping) -> int:
    """Evaluations since the validation loss last fell by more than minDelta below what was the best one until then.

    The baseline counts as the first best one: training that only ever makes a model worse has no improvement. A loss
    that is not finite is none.
    """
    lowest, since = math.inf, 0
    for one in history:
        loss = one.validation_loss
        if loss is not None and loss < lowest - rule.min_delta:
            lowest, since = loss, 0
        elif one.step > 0:
            since += 1
    return since


def summary(baseline: Evaluated | None, latest: Evaluated | None) -> str | None:
    """What changed, in words: 'validation loss 2.31 → 1.87; general 2.05 → 2.07'."""
    if latest is None:
        return None
    before = {score.name: score.loss for score in baseline.sets} if baseline else {}
    words = [
        _words(score, before.get(score.name) if latest.step > 0 else None)
        for score in latest.sets
        if score.loss is not None
    ]
    return "; ".join(words)[:MAX_SUMMARY_LENGTH] or None


def _words(score: SetScore, before: float | None) -> str:
    name = score.label
    return f"{name} {score.loss:.4g}" if before is None else f"{name} {before:.4g} → {score.loss:.4g}"
