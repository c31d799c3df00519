"""Supervised fine-tuning: every weight of the base model is trained."""

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from finetune_api.runconfig import RunConfig
from finetune_trainer.distributed import Gang
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel, distribute, load, skeleton
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter


def trainable_parameters(config: RunConfig, model_config: PreTrainedConfig) -> int:
    """Number of weights that training changes."""
    return sum(weight.numel() for weight in skeleton(model_config).parameters())


def parametrize(
    config: RunConfig, model_config: PreTrainedConfig, gang: Gang, plan: ExactPlan, reporter: Reporter
) -> Parametrization:
    """The model to train. Every process calls it."""
    base = Path(config.locations.model)
    return Parametrization(
        build(base, model_config, gang, activation_checkpointing=plan.activation_checkpointing)
    )


def build(
    base: Path, config: PreTrainedConfig, gang: Gang, *, activation_checkpointing: bool
) -> TrainableModel:
    """The base model, divided among the gang. Rank 0 alone reads it; the others get their share from there."""
    loaded: list[PreTrainedModel] = []

    def read() -> None:
        loaded.append(load(base))

    # The others wait at the store: a large model on a slow volume takes longer than a collective waits.
    gang.on_first(read)
    whole = loaded.pop() if loaded else None
    return distribute(whole, config, gang, activation_checkpointing=activation_checkpointing)
