"""Rules about low-rank adapters: their rank, the width of the frozen model, and how it lies on several GPUs."""

from dataclasses import replace

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.guideline import guideline
from finetune_api.guide.layers import COMMON_LAYERS, could_be_layer, matching_none
from finetune_api.trained_weights import (
    ALPHA_PER_RANK,
    LAYER_GROUPS,
    LORA_R,
    lora_r,
    targets,
    trainable_parameters,
)
from finetune_api.units import billions, gib

_RANK = "Rank and alpha"
_QUANTIZATION = "Quantization (QLoRA)"
_MULTI_GPU = "Multi-GPU"
# Guide, "Rank and alpha": how far to go when the model underfits.
_HIGHEST_R = 64
# Guide, "Quantization (QLoRA)": large models on consumer GPUs.
_QUANTIZED_FROM = 20_000_000_000


def _r(case: Case) -> int | None:
    return lora_r(case.recipe) if case.recipe.method == "lora" else None


@guideline(_RANK, Severity.NOTE, "spec.lora.r")
def lora_r_raised(case: Case) -> str | None:
    """Start with r at 16; 32 or 64 are for a model that underfits. A higher rank trains more weights and takes more
    memory."""
    r = _r(case)
    if r is None or not LORA_R < r <= _HIGHEST_R:
        return None
    return (
        f"{r}{_weights(case)} is for a model that underfitted at {LORA_R}: start with {LORA_R}{_saving(case)}"
    )


@guideline(_RANK, Severity.WARNING, "spec.lora.r")
def lora_r_high(case: Case) -> str | None:
    """r beyond 64 is more than an underfitting model is given."""
    r = _r(case)
    if r is None or r <= _HIGHEST_R:
        return None
    return (
        f"{r:,}{_weights(case)} is more than an underfitting model is given, 32 or {_HIGHEST_R}: start with {LORA_R}"
        f"{_saving(case)}"
    )


@guideline(_RANK, Severity.NOTE, "spec.lora.r")
def lora_r_low(case: Case) -> str | None:
    """r below 16 is less than where to start."""
    r = _r(case)
    if r is None or r >= LORA_R:
        return None
    return f"{r} is less than {LORA_R}, where to start: raise it if the model underfits"


def _weights(case: Case) -> str:
    if case.model is None:
        return ""
    return f" ({billions(trainable_parameters(case.recipe, case.model.architecture))} weights to train{case.judging})"


def _saving(case: Case) -> str:
    need, less = case.need, case.need_of(case.with_lora(r=LORA_R))
    if need is None or less is None or gib(need) == gib(less):
        return ""
    return f", which takes {gib(less)} per GPU instead of {gib(need)}"


@guideline(_RANK, Severity.NOTE, "spec.lora.alpha")
def lora_alpha_not_twice_r(case: Case) -> str | None:
    """alpha is twice r: the adapters' contribution is scaled by alpha / r, and 2 is usual. With useRslora, which
    divides by the root of r instead, nothing is said."""
    r, alpha = _r(case), case.recipe.lora.alpha
    if r is None or alpha is None or alpha == ALPHA_PER_RANK * r or case.recipe.lora.use_rslora:
        return None
    usual = ALPHA_PER_RANK * r
    return f"{alpha} with r: {r} scales adapters by {alpha / r:.3g}; 2 is usual: set {usual}, or leave it out"


@guideline("Target modules", Severity.WARNING, "spec.lora.targetModules")
def target_modules_match_nothing(case: Case) -> str | None:
    """Each name must be that of a linear layer of the model. Attention alone is a common choice; all linear layers give
    the adapters most room."""
    if case.recipe.method != "lora":
        return None
    names = case.recipe.lora.target_modules or []
    if case.model is None or case.model.is_guess:
        idle = [name for name in names if name not in LAYER_GROUPS and not could_be_layer(name)]
        return matching_none(idle, "any known model", COMMON_LAYERS)
    idle = [name for name in names if not _is_found(name, case)]
    return matching_none(idle, "this model", (linear.name for linear in case.model.architecture.linears))


def _is_found(name: str, case: Case) -> bool:
    assert case.model is not None
    lora = case.recipe.lora.model_copy(update={"target_modules": [name]})
    return bool(targets(replace(case.recipe, lora=lora), case.model.architecture))


