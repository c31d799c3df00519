"""A model computes as it will be used, between two steps of its training, and goes on training as if it never had."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from finetune_trainer.model import TrainableModel


@contextmanager
def judging(model: TrainableModel) -> Iterator[None]:
    """Without dropout, without gradients; everything is as it was afterwards, whatever happened."""
    switched = [module for module in model.modules() if module.training and not _is_quantized(module)]
    # Each by itself: what `eval` did to whole models could not be taken back where parts were in that mode before.
    _switch(switched, training=False)
    try:
        with torch.no_grad():
            yield
    finally:
        _switch(switched, training=True)
        if isinstance(model, FSDPModule):
            # On the CPU it keeps what it gathered, for a backward pass that never comes. And the next one that does
            # would take the passes that were made here for its own.
            model.reset_iter_state()


def _switch(modules: list[nn.Module], *, training: bool) -> None:
    for module in modules:
        module.training = training


def _is_quantized(module: nn.Module) -> bool:
    """Whether it is a layer of bitsandbytes.

    They have no dropout, and out of training they are others: on CPUs with AVX512-BF16 they pack their 4-bit weights
    in a way in which they cannot be trained beside, for good; weights in 8 bits are multiplied otherwise.
    """
    return any(kind.__module__.startswith("bitsandbytes.") for kind in type(module).__mro__)
