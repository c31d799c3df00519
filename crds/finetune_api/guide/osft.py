"""Rules about orthogonal subspace fine-tuning."""

from dataclasses import replace

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.choices import LARGE_MODEL, directions
from finetune_api.guide.guideline import guideline
from finetune_api.guide.layers import matching_none
from finetune_api.memory import decomposition_peak
from finetune_api.trained_weights import UNFREEZE_RANK_RATIO, targets, unfreeze_rank_ratio
from finetune_api.units import billions, gib

_SECTION = "unfreeze_rank_ratio"
_FIELD = "spec.osft.unfreezeRankRatio"
# Guide: the range that it calls conservative.
_CONSERVATIVE = (0.1, 0.3)


def _ratio(case: Case) -> float | None:
    return unfreeze_rank_ratio(case.recipe) if case.recipe.method == "osft" else None


def _trained(case: Case, ratio: float) -> str:
    return "" if case.model is None else f" ({directions(case.model, ratio)})"


def _is_large(case: Case) -> bool:
    return case.parameters is not None and case.parameters >= LARGE_MODEL


@guideline(_SECTION, Severity.WARNING, _FIELD)
def unfreeze_rank_ratio_high(case: Case) -> str | None:
    """At 8B and up more than 0.5 is rarely needed: osft then approaches sft and keeps less of what the model knows."""
    ratio = _ratio(case)
    if ratio is None or ratio <= UNFREEZE_RANK_RATIO or not _is_large(case) or case.parameters is None:
        return None
    return (
        f"{ratio:g}{_trained(case, ratio)} is rarely needed for {billions(case.parameters)} weights: it "
        "comes close to sft. Set 0.5 or less, or leave it out"
    )


@guideline(_SECTION, Severity.NOTE, _FIELD)
def unfreeze_rank_ratio_raised(case: Case) -> str | None:
    """Models under 8B have fewer directions per matrix and may need more than 0.5. Close to 1 osft is sft, at a higher
    price."""
    ratio = _ratio(case)
    if ratio is None or ratio <= UNFREEZE_RANK_RATIO or _is_large(case):
        return None
    return (
        f"{ratio:g}{_trained(case, ratio)} is for a small model that learnt too little with 0.5; the closer to 1, the "
        "more it is like sft, which costs less"
    )


@guideline(_SECTION, Severity.NOTE, _FIELD)
def unfreeze_rank_ratio_conservative(case: Case) -> str | None:
    """0.1 to 0.3 is conservative: little changes, and much of what the model knows is kept. Enough for large models;
    small ones may learn too little."""
    ratio = _ratio(case)
    if ratio is None or ratio > _CONSERVATIVE[1]:
        return None
    kind = (
        "conservative"
        if ratio >= _CONSERVATIVE[0]
        else f"less than the {_CONSERVATIVE[0]} that is conservative"
    )
    small = "" if _is_large(case) else ", and a small model may learn too little: then go up to 0.5"
    return (
        f"{ratio:g}{_trained(case, ratio)} is {kind}: it changes little and keeps what the model knows{small}"
    )


@guideline(_SECTION, Severity.NOTE, _FIELD)
def unfreeze_rank_ratio_directions(case: Case) -> str | None:
    """The ratio is of each matrix's directions, so it means more of them in a larger model: at 0.5 about 700 in one
    that is 1,400 wide, 1,900 in one that is 3,800 wide."""
    ratio = _ratio(case)
    # A chosen ratio tells so in its reason.
    if ratio is None or case.recipe.osft.unfreeze_rank_ratio is None or case.model is None:
        return None
    if not _CONSERVATIVE[1] < ratio <= UNFREEZE_RANK_RATIO:
        return None
    trained = directions(case.model, ratio)
    return f"{ratio:g} trains {trained}: larger models may need less, smaller ones more"


@guideline(_SECTION, Severity.NOTE, _FIELD)
def unfreeze_rank_ratio_memory(case: Case) -> str | None:
    """A higher ratio takes more memory, for what is trained has optimizer state. It is one of the knobs when memory
    runs out, and saves less than its share: the model and all directions are there at any ratio."""
    ratio, need, lower = _ratio(case), case.need, _CONSERVATIVE[1]
    if ratio is None or ratio <= lower or need is None or not case.is_short:
        return None
    less = case.need_of(case.with_ratio(lower))
    if less is None or less >= need:
        return None
    return (
        f"memory is short; with {lower:g} a GPU needs about {gib(less)} instead of {gib(need)}{case.judging}"
    )


@guideline(_SECTION, Severity.NOTE, "spec.osft")
def decomposition_memory(case: Case) -> str | None:
    """Before osft trains, each matrix is decomposed as a whole, in FP32, whatever the ratio: the largest one decides
    what memory that takes."""
    if case.recipe.method != "osft" or case.model is None:
        return None
    peak = decomposition_peak(case.recipe, case.model.architecture)
    if peak == 0:
        return None
    return f"before training, decomposing the largest matrix takes about {gib(peak)}{case.judging}, whatever the ratio"


@guideline("target_patterns", Severity.WARNING, "spec.osft.targetPatterns")
def target_patterns_match_nothing(case: Case) -> str | None:
    """Each pattern is a regular expression that must be found in the name of a linear layer, to restrict osft to
    attention, say, or to the MLPs."""
    # A guessed model has the shapes of its size, not the names and numbers of its layers.
    if case.recipe.method != "osft" or case.model is None or case.model.is_guess:
        return None
    idle = [pattern for pattern in case.recipe.osft.target_patterns if not _is_found(pattern, case)]
    return matching_none(idle, "this model", (linear.name for linear in case.model.architecture.linears))


def _is_found(pattern: str, case: Case) -> bool:
    assert case.model is not None
    osft = case.recipe.osft.model_copy(update={"target_patterns": [pattern]})
    return bool(targets(replace(case.recipe, osft=osft), case.model.architecture))


RULES = (
    unfreeze_rank_ratio_high,
    unfreeze_rank_ratio_raised,
    unfreeze_rank_ratio_conservative,
    unfreeze_rank_ratio_directions,
    unfreeze_rank_ratio_memory,
    decomposition_memory,
    target_patterns_match_nothing,
)
