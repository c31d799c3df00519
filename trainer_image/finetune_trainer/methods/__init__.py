"""The methods of training. Each is a module with the functions of `Method`."""

from collections.abc import Mapping
from typing import Protocol

from transformers import PreTrainedConfig

from finetune_api.runconfig import RunConfig
from finetune_trainer.distributed import Gang
from finetune_trainer.methods import osft, sft
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter


class Method(Protocol):
    """What the training loop needs of a method."""

    def trainable_parameters(self, config: RunConfig, model_config: PreTrainedConfig) -> int:
        """Number of weights that training changes."""
        ...

    def parametrize(
        self,
        config: RunConfig,
        model_config: PreTrainedConfig,
        gang: Gang,
        plan: ExactPlan,
        reporter: Reporter,
    ) -> Parametrization:
        """The model to train, with its trained weights. Every process calls it."""
        ...


METHODS: Mapping[str, Method] = {"sft": sft, "osft": osft}
