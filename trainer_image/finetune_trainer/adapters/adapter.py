"""An adapter beside a model, made by peft: which layers have one, and the files that it becomes."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.guide.layers import last_part
from finetune_api.methods import Lora
from finetune_api.trained_weights import lora_patterns
from finetune_trainer.adapters.identity import Named
from finetune_trainer.adapters.narrow import narrow
from finetune_trainer.chosen_layers import chosen_layers
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.model import linear_layers
from finetune_trainer.results import copy_tokenizer


def adapted_layers(hf: PreTrainedModel, lora: Lora) -> list[str]:
    """The names of the layers that get adapters.

    Raises InvalidConfigurationError, with the layers that there are, where one of lora.targetModules matches none.
    """
    layers = list(linear_layers(hf))
    if not layers:
        raise InvalidConfigurationError(
            f"spec.method: {type(hf).__name__} has no linear layers in its blocks for lora to stand beside"
        )
    return chosen_layers(layers, lora_patterns(lora), "spec.lora.targetModules")


def adapt(hf: PreTrainedModel, lora: Lora, *, r: int, alpha: int, base: Named) -> PeftModel:
    """Put adapters, with random weights in A and zeros in B, into a frozen model. They alone are trainable.

    They are fp32, whatever the width of the model.
    """
    layers = adapted_layers(hf, lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        revision=base.revision,
        r=r,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=_short_names(hf, layers),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        # GPT-2 and its kin have their layers transposed.
        fan_in_fan_out=isinstance(hf.get_submodule(layers[0]), Conv1D),
    )
    adapted = get_peft_model(hf, config)
    assert isinstance(adapted, PeftModel)
    # Not earlier: peft writes down where the model was loaded from.
    config.base_model_name_or_path = base.name
    if not lora.use_dora:
        # What DoRA computes of whole matrices, it computes in fp32.
        narrow(adapted)
    return adapted


def _short_names(hf: PreTrainedModel, layers: Sequence[str]) -> list[str]:
    """`q_proj` and the like, as people and other programs expect them, if they mean these layers and no others."""
    short = {last_part(name) for name in layers}
    meant = {name for name, _ in hf.named_modules() if last_part(name) in short}
    return sorted(short if meant == set(layers) else layers)


class Adapter:
    """A directory that peft loads: adapter_config.json, safetensors, and the base model's tokenizer."""

    format: Literal["model", "adapter"] = "adapter"

    def __init__(self, adapted: PeftModel, base: Path) -> None:
        """`adapted` was made of the model in `base`."""
        self._adapted = adapted
        self._base = base

    def weights(self, *, keep: bool, tick: Callable[[], None]) -> dict[str, Tensor]:
        """All weights of the adapter, under the names that peft stores them by."""
        if not keep:
            return {}
        named: dict[str, Tensor] = get_peft_model_state_dict(self._adapted, save_embedding_layers=False)
        copies = {name: value.detach().to("cpu", copy=True) for name, value in named.items()}
        tick()
        return copies

    def write(self, weights: dict[str, Tensor], into: Path) -> None:
        """Write the adapter's files."""
        config = copy.copy(self._adapted.peft_config["default"])
        assert isinstance(config, LoraConfig)
        # Whoever loads it wants it as it is, unless he says that he goes on training.
        config.inference_mode = True
        # peft has made it a set, which is in another order each time.
        config.target_modules = sorted(config.target_modules or ())
        config.save_pretrained(str(into))
        save_file(weights, into / "adapter_model.safetensors", metadata={"format": "pt"})
        copy_tokenizer(self._base, into)
