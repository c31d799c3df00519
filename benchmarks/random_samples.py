"""Samples that stand for any, packed as the trainer packs them."""

import torch

from finetune_trainer.inputs import Inputs


def random_samples(draw: torch.Generator, samples: int, length: int, vocabulary: int) -> Inputs:
    """A micro-batch of so many random samples of one length, with loss on every token that has one before it."""
    ids = torch.randint(vocabulary, (samples, length), generator=draw)
    places = torch.arange(samples * length).view(samples, length)
    return {
        "input_ids": ids.view(1, -1),
        "position_ids": torch.arange(length).repeat(samples)[None],
        "sample_lengths": [length] * samples,
        "boundaries": torch.arange(0, samples * length + 1, length, dtype=torch.int32),
        # The last token of a sample predicts nothing.
        "predicting": places[:, :-1].flatten(),
        "targets": ids[:, 1:].flatten(),
    }
