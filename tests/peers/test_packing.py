"""Micro-batches beside those of instructlab.training and mini_trainer, on random lengths."""

from collections.abc import Callable

import numpy as np
import pytest

from finetune_trainer.batches import Schedule
from finetune_trainer.packing import Lengths, pack

instructlab = pytest.importorskip(
    "instructlab.training.batch_packer", reason="the group `peers` is not installed"
)
padded = pytest.importorskip(
    "instructlab.training.padded_batch_packer", reason="the group `peers` is not installed"
)
mini_trainer = pytest.importorskip("mini_trainer.batch_packer", reason="the group `peers` is not installed")
pytestmark = pytest.mark.peers

BUDGET = 4096
CASES = 200
WORLD_SIZES = (1, 2, 4, 8)
# The micro-batches of one process, for lengths, budget, world size and rank.
Packer = Callable[[list[int], int, int, int], list[list[int]]]


def cases() -> list[Lengths]:
    """The lengths of a step's samples: chat, uniform, and short ones with a few that are long."""
    draw = np.random.default_rng(0)
    found = []
    for case in range(CASES):
        size = int(draw.integers(1, 129))
        lengths = [
            draw.lognormal(6, 0.9, size),
            draw.uniform(1, BUDGET, size),
            np.where(draw.random(size) < 0.1, draw.uniform(2000, BUDGET, size), draw.uniform(10, 300, size)),
        ][case % 3]
        found.append(np.clip(lengths, 1, BUDGET).astype(np.int32))
    return found


def ours(lengths: Lengths, world_size: int) -> list[list[list[int]]]:
    """The micro-batches of every process, and proof that they are a step's samples within the budget."""
    shares = pack(np.arange(len(lengths)), lengths, budget=BUDGET, world_size=world_size)
    members = np.concatenate([part for share in shares for part in share])
    assert sorted(members.tolist()) == list(range(len(lengths)))
    assert all(int(lengths[part].sum()) <= BUDGET for share in shares for part in share)
    assert len(shares) == world_size
    assert len({len(share) for share in shares}) == 1
    return [[part.tolist() for part in share] for share in shares]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize(
    "theirs",
    [instructlab.batch_lengths_to_minibatches_lpt, mini_trainer.batch_lengths_to_minibatches_lpt],
    ids=["instructlab", "mini_trainer"],
)
def test_never_more_micro_batches(theirs: Packer, world_size: int) -> None:
    """And fewer in all. Theirs deal samples out to ever more micro-batches, each to the least filled, until the budget
    holds; ours fill micro-batches up first, and even out only what that leaves."""
    fewer = 0
    for lengths in cases():
        mine = len(ours(lengths, world_size)[0])
        other = len(theirs(lengths.tolist(), BUDGET, world_size, 0))
        assert mine <= other
        fewer += other - mine
    assert fewer > 0


def test_all_processes_have_as_many() -> None:
    """Their packer for padded batches gives some processes more than others, which wait for a collective in vain."""
    uneven = 0
    for lengths in cases():
        ours(lengths, 4)
        counts = {
            len(padded.batch_lengths_to_minibatches_padded(lengths.tolist(), BUDGET, 4, rank))
            for rank in range(4)
        }
        uneven += len(counts) > 1
    assert uneven > 0


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_step_is_the_whole_batch(world_size: int) -> None:
    """On every number of processes the same samples: as many as `effectiveBatchSize` says, and at an epoch's end what
    is left."""
    draw = np.random.default_rng(1)
    lengths = np.clip(draw.lognormal(6, 0.9, 1000), 1, BUDGET).astype(np.int32)
    schedule = Schedule(len(lengths), 48, seed=3)
    seen = []
    for step in range(schedule.steps_per_epoch):
        batch = schedule.batch(step).samples
        shares = pack(batch, lengths, budget=BUDGET, world_size=world_size)
        members = np.concatenate([part for share in shares for part in share])
        assert sorted(members.tolist()) == sorted(batch.tolist())
        seen.append(len(members))
    assert seen == [48] * 20 + [40]
