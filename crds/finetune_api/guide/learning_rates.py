"""Rules about the learning rate."""

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.choices import LEARNING_RATES, large_things, learning_rate, rate
from finetune_api.guide.guideline import guideline
from finetune_api.units import times

_SECTION = "Learning rate"
_FIELD = "spec.hyperparameters.learningRate"


@guideline(_SECTION, Severity.WARNING, _FIELD)
def learning_rate_high(case: Case) -> str | None:
    """sft and osft start with at most 5e-6; lora goes no further than 1e-4, its aggressive end. Higher rates make a
    model forget what it knew, or training diverge."""
    rates = LEARNING_RATES[case.recipe.method]
    value = case.plan.learning_rate
    if value <= rates.high:
        return None
    lora = case.recipe.method == "lora"
    what = "the aggressive end for lora" if lora else f"the most to start {case.recipe.method} with"
    return (
        f"{rate(value)} is {times(value / rates.high)} times {rate(rates.high)}, {what}: training may diverge, or the "
        f"model forget what it knew. Set {_better(case)}, or leave it out"
    )


@guideline(_SECTION, Severity.WARNING, _FIELD)
def learning_rate_low(case: Case) -> str | None:
    """sft and osft start with at least 1e-6, lora with 1e-5. With less a model hardly changes."""
    rates = LEARNING_RATES[case.recipe.method]
    value = case.plan.learning_rate
    if value >= rates.low:
        return None
    return (
        f"{rate(value)} is less than {rate(rates.low)}, the least to start {case.recipe.method} with: the model will "
        f"hardly change. Set {_better(case)}, or leave it out"
    )


@guideline(_SECTION, Severity.NOTE, _FIELD)
def learning_rate_for_size(case: Case) -> str | None:
    """sft and osft take the lower end, down to 1e-6, for large models (8B and up) and large data sets (more than 10,000
    samples)."""
    rates = LEARNING_RATES[case.recipe.method]
    value, better = case.plan.learning_rate, learning_rate(case.recipe, case.model, case.data)
    if case.recipe.method == "lora" or not better.value < value <= rates.high:
        return None
    large = " and ".join(large_things(case.model, case.data))
    return f"{rate(value)} is high for {large}: {rate(better.value)} keeps more of what the model knows"


@guideline(_SECTION, Severity.NOTE, _FIELD)
def learning_rate_lora_raised(case: Case) -> str | None:
    """lora starts at 1e-5. Only a model that underfits asks for more, up to 1e-4, the aggressive end."""
    rates = LEARNING_RATES["lora"]
    value = case.plan.learning_rate
    if case.recipe.method != "lora" or not rates.start < value <= rates.high:
        return None
    aggressive = ", and is the aggressive end" if value == rates.high else ""
    start = rate(rates.start)
    return f"{rate(value)} is for a model that underfitted at {start}{aggressive}: start with {start}"


def _better(case: Case) -> str:
    """The guide's choice, and for what."""
    value = rate(learning_rate(case.recipe, case.model, case.data).value)
    large = [] if case.recipe.method == "lora" else large_things(case.model, case.data)
    return f"{value} for {' and '.join(large)}" if large else value


RULES = (learning_rate_high, learning_rate_low, learning_rate_for_size, learning_rate_lora_raised)
