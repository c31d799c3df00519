"""Low-rank adaptation: beside each linear layer W of a frozen model, B A of rank r is trained, scaled by alpha / r.

Every process has the whole frozen model, and the same adapters. Their gradients are exchanged once per optimizer step,
all at once: they are so small that there is nothing to hide behind the backward pass (in fp32, r (N + M) numbers beside
N M: 168 MB where the model is an 8B one and r is 16). So it needs no wrapper around the model, and nothing in the
middle of a step waits for others.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from finetune_api.runconfig import RunConfig
from finetune_api.trained_weights import lora_alpha, lora_r
from finetune_trainer.adapters import base as frozen
from finetune_trainer.adapters.adapter import Adapter, adapt
from finetune_trainer.adapters.identity import Named, fingerprint, named
from finetune_trainer.adapters.quantization import check_quantization, keep_scales, quantization
from finetune_trainer.adapters.splitting import placement
from finetune_trainer.distributed import Gang
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel, skeleton
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.results import Result
from finetune_trainer.stopwatch import Communicating


class LowRank(Parametrization):
    """A frozen model whose adapters are trained."""

    def __init__(self, adapted: PeftModel, *, base: str | None = None, world_size: int = 1) -> None:
        """`base` is a digest of the frozen model; `world_size` processes have the same."""
        super().__init__(TrainableModel(cast(PreTrainedModel, adapted.get_base_model())))
        self.shared = {name: weight for name, weight in self.shared.items() if weight.requires_grad}
        self.base = base
        self._adapted = adapted
        self._world_size = world_size

    def result(self, base: Path) -> Result:
        """The adapters alone: the base model is never written again."""
        return Adapter(self._adapted, base)

    def pull_back(self, communicating: Communicating = nullcontext) -> None:
        """Give the adapters of all processes the mean of their gradients."""
        if self._world_size == 1:
            return
        weights = list(self.shared.values())
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        with communicating():
            dist.all_reduce(together)
        together /= self._world_size
        for weight, mean in zip(weights, together.split([each.numel() for each in weights]), strict=True):
            weight.grad = mean.view_as(weight)


def trainable_parameters(config: RunConfig, model_config: PreTrainedConfig) -> int:
    """Number of weights that training changes."""
    recipe = config.recipe
    adapted = adapt(
        skeleton(model_config),
        recipe.lora,
        r=lora_r(recipe),
        alpha=lora_alpha(recipe),
        base=Named(config.locations.model),
    )
    return sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)


def parametrize(
    config: RunConfig, model_config: PreTrainedConfig, gang: Gang, plan: ExactPlan, reporter: Reporter
) -> LowRank:
    """The frozen model, with adapters to train. Every process calls it, and loads the model for itself.

    Raises InvalidConfigurationError where the model cannot be trained so, one of lora.targetModules matches no layer,
    a device cannot compute with weights as narrow as they are wanted, or there are more of them than blocks to split.
    """
    recipe, directory = config.recipe, Path(config.locations.model)
    lora = recipe.lora
    check_quantization(lora, gang.devices, gang)
    devices = placement(model_config, gang.devices)
    gang.on_first(lambda: frozen.prove_first_blocks(directory, model_config))
    hf = frozen.load(directory, devices, quantization(lora, gang.device, model_config)).train()
    if lora.use_dora and lora.load_in_8bit:
        keep_scales(hf)
    if plan.activation_checkpointing:
        # bitsandbytes' 8-bit layers hold on to their inputs past all that torch lets go of. A reentrant first pass has
        # nothing to hold them for; but it has a backward pass only where an input has one, frozen or not.
        hf.activation_checkpointing_enable({"use_reentrant": lora.load_in_8bit})
        if lora.load_in_8bit:
            hf.enable_input_require_grads()
    # All processes draw the same adapters. What the guide chose when the run began counts, whatever it chooses now.
    torch.manual_seed(config.hyperparameters.seed)
    adapted = adapt(
        hf,
        lora,
        r=_settled(plan, "spec.lora.r", lora_r(recipe)),
        alpha=_settled(plan, "spec.lora.alpha", lora_alpha(recipe)),
        base=named(directory),
    )
    return LowRank(adapted, base=gang.on_first(lambda: fingerprint(directory)), world_size=gang.world_size)


def _settled(plan: ExactPlan, field: str, otherwise: int) -> int:
    chosen = plan.choice(field)
    return int(chosen.value) if chosen else otherwise
