"""Supervised fine-tuning: every weight of the base model is trained."""

from pathlib import Path

from transformers import PreTrainedConfig

from finetune_trainer.distributed import Gang
from finetune_trainer.model import TrainableModel, distribute, load, skeleton


def trainable_parameters(config: PreTrainedConfig) -> int:
    """Number of weights that training changes."""
    return sum(weight.numel() for weight in skeleton(config).parameters())


def build(
    base: Path, config: PreTrainedConfig, gang: Gang, *, activation_checkpointing: bool
) -> TrainableModel:
    """The model to train. Rank 0 alone reads the base model; the others get their share from it."""
    loaded = load(base) if gang.is_first else None
    return distribute(loaded, config, gang, activation_checkpointing=activation_checkpointing)
