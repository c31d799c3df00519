"""A micro-batch as the model takes it: samples one behind the other in a single row, without padding."""

from collections.abc import Callable, Iterable
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.prepare.encode import MASKED


class Inputs(TypedDict):
    """What TrainableModel takes."""

    input_ids: Tensor
    """[1, tokens]"""
    position_ids: Tensor
    """[1, tokens]; restarts with each sample."""
    sample_lengths: list[int]
    """Tokens of each sample."""
    boundaries: Tensor
    """[samples + 1], int32: where each sample begins, and where the last one ends."""
    predicting: Tensor
    """Where the hidden states lie that predict a token with loss."""
    targets: Tensor
    """Those tokens."""


def assemble(samples: Samples, members: Iterable[int]) -> Inputs:
    """The inputs of a micro-batch, in main memory; one token without loss where it has no sample."""
    found = [samples[int(member)] for member in members]
    if not found:
        found = [(np.zeros(1, np.int32), np.full(1, MASKED, np.int32))]
    lengths = [len(input_ids) for input_ids, _ in found]
    boundaries = np.cumsum([0, *lengths], dtype=np.int32)
    starts = boundaries[:-1]
    ids = np.concatenate([input_ids for input_ids, _ in found], dtype=np.int64)
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    # The last hidden state before a token predicts it; nothing comes before the first token of a sample.
    labels = np.concatenate([labels for _, labels in found])
    labels[starts] = MASKED
    [labelled] = np.nonzero(labels != MASKED)
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "sample_lengths": lengths,
        "boundaries": torch.from_numpy(boundaries),
        "predicting": torch.from_numpy(labelled - 1),
        "targets": torch.from_numpy(labels[labelled].astype(np.int64)),
    }


def pinned(inputs: Inputs) -> Inputs:
    """The same in memory from which a GPU can copy while the processor goes on."""
    return _each(inputs, Tensor.pin_memory)


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """The same on a device. From pinned memory, nobody waits for the copy."""
    return _each(inputs, lambda tensor: tensor.to(device, non_blocking=True))


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    return {
        "input_ids": change(inputs["input_ids"]),
        "position_ids": change(inputs["position_ids"]),
        "sample_lengths": inputs["sample_lengths"],
        "boundaries": change(inputs["boundaries"]),
        "predicting": change(inputs["predicting"]),
        "targets": change(inputs["targets"]),
    }
