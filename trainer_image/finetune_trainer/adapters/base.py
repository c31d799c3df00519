"""The frozen model: loaded as narrow as it is wanted, and proven to be one that can be trained as we train."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.loading import load_model
from finetune_trainer.model import prove


def load(
    directory: Path,
    devices: Mapping[str, torch.device],
    quantization: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    """The model in a directory, frozen, in bf16 on GPUs and fp32 elsewhere, with linear layers narrower if so wanted.

    `devices` tells where modules go, by the beginning of their names; "" is that of all. Raises
    InvalidConfigurationError where it cannot be loaded.
    """
    on_gpu = any(device.type == "cuda" for device in devices.values())
    hf = load_model(
        directory,
        "spec.model",
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        device_map=dict(devices),
        quantization_config=quantization,
        attn_implementation=PER_SAMPLE,
    )
    hf.requires_grad_(False)
    return hf


def prove_first_blocks(directory: Path, config: PreTrainedConfig) -> None:
    """Make sure that models of this kind can be trained as we train; see model.prove.

    In bf16, or narrower, rounding would hide what makes a difference. So the first blocks are loaded in fp32, as many
    as there are kinds of them: the others do the same. Raises InvalidConfigurationError.
    """
    first = copy.deepcopy(config)
    text = first.get_text_config()
    kinds = getattr(text, "layer_types", None)
    count = 1
    if kinds:
        count += max(kinds.index(kind) for kind in set(kinds))
        text.layer_types = kinds[:count]
    text.num_hidden_layers = min(count, text.num_hidden_layers)
    # It would be said of each weight of the other blocks that nobody expected it.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        hf = load_model(
            directory, "spec.model", config=first, dtype=torch.float32, attn_implementation=PER_SAMPLE
        )
    finally:
        logging.set_verbosity(verbosity)
    prove(hf)
