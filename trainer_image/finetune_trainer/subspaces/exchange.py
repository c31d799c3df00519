"""Matrices on their way between the shards that all processes have of them and the one process that owns each.

FSDP2 divides a matrix by its rows, as torch.chunk would. So the rows that the processes send, one behind the other, are
the matrix, and an all-to-all carries one matrix to each owner at a time. A single process has whole matrices, and
nothing to carry.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from finetune_trainer.stopwatch import Communicating


class Exchange:
    """Carries the matrices of a model. Every process calls every method, in the same order."""

    def __init__(self, shapes: Sequence[tuple[int, int]], owners: Sequence[Sequence[int]], rank: int) -> None:
        """`shapes` are those of all matrices, [rows, columns]; `owners` tells which of them each process owns."""
        self._shapes = shapes
        self._owners = owners
        self._rank = rank
        self._world_size = len(owners)
        self._rounds = max(map(len, owners))

    def collect(
        self, shard: Callable[[int], Tensor], communicating: Communicating
    ) -> Iterator[tuple[int, Tensor]]:
        """The matrices that this process owns, with their numbers, one after the other.

        `shard` gives this process's rows of a matrix, [its rows, columns]; it is called once for each, one round of
        matrices ahead of what is collected. The iterator is to be read to its end.
        """
        if self._world_size == 1:
            yield from ((number, shard(number)) for number in self._owners[0])
            return
        arriving = self._send_shards(0, shard)
        for turn in range(self._rounds):
            work, received = arriving
            if turn + 1 < self._rounds:
                arriving = self._send_shards(turn + 1, shard)
            with communicating():
                work.wait()
            mine = self._turn(turn)[self._rank]
            if mine is not None:
                yield mine, received.view(self._shapes[mine])
            # Before the next but one needs room.
            del work, received

    def spread(
        self, matrix: Callable[[int], Tensor], shard: Callable[[int], Tensor], communicating: Communicating
    ) -> None:
        """Write all matrices into the shards; `matrix` makes one that this process owns."""
        if self._world_size == 1:
            for number in self._owners[0]:
                shard(number).copy_(matrix(number))
            return
        for turn in range(self._rounds):
            numbers = self._turn(turn)
            mine = numbers[self._rank]
            shards = [None if number is None else shard(number) for number in numbers]
            like = next(each for each in shards if each is not None)
            sent = like.new_empty(0) if mine is None else matrix(mine).flatten()
            arriving = [0 if each is None else each.numel() for each in shards]
            received = sent.new_empty(sum(arriving))
            with communicating():
                dist.all_to_all_single(received, sent, arriving, self._by_process(mine))
            for each, rows in zip(shards, received.split(arriving), strict=True):
                if each is not None:
                    each.copy_(rows.view_as(each))
            # Before the next matrix needs room.
            del sent, received

    def _send_shards(self, turn: int, shard: Callable[[int], Tensor]) -> tuple[dist.Work, Tensor]:
        """Begin to give each process this one's rows of the matrix that is its in this turn."""
        numbers = self._turn(turn)
        shards = [None if number is None else shard(number).flatten() for number in numbers]
        sent = torch.cat([each for each in shards if each is not None])
        arriving = self._by_process(numbers[self._rank])
        received = sent.new_empty(sum(arriving))
        leaving = [0 if each is None else each.numel() for each in shards]
        work = dist.all_to_all_single(received, sent, arriving, leaving, async_op=True)
        assert work is not None
        return work, received

    def _turn(self, turn: int) -> list[int | None]:
        """The matrix that each process works on in a turn; None for those that have no more."""
        return [owned[turn] if turn < len(owned) else None for owned in self._owners]

    def _by_process(self, number: int | None) -> list[int]:
        """How many numbers of a matrix each process has."""
        if number is None:
            return [0] * self._world_size
        rows, columns = self._shapes[number]
        chunk = -(-rows // self._world_size)
        return [columns * max(0, min(chunk, rows - rank * chunk)) for rank in range(self._world_size)]
