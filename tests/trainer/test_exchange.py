"""Matrices go from everybody's shards to their owners and back, whatever their shapes and however they are dealt."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor

from finetune_trainer.distributed import Gang
from finetune_trainer.subspaces.exchange import Exchange
from trainer.states import together

# Fewer rows than processes, rows that cannot be divided, a single number; more matrices than processes, and fewer.
SHAPES = [(1, 7), (7, 2), (2, 3), (5, 5), (1, 1), (12, 4)]
DEALS = {
    1: [[5, 3, 0, 1, 2, 4]],
    2: [[5, 1], [3, 0, 2, 4]],
    3: [[5, 3, 1, 0, 2, 4], [], []],
    4: [[0], [1, 4], [], [5, 2, 3]],
}


def matrix(number: int) -> Tensor:
    rows, columns = SHAPES[number]
    return torch.arange(rows * columns, dtype=torch.float32).view(rows, columns) + 100 * number


def there_and_back(gang: Gang) -> tuple[list[int], bool, bool]:
    """What this process owns, whether it got that right, and whether everybody's came back right."""
    mesh = gang.mesh()
    spread = [distribute_tensor(matrix(number), mesh, [Shard(0)]) for number in range(len(SHAPES))]
    owners = DEALS[gang.world_size]
    exchange = Exchange(SHAPES, owners, gang.rank)
    got = dict(exchange.collect(lambda number: spread[number].to_local(), nullcontext))
    right = all(torch.equal(whole, matrix(number)) for number, whole in got.items())
    exchange.spread(lambda number: -got[number], lambda number: spread[number].to_local(), nullcontext)
    back = [torch.equal(each.full_tensor(), -matrix(number)) for number, each in enumerate(spread)]
    gang.leave()
    return list(got), right, all(back)


@pytest.mark.parametrize("world_size", DEALS)
def test_there_and_back(world_size: int) -> None:
    assert together(world_size, there_and_back) == [(owned, True, True) for owned in DEALS[world_size]]
