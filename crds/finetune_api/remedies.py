"""Pure: what to change in a job that does not fit its GPUs, as values that do fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from finetune_api.architecture import Architecture
from finetune_api.memory import estimated, leanest
from finetune_api.methods import Lora
from finetune_api.recipe import Recipe
from finetune_api.units import GIB, gib

# Lengths to offer instead of a longer maxSeqLen, and ratios instead of a larger one.
_LENGTHS = (16384, 8192, 4096, 2048, 1024, 512)
_RATIOS = (0.3, 0.2, 0.1)
# Hardware to offer: GPUs of a node, nodes, and memory of a GPU in GiB as they are sold.
_GPUS = (1, 2, 4, 8)
_MAX_NODES = 16
_GPU_SIZES = (24, 40, 48, 80, 141, 192)
# From this size on they are sold as whole nodes of eight.
_SIZE_IN_NODES = 80


@dataclass(frozen=True)
class Remedy:
    """A change after which the job fits."""

    recipe: Recipe
    """The job with the change."""
    longest: int
    """Tokens of the longest sample with the change."""
    change: str
    """What to write, as fields of the spec: all that differ."""
    estimate: int
    """Bytes per GPU with the change."""

    def __str__(self) -> str:
        return f"{self.change} ({gib(self.estimate)} each)"


def remedies(
    recipe: Recipe,
    architecture: Architecture,
    *,
    longest: int,
    budget_stated: bool = False,
    underestimated: float = 1.0,
) -> list[Remedy]:
    """Changes after which the job fits its GPUs, whose memory is stated; the smallest change first.

    Of each kind of change the mildest that suffices; samples have up to `longest` tokens. `budget_stated` tells whether
    the spec has a maxTokensPerGpu of its own. Where experience tells that estimates are too low, `underestimated` is by
    which factor.
    """
    found: list[Remedy] = []
    kinds = (
        _lengths(recipe, longest, budget_stated=budget_stated),
        _ratios(recipe),
        _more_gpus(recipe),
        _adapters(recipe),
        _larger(recipe),
    )
    for kind in kinds:
        for candidate in kind:
            stated = candidate.recipe.hyperparameters
            length = candidate.longest or longest
            tokens = stated.max_tokens_per_gpu or length
            need = underestimated * estimated(
                candidate.recipe, architecture, leanest(candidate.recipe), tokens=tokens, longest=length
            )
            room = candidate.recipe.usable_gpu_memory
            if room is not None and need <= room:
                found.append(Remedy(candidate.recipe, length, candidate.change, int(need)))
                break
    return found


class _Candidate(NamedTuple):
    recipe: Recipe
    change: str
    longest: int | None = None
    """Tokens of the longest sample, where the change shortens it."""


def _lengths(recipe: Recipe, longest: int, *, budget_stated: bool) -> Iterator[_Candidate]:
    """Smaller micro-batches, then shorter samples."""
    if recipe.hyperparameters.max_tokens_per_gpu != longest:
        yield _Candidate(_stating(recipe, max_tokens_per_gpu=longest), f"maxTokensPerGpu: {longest}")
    documents = recipe.hyperparameters.pretraining is not None
    for length in _LENGTHS:
        if length < longest:
            shorter = _stating(recipe, max_tokens_per_gpu=length)
            field = "pretraining.blockSize" if documents else "maxSeqLen"
            budget = f", maxTokensPerGpu: {length}" if budget_stated else ""
            yield _Candidate(shorter, f"{field}: {length}{budget}", length)


def _ratios(recipe: Recipe) -> Iterator[_Candidate]:
    """A smaller share of trained directions."""
    stated = recipe.osft.unfreeze_rank_ratio
    for ratio in _RATIOS:
        if recipe.method == "osft" and (stated is None or ratio < stated):
            osft = recipe.osft.model_copy(update={"unfreeze_rank_ratio": ratio})
            yield _Candidate(replace(recipe, osft=osft), f"osft.unfreezeRankRatio: {ratio}")


def _more_gpus(recipe: Recipe) -> Iterator[_Candidate]:
    """More GPUs share what sft and osft hold; a copy of lora's model fits one GPU or is split over a node's."""
    if recipe.method == "lora":
        yield from _split(recipe, "")
        return
    for gpus in _GPUS:
        if gpus > recipe.gpus_per_node:
            changed = replace(recipe, gpus_per_node=gpus)
            yield _Candidate(changed, f"gpusPerNode: {gpus}")
    gpus = max(recipe.gpus_per_node, _GPUS[-1])
    for nodes in range(recipe.nodes + 1, _MAX_NODES + 1):
        changed = replace(recipe, nodes=nodes, gpus_per_node=gpus)
        yield _Candidate(changed, f"nodes: {nodes}, gpusPerNode: {gpus}")


def _adapters(recipe: Recipe) -> Iterator[_Candidate]:
    """An adapter beside a frozen model, in as many bits as fit; in 4 bits and split if nothing else does."""
    stated = recipe.hyperparameters
    if stated.pretraining is not None or stated.unmask_messages:
        return
    is_lora = recipe.method == "lora"
    method = "method: lora, osft: null" if recipe.method == "osft" else "method: lora"
    recipe = replace(recipe, method="lora", lora=recipe.lora if is_lora else Lora())
    if not is_lora:
        yield _Candidate(recipe, method)
    before = "" if is_lora else f"{method}, "
    if not recipe.lora.load_in_4bit:
        yield _Candidate(_bits(recipe, 8), f"{before}lora.loadIn8Bit: true")
        # They exclude each other.
        before += "lora.loadIn8Bit: false, " if recipe.lora.load_in_8bit else ""
        yield _Candidate(_bits(recipe, 4), f"{before}lora.loadIn4Bit: true")
        yield from _split(_bits(recipe, 4), f"{before}lora.loadIn4Bit: true, ")


def _larger(recipe: Recipe) -> Iterator[_Candidate]:
    """GPUs with more memory: as many of them, or whole nodes."""
    larger = [size for size in _GPU_SIZES if recipe.gpu_memory is not None and size * GIB > recipe.gpu_memory]
    for size in larger:
        yield _Candidate(replace(recipe, gpu_memory=size * GIB), f"gpuMemory: {size}Gi")
    if recipe.method == "lora":
        return
    in_nodes = [size for size in larger if size >= _SIZE_IN_NODES]
    for size, nodes in product(in_nodes, range(1, _MAX_NODES + 1)):
        changed = replace(recipe, gpu_memory=size * GIB, nodes=nodes, gpus_per_node=_GPUS[-1])
        yield _Candidate(changed, f"gpuMemory: {size}Gi, nodes: {nodes}, gpusPerNode: {_GPUS[-1]}")


def _split(recipe: Recipe, before: str) -> Iterator[_Candidate]:
    lora = recipe.lora.model_copy(update={"enable_model_splitting": True})
    before += "nodes: 1, " if recipe.nodes > 1 else ""
    for gpus in _GPUS:
        if gpus > max(1, recipe.split_over):
            changed = replace(recipe, lora=lora, nodes=1, gpus_per_node=gpus)
            yield _Candidate(changed, f"{before}lora.enableModelSplitting: true, gpusPerNode: {gpus}")


def _bits(recipe: Recipe, bits: int) -> Recipe:
    lora = recipe.lora.model_copy(update={"load_in_4bit": bits == 4, "load_in_8bit": bits == 8})
    return replace(recipe, lora=lora)


def _stating(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, hyperparameters=recipe.hyperparameters.model_copy(update=values))
