"""The methods of training. Each is a module with the functions of `Method`."""

from importlib import import_module
from typing import Protocol, cast

from transformers import PreTrainedConfig

from finetune_api.runconfig import RunConfig
from finetune_trainer.distributed import Gang
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


def method_of(config: RunConfig) -> Method:
    """The method of a run. Imported only now: what one of them takes (peft: seconds), the others need not wait for."""
    return cast(Method, import_module(f"{__name__}.{config.method}"))
