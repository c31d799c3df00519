"""Merging an adapter into its base model: an ordinary model in 16 bits, proven to answer as both together do."""

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft import set_peft_model_state_dict as set_adapter_weights
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from finetune_trainer.ends.errors import InvalidConfigurationError, TrainerError
from finetune_trainer.ends.out_of_memory import give_back
from finetune_trainer.loading import load_model
from finetune_trainer.model import load_config
from finetune_trainer.results import WholeModel, stored_dtype

_log = logging.getLogger(__name__)

# Tokens that the models are asked about: samples, and the length of each.
_SAMPLES, _LENGTH = 4, 8
# Of what rounding makes differ (see _expect_the_same), for it is as large as that only as a rule.
_TOLERANCE = 4


def merge(base: Path, adapter: Path, into: Path, tick: Callable[[], None]) -> None:
    """Write the model in `base` with the adapter of a directory merged in, into an empty directory.

    In memory there is one model in 16 bits at a time: what was written is loaded again once the other is gone, and
    must give the same logits. Raises a TrainerError where it does not, where the adapter is not one of this model, and
    where there is a weight that is no number. `tick` is called all along.
    """
    config = load_config(base)
    dtype = _merged_dtype(base, config)
    expected = _write(base, adapter, into, dtype, tick)
    # Modules refer to one another.
    give_back()
    _expect_the_same(_logits(_load(into, dtype), tick), expected, config, dtype)


def _merged_dtype(base: Path, config: PreTrainedConfig) -> torch.dtype:
    """The type of the merged weights: that of the base model as it is stored if that has 16 bits, or else bfloat16."""
    stored = stored_dtype(base, config)
    return stored if stored in (torch.bfloat16, torch.float16) else torch.bfloat16


def _write(base: Path, adapter: Path, into: Path, dtype: torch.dtype, tick: Callable[[], None]) -> Tensor:
    """Write the merged model; returns the logits of model and adapter before."""
    adapted = _put_into(_load(base, dtype), adapter)
    expected = _logits(adapted, tick)
    merged = _merged(adapted, tick)
    WholeModel(merged, base, dtype).write(dict(merged.state_dict()), into)
    return expected


def _load(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    hf = load_model(directory, f"the model in {directory}", dtype=dtype, attn_implementation="eager")
    hf.requires_grad_(False).eval()
    return hf


def _put_into(hf: PreTrainedModel, directory: Path) -> PeftModel:
    """The model with the adapter of a directory. Raises InvalidConfigurationError if it is not one of this model."""
    where = f"the adapter in {directory}"
    try:
        config = PeftConfig.from_pretrained(str(directory))
        weights = load_file(directory / SAFETENSORS_WEIGHTS_NAME)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise InvalidConfigurationError(f"{where} cannot be loaded: {error}") from error
    if not isinstance(config, LoraConfig):
        raise InvalidConfigurationError(
            f"{where} is of type {config.peft_type}: only LORA can be merged here"
        )
    # peft warns of a model that lies elsewhere than in training. What counts is whether the two fit.
    config.base_model_name_or_path = hf.name_or_path
    try:
        adapted = get_peft_model(hf, config)
    except ValueError as error:
        raise InvalidConfigurationError(f"{where} does not fit the model: {error}") from error
    assert isinstance(adapted, PeftModel)
    _expect_to_fit(weights, get_peft_model_state_dict(adapted, save_embedding_layers=False), where)
    set_adapter_weights(adapted, weights)
    return adapted.eval()


def _expect_to_fit(weights: dict[str, Tensor], places: dict[str, Tensor], where: str) -> None:
    """Make sure that each weight of an adapter has its place. What has none peft would leave out in silence."""
    for name in sorted(weights.keys() | places.keys()):
        found, wanted = (
            f"{list(tensors[name].shape)}" if name in tensors else "missing" for tensors in (weights, places)
        )
        if found != wanted:
            raise InvalidConfigurationError(
                f"{where} does not fit the model: {name} is {found} in the adapter, and {wanted} in the model"
            )


@torch.no_grad()
def _logits(model: PreTrainedModel | PeftModel, tick: Callable[[], None]) -> Tensor:
    """Logits at some tokens, the same of each model: [tokens, vocabulary].

    Without what all logits of a token have in common, which makes no difference to what they say.
    """
    vocabulary: int = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    found = []
    for ids in torch.randint(vocabulary, (_SAMPLES, 1, _LENGTH), generator=draw):
        # Alone, for a sign of life after each: a large model takes a while on few cores.
        found.append(model(input_ids=ids, use_cache=False).logits[0].float())
        tick()
    logits = torch.cat(found)
    return logits - logits.mean(dim=-1, keepdim=True)


def _merged(adapted: PeftModel, tick: Callable[[], None]) -> PreTrainedModel:
    """The model with the adapter's product in its own weights, and nothing else left of it."""
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer):
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                name = name.removeprefix("base_model.model.")
                raise InvalidConfigurationError(
                    f"{name} has weights that are no numbers once the adapter is merged into it"
                ) from error
            tick()
    with warnings.catch_warnings():
        # peft says of each layer that it is merged already.
        warnings.simplefilter("ignore")
        merged = adapted.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged


def _expect_the_same(found: Tensor, expected: Tensor, model: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Make sure that logits differ by no more than rounding to so many bits can make them.

    Each rounding is off by up to half an epsilon. There are some ten in a block, and they add up as steps in random
    directions do: over n blocks to about sqrt(n) epsilons.
    """
    difference = ((found - expected).norm() / expected.norm()).item()
    rounding = math.sqrt(model.get_text_config().num_hidden_layers) * torch.finfo(dtype).eps
    _log.info("the logits of the merged model differ by %.2g from those of model and adapter", difference)
    # What is not a number is no answer either.
    if not difference <= _TOLERANCE * rounding:
        raise TrainerError(
            f"the merged model does not answer as model and adapter do: its logits differ by {difference:.2g} of their "
            f"size, and rounding explains {rounding:.2g}. It is not kept"
        )
