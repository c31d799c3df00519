"""A micro-batch as the model takes it: samples one behind the other in a single row, without padding."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune_trainer.prepare.arrow import Ids, Samples
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
    """Where the hidden states lie that predict a token with loss, or one that is to be generated."""
    targets: Tensor
    """Those tokens, as far as they are known."""


def assemble(samples: Samples, members: Iterable[int]) -> Inputs:
    """The inputs of a micro-batch, in main memory; one token without loss where it has no sample."""
    found = [samples[int(member)] for member in members]
    if not found:
        found = [(np.zeros(1, np.int32), np.full(1, MASKED, np.int32))]
    texts = [input_ids for input_ids, _ in found]
    # The last hidden state before a token predicts it; nothing comes before the first token of a sample.
    labels = np.concatenate([labels for _, labels in found])
    labels[_boundaries(texts)[:-1]] = MASKED
    [labelled] = np.nonzero(labels != MASKED)
    return _in_a_row(texts, labelled - 1, labels[labelled])


def continuing(texts: Sequence[Ids]) -> Inputs:
    """What predicts the token that follows each text, in main memory; one token alone where there is no text."""
    last = _boundaries(texts)[1:] - 1
    return _in_a_row(texts or [np.zeros(1, np.int32)], last.astype(np.int64), np.empty(0, np.int32))


def _in_a_row(texts: Sequence[Ids], predicting: npt.NDArray[np.int64], targets: Ids) -> Inputs:
    lengths, boundaries = [len(text) for text in texts], _boundaries(texts)
    ids = np.concatenate(texts, dtype=np.int64)
    positions = np.arange(len(ids)) - np.repeat(boundaries[:-1], lengths)
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "sample_lengths": lengths,
        "boundaries": torch.from_numpy(boundaries),
        "predicting": torch.from_numpy(predicting),
        "targets": torch.from_numpy(targets.astype(np.int64)),
    }


def _boundaries(texts: Sequence[Ids]) -> Ids:
    return np.cumsum([0, *map(len, texts)], dtype=np.int32)


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
