"""Answers, by taking the most probable token each time.

Every pass goes over whole texts, packed as samples are in training, and gives each of them one more token. A cache of
keys and values would spare most of it, but the model that is at hand is one in training: divided by FSDP, split over
GPUs, or beside adapters, with an attention over packed samples. Answers that are compared with references are short,
and there are few of them.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch

from finetune_trainer.evaluating.passes import Passes
from finetune_trainer.inputs import continuing
from finetune_trainer.loss import most_probable
from finetune_trainer.prepare.arrow import Ids


@dataclass
class _Text:
    """A prompt and what follows."""

    ids: Ids
    prompt: int
    """Tokens of the prompt."""
    done: bool

    @property
    def answer(self) -> list[int]:
        return [int(token) for token in self.ids[self.prompt :]]


def answers(
    passes: Passes, prompts: Sequence[Sequence[int]], *, longest: int, ends: Set[int], context_length: int
) -> list[list[int]]:
    """The answers to this process's prompts, each [tokens]. Every process calls it, with prompts or without.

    An answer ends with one of the tokens `ends`, which is part of it, with `longest` tokens, or where the model's
    context is full.
    """
    texts = [
        _Text(np.array(prompt, np.int32), len(prompt), len(prompt) >= context_length) for prompt in prompts
    ]
    while _anybody(passes, any(not text.done for text in texts)):
        some = list(_fitting(texts, passes.budget))
        found = passes.make(continuing([text.ids for text in some]), most_probable).tolist()
        for text, token in zip(some, found, strict=True):
            text.ids = np.append(text.ids, np.int32(token))
            full = len(text.ids) >= min(context_length, text.prompt + longest)
            text.done = full or token in ends
    return [text.answer for text in texts]


def _anybody(passes: Passes, mine: bool) -> bool:
    """Whether some process has something to do: then all make a pass."""
    return bool(passes.gang.gather(torch.tensor([mine])).any())


def _fitting(texts: Sequence[_Text], budget: int) -> Iterator[_Text]:
    """The first texts that are not done, as many as the budget allows and at least one; the others wait their turn."""
    tokens = 0
    for text in texts:
        if text.done:
            continue
        tokens += len(text.ids)
        if tokens > budget and tokens > len(text.ids):
            return
        yield text
