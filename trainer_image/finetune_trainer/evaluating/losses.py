"""The loss on a data set, and how often the model is right, over all its tokens."""

from contextlib import closing

import torch

from finetune_trainer.batches import Schedule
from finetune_trainer.evaluating.passes import Passes
from finetune_trainer.feed import Feed
from finetune_trainer.loss import loss_and_hits
from finetune_trainer.prepare.arrow import Samples

# What is packed at a time, for each process: enough to fill micro-batches well, few enough to be packed at once.
_SAMPLES_AT_A_TIME = 2048


def measure(passes: Passes, samples: Samples) -> tuple[float, int]:
    """The summed loss of a data set's tokens, and how many of them the model finds most probable.

    The same on all processes. Samples are packed as in training, by the same code.
    """
    gang = passes.gang
    totals = torch.zeros(2, dtype=torch.float64, device=gang.device)
    # Parts of equal size, of samples of all kinds: each is as good to pack as the others.
    parts = -(-len(samples) // (_SAMPLES_AT_A_TIME * gang.world_size))
    schedule = Schedule(len(samples), max(1, -(-len(samples) // max(1, parts))), seed=0)
    feed = Feed(
        samples,
        schedule,
        budget=max(passes.budget, int(samples.lengths.max(initial=0))),
        rank=gang.rank,
        world_size=gang.world_size,
        device=gang.device,
        first=0,
        last=schedule.steps_per_epoch,
    )
    with closing(feed):
        for part in feed:
            for inputs in part.micro_batches:
                totals += passes.make(inputs, loss_and_hits).to(totals)
    loss, hits = gang.gather(totals).view(gang.world_size, 2).sum(0).tolist()
    return loss, int(hits)
