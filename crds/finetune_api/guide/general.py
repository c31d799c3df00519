"""Rules that hold for every job."""

import re

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.guideline import guideline

_FIELD = "spec.model"


@guideline("General advice", Severity.NOTE, "spec.evaluation")
def baseline_evaluation(case: Case) -> str | None:
    """Evaluate the base model before training and the trained model after it: only the difference tells what training
    did. A data set for the new skill and others for skills to keep show both what was learnt and what was forgotten."""
    recipe = case.recipe
    if not recipe.is_evaluated:
        return (
            "nothing is evaluated: how the model does before training and after it, on data that it is not trained on, "
            "tells what training did. Set dataset.validation or dataset.validationSplit, and evaluation.sets for "
            "skills to keep"
        )
    if not recipe.evaluation.baseline:
        return "the model is not evaluated before training, so nobody knows what training did: remove baseline: false"
    return None


@guideline("General advice", Severity.NOTE, _FIELD)
def instruction_tuned_model(case: Case) -> str | None:
    """The same hyperparameters act differently on an instruction-tuned model and on a base model. Documents loosen what
    an instruction-tuned model learnt about conversations."""
    name = "" if case.model is None else case.model.guessed_from or ""
    tuned = re.search(r"(?i)(?<![a-z])(instruct|chat|it)(?![a-z])", name)
    if tuned is None or case.recipe.hyperparameters.pretraining is None:
        return None
    return (
        "judging by its name, the model is tuned to follow instructions: training on documents may loosen that. A base "
        "model takes documents better"
    )


RULES = (baseline_evaluation, instruction_tuned_model)
