"""A micro-batch as the model takes it: samples one behind the other in a single row, without padding."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.prepare.encode import MASKED

Ids = npt.NDArray[np.int64]


class Inputs(TypedDict):
    """What TrainableModel takes."""

    input_ids: Tensor
    """[1, tokens]"""
    position_ids: Tensor
    """[1, tokens]; restarts with each sample."""
    sample_lengths: list[int]
    """Tokens of each sample."""
    predicting: Tensor
    """Where the hidden states lie that predict a token with loss."""
    targets: Tensor
    """Those tokens."""


def assemble(samples: Samples, members: Sequence[int], device: torch.device) -> Inputs:
    """The inputs of a micro-batch; one token without loss where it has no sample."""
    found = [samples[member] for member in members]
    lengths = [len(input_ids) for input_ids, _ in found] or [1]
    ids, positions = np.zeros(sum(lengths), np.int64), np.zeros(sum(lengths), np.int64)
    predicting: list[Ids] = []
    targets: list[Ids] = []
    start = 0
    for input_ids, labels in found:
        end = start + len(input_ids)
        ids[start:end] = input_ids
        positions[start:end] = np.arange(end - start)
        # The last hidden state before a token predicts it.
        [at] = np.nonzero(labels[1:] != MASKED)
        predicting.append(start + at)
        targets.append(labels[1:][at].astype(np.int64))
        start = end

    def tensor(values: Ids) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    nothing = np.zeros(0, np.int64)
    return {
        "input_ids": tensor(ids)[None],
        "position_ids": tensor(positions)[None],
        "sample_lengths": lengths,
        "predicting": tensor(np.concatenate([nothing, *predicting])),
        "targets": tensor(np.concatenate([nothing, *targets])),
    }
