"""Training Hub's hyperparameter guide as a rule book: what to choose where the spec is silent, and what to advise.

The guide advises, it never rejects: what cannot be run is an error of the spec's own models.
"""

from collections.abc import Callable, Sequence

from finetune_api.facts import DataFacts, Finding, ModelFacts
from finetune_api.guide import (
    batches,
    general,
    hardware,
    learning_rates,
    lengths,
    lora,
    osft,
    overfitting,
    underfitting,
)
from finetune_api.guide.case import Case
from finetune_api.guide.choices import (
    Chosen,
    effective_batch_size,
    learning_rate,
    lora_alpha,
    lora_r,
    max_seq_len,
    num_epochs,
    unfreeze_rank_ratio,
)
from finetune_api.guide.guideline import Guideline
from finetune_api.guide.loss_curve import StepLoss
from finetune_api.recipe import Recipe
from finetune_api.scores import Evaluated
from finetune_api.status import Plan

__all__ = [
    "CHOICES",
    "RULES",
    "WHILE_TRAINING",
    "Chosen",
    "StepLoss",
    "advise",
    "advise_on_course",
    "effective_batch_size",
    "learning_rate",
    "lora_alpha",
    "lora_r",
    "max_seq_len",
    "num_epochs",
    "unfreeze_rank_ratio",
]

# The function that chooses each field; its docstring says what.
CHOICES: dict[str, Callable[..., Chosen | None]] = {
    "spec.hyperparameters.learningRate": learning_rate,
    "spec.hyperparameters.effectiveBatchSize": effective_batch_size,
    "spec.hyperparameters.numEpochs": num_epochs,
    "spec.hyperparameters.maxSeqLen": max_seq_len,
    "spec.osft.unfreezeRankRatio": unfreeze_rank_ratio,
    "spec.lora.r": lora_r,
    "spec.lora.alpha": lora_alpha,
}

RULES: tuple[Guideline, ...] = (
    *learning_rates.RULES,
    *batches.RULES,
    *lengths.RULES,
    *osft.RULES,
    *lora.RULES,
    *underfitting.RULES,
    *overfitting.RULES,
    *hardware.RULES,
    *general.RULES,
)

# Those of them that judge what a run has shown, and are asked again and again while it trains.
WHILE_TRAINING: tuple[Guideline, ...] = (*underfitting.RULES, *overfitting.RULES)


def advise(
    recipe: Recipe,
    plan: Plan,
    model: ModelFacts | None,
    data: DataFacts | None,
    remedies: Sequence[str] = (),
) -> list[Finding]:
    """What the rules have to say about a job, in the order of the book.

    `recipe` is what the spec states, `plan` what came of it. `remedies` are changes after which the job fits its GPUs.
    """
    case = Case(recipe, plan, model, data, remedies)
    return [finding for rule in RULES if (finding := rule(case)) is not None]


def advise_on_course(
    recipe: Recipe, plan: Plan, steps: Sequence[StepLoss], evaluations: Sequence[Evaluated] = ()
) -> list[Finding]:
    """What the rules have to say about a run that trains by a plan and has made these steps, from its first one on."""
    case = Case(recipe, plan, model=None, data=None, steps=steps, evaluations=evaluations)
    return [finding for rule in WHILE_TRAINING if (finding := rule(case)) is not None]
