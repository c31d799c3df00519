"""The ways of fine-tuning that are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_api.methods import Lora
from finetune_api.trained_weights import ALPHA_PER_RANK, LORA_R
from finetune_trainer.adapters.adapter import adapt
from finetune_trainer.adapters.identity import Named
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.methods.osft import decompose
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.targets import find_targets


@dataclass(frozen=True)
class Method:
    """What is trained of a model."""

    label: str
    parametrize: Callable[[TrainableModel, Path], Parametrization]
    """Of a model, which becomes the method's own, and a directory for decompositions."""


def _sft(model: TrainableModel, decompositions: Path) -> Parametrization:
    return Parametrization(model)


def _lora(model: TrainableModel, decompositions: Path) -> Parametrization:
    adapted = adapt(
        model.hf.requires_grad_(False), Lora(), r=LORA_R, alpha=ALPHA_PER_RANK * LORA_R, base=Named("")
    )
    return LowRank(adapted)


def _osft(ratio: float, model: TrainableModel, decompositions: Path) -> Parametrization:
    decomposer = Decomposer(decompositions, "benchmark", lambda: None)
    return decompose(model, find_targets(model.hf, (), ratio), decomposer)


METHODS: dict[str, Method] = {
    "sft": Method("SFT", _sft),
    **{f"osft_{ratio}": Method(f"OSFT {ratio}", partial(_osft, ratio)) for ratio in (0.25, 0.5, 0.75)},
    "lora": Method(f"LoRA, rank {LORA_R}", _lora),
}


def written(rate: float) -> str:
    """A learning rate, for people."""
    return f"{rate:.0e}".replace("e-0", "e-")
