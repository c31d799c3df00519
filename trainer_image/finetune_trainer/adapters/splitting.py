"""A frozen model over several GPUs of one process: where its parts lie, and how one GPU hands over to the next.

They take turns, first in the forward pass and then, the other way round, in the backward pass. So a model is trained
that no single one of them could hold; it is not trained faster. Each part fetches what it takes, by accelerate's hooks.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

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


def hand_over(hf: PreTrainedModel) -> None:
    """Have the last block on each device send its output to where the next block is.

    That one would fetch it. But before that activation checkpointing looks at it: it keeps what a block is given where
    it finds it, and remembers the random numbers, of which dropout is made, of that device alone.
    """
    for block, following in pairwise(blocks(hf).values()):
        here, there = (next(each.parameters()).device for each in (block, following))
        if here != there:
            block.register_forward_hook(_sending_to(there))


def _sending_to(device: torch.device) -> Any:
    def send(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return send_to_device(output, device)

    return send
