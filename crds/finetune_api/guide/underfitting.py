"""Rules about models that underfit. Only a run shows that, so they speak while it trains."""

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.choices import LEARNING_RATES, rate
from finetune_api.guide.guideline import guideline
from finetune_api.guide.loss_curve import Plateau, plateau
from finetune_api.trained_weights import lora_r

# Guide, "Rank and alpha": what an underfitting model is given, the lower one first.
_RAISED_R = (32, 64)
_HIGHEST_RATE = LEARNING_RATES["lora"].high


@guideline("Rank and alpha", Severity.WARNING, "spec.lora.r")
def lora_underfits(case: Case) -> str | None:
    """r goes up to 32 or 64, or the learning rate towards 1e-4, if the model underfits. Told while it trains: the
    loss has moved by at most 5 % between two whole passes over the data, the first of them at half the peak rate or
    more; it is above 1, and has not halved since the start."""
    found = _found(case)
    higher = [str(r) for r in _RAISED_R if r > lora_r(case.recipe)]
    if found is None or not higher:
        return None
    remedies = [f"set {' or '.join(higher)}"]
    if case.plan.learning_rate < _HIGHEST_RATE:
        remedies.append(_raise_rate(case))
    targets = case.recipe.lora.target_modules
    if targets is not None and "allLinear" not in targets:
        remedies.append("leave targetModules out, for adapters beside all linear layers")
    return f"{_told(found)}. In another run, {'; or '.join(remedies)}"


@guideline("Learning rate", Severity.WARNING, "spec.hyperparameters.learningRate")
def lora_underfits_at_high_rank(case: Case) -> str | None:
    """lora goes towards 1e-4 if the model underfits. Told while it trains where the loss stays high, as it is told of
    spec.lora.r, and that is 64 or more already."""
    found = _found(case)
    if found is None or lora_r(case.recipe) < _RAISED_R[-1] or case.plan.learning_rate >= _HIGHEST_RATE:
        return None
    return f"{_told(found)}, with r: {lora_r(case.recipe)}. In another run, {_raise_rate(case)}"


def _found(case: Case) -> Plateau | None:
    of_epoch = case.plan.steps_per_epoch
    # Without samples an epoch has no steps.
    return plateau(case.steps, of_epoch) if case.recipe.method == "lora" and of_epoch else None


def _told(found: Plateau) -> str:
    return (
        f"the model underfits: its loss was {found.start:.2f} at the start, {found.before:.2f} over {found.steps:,} "
        f"steps of whole passes over the data, and is {found.now:.2f} over as many later ones"
    )


def _raise_rate(case: Case) -> str:
    return f"raise learningRate from {rate(case.plan.learning_rate)} towards {rate(_HIGHEST_RATE)}"


RULES = (lora_underfits, lora_underfits_at_high_rank)
