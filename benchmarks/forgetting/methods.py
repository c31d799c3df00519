"""The ways of fine-tuning that are compared: those of the trainer, and LoRA by peft."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model

from finetune_api.trained_weights import LORA_R
from finetune_trainer.methods.osft import decompose
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.targets import find_targets, linear_layers


@dataclass(frozen=True)
class Method:
    """What is trained of a model."""

    label: str
    parametrize: Callable[[TrainableModel, Path], Parametrization]
    """Of a model, which becomes the method's own, and a directory for decompositions."""


class Lora(Parametrization):
    """Adapters beside all linear layers of the blocks are trained, and nothing else."""

    def __init__(self, model: TrainableModel) -> None:
        layers = list(linear_layers(model.hf))
        # The guide's rank, and twice of it as alpha.
        inject_adapter_in_model(
            LoraConfig(r=LORA_R, lora_alpha=2 * LORA_R, lora_dropout=0.0, target_modules=layers), model.hf
        )
        super().__init__(model)
        self.shared = {name: weight for name, weight in self.shared.items() if weight.requires_grad}


def _sft(model: TrainableModel, decompositions: Path) -> Parametrization:
    return Parametrization(model)


def _lora(model: TrainableModel, decompositions: Path) -> Parametrization:
    return Lora(model)


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
