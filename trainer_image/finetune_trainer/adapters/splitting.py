"""A frozen model over several GPUs of one process: where its parts lie.

The GPUs take turns, first in the forward pass and then, the other way round, in the backward pass. So a model is
trained that no single one of them could hold; it is not trained faster. Each part fetches what it takes, by
accelerate's hooks.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

from finetune_api.splitting import blocks_per_gpu
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.model import blocks, skeleton


def placement(config: PreTrainedConfig, devices: Sequence[torch.device]) -> dict[str, torch.device]:
    """The device of each part of a model, by the beginning of names; no block is divided.

    Raises InvalidConfigurationError where there are more devices than blocks.
    """
    if len(devices) == 1:
        return {"": devices[0]}
    hf = skeleton(config)
    stack = list(blocks(hf))
    if len(stack) < len(devices):
        raise InvalidConfigurationError(
            f"spec.resources.gpusPerNode: the {len(stack)} blocks of {type(hf).__name__} cannot be split over "
            f"{len(devices)} GPUs: lower it, or leave spec.lora.enableModelSplitting out"
        )
    head = hf.get_output_embeddings()
    tied = hf.get_input_embeddings().weight is head.weight
    shares = blocks_per_gpu(len(stack), len(devices), tied_embeddings=tied)
    in_order = (device for device, share in zip(devices, shares, strict=True) for _ in range(share))
    found = dict(zip(stack, in_order, strict=True))
    for name in _outside(hf, stack):
        module = hf.get_submodule(name)
        with_embedding = isinstance(module, nn.Embedding) or (tied and module is head)
        # What has no weights makes positions of what the data say of them, for all blocks.
        without_weights = next(module.parameters(), None) is None
        found[name] = devices[0 if with_embedding or without_weights else -1]
    return found


def _outside(module: nn.Module, stack: Collection[str], prefix: str = "") -> Iterator[str]:
    """The names of the largest modules that neither are blocks nor have any."""
    for short, child in module.named_children():
        name = f"{prefix}{short}"
        if any(block.startswith(f"{name}.") for block in stack):
            yield from _outside(child, stack, f"{name}.")
        elif name not in stack:
            yield name