@guideline(_QUANTIZATION, Severity.NOTE, "spec.lora")
def quantization_needless(case: Case) -> str | None:
    """4 and 8 bits are for models that do not fit otherwise: on one that does, they only cost precision and time."""
    if case.recipe.method != "lora" or not case.recipe.lora.is_quantized:
        return None
    need = case.least_need_of(case.with_lora(load_in_4bit=False, load_in_8bit=False))
    if need is None or case.recipe.gpu_memory is None or not case.fits(need):
        return None
    name = "loadIn4Bit" if case.recipe.lora.load_in_4bit else "loadIn8Bit"
    return (
        f"in 16 bits the model needs about {gib(need)} of {gib(case.recipe.gpu_memory)} per GPU{case.judging}: it fits "
        f"without {name}, and is more precise"
    )


@guideline(_QUANTIZATION, Severity.NOTE, "spec.lora.loadIn4Bit")
def quantization_8_bits_suffice(case: Case) -> str | None:
    """8 bits are less aggressive than 4: where they fit, they are closer to the original."""
    if case.recipe.method != "lora" or not case.recipe.lora.load_in_4bit or case.recipe.gpu_memory is None:
        return None
    whole = case.least_need_of(case.with_lora(load_in_4bit=False, load_in_8bit=False))
    need = case.least_need_of(case.with_lora(load_in_4bit=False, load_in_8bit=True))
    if need is None or case.fits(whole) or not case.fits(need):
        return None
    return (
        f"loadIn8Bit fits too, with about {gib(need)} of {gib(case.recipe.gpu_memory)} per GPU{case.judging}, and is "
        "closer to the original model"
    )


@guideline(_QUANTIZATION, Severity.NOTE, "spec.lora.loadIn4Bit")
def quantization_of_large_models(case: Case) -> str | None:
    """4 bits bring large models, of 20B and up, onto consumer GPUs."""
    if case.recipe.method != "lora" or case.recipe.lora.is_quantized or case.recipe.gpu_memory is not None:
        return None
    less = case.need_of(case.with_lora(load_in_4bit=True))
    if case.parameters is None or case.parameters < _QUANTIZED_FROM or case.need is None or less is None:
        return None
    return (
        f"{billions(case.parameters)} weights{case.judging} need about {gib(case.need)} per GPU, in 4 bits about "
        f"{gib(less)}: set it for consumer GPUs"
    )


@guideline(_MULTI_GPU, Severity.WARNING, "spec.lora.enableModelSplitting")
def model_splitting_needless(case: Case) -> str | None:
    """A model that fits one GPU is copied to each: all of them train at once. Split, they wait for one another."""
    if case.recipe.split_over == 1:
        return None
    need = case.least_need_of(case.with_lora(enable_model_splitting=False))
    if need is None or case.recipe.gpu_memory is None or not case.fits(need):
        return None
    return (
        f"the model fits one GPU, with about {gib(need)} of {gib(case.recipe.gpu_memory)}{case.judging}: without "
        f"splitting, {case.recipe.split_over} copies train at once"
    )


@guideline(_MULTI_GPU, Severity.WARNING, "spec.lora.enableModelSplitting")
def model_splitting_needed(case: Case) -> str | None:
    """Without splitting each GPU holds the whole model, so more GPUs do not help one that is too large: it is split
    over them."""
    recipe = case.recipe
    if recipe.method != "lora" or recipe.split_over > 1 or recipe.nodes > 1 or recipe.gpus_per_node < 2:
        return None
    split = case.least_need_of(case.with_lora(enable_model_splitting=True))
    if case.need is None or split is None or recipe.gpu_memory is None:
        return None
    if not case.exceeds(case.need) or not case.fits(split):
        return None
    return (
        f"each of {recipe.gpus_per_node} GPUs holds the whole model, about {gib(case.need)} of "
        f"{gib(recipe.gpu_memory)}{case.judging}: set it, and {gib(split)} per GPU suffice"
    )


@guideline(_MULTI_GPU, Severity.WARNING, "spec.resources.gpusPerNode")
def model_splitting_too_far(case: Case) -> str | None:
    """No block of a model is divided, so it cannot be split over more GPUs than it has blocks."""
    # What is guessed of a model is its size, not how many blocks it has.
    if case.model is None or case.model.is_guess:
        return None
    gpus, blocks = case.recipe.split_over, case.model.architecture.layers
    if gpus <= blocks:
        return None
    return f"the {blocks} blocks of the model cannot be split over {gpus} GPUs: set {blocks} at most"


RULES = (
    lora_r_raised,
    lora_r_high,
    lora_r_low,
    lora_alpha_not_twice_r,
    target_modules_match_nothing,
    quantization_needless,
    quantization_8_bits_suffice,
    quantization_of_large_models,
    model_splitting_needless,
    model_splitting_needed,
    model_splitting_too_far,
)
