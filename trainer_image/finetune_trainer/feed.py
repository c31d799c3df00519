"""The data of a run, planned and assembled by a thread of its own while the model computes.

What is ahead is a bounded number of micro-batches, not of steps: a step may have thousands of them, and each has at
most the token budget. The thread leaves them in main memory, pinned where there is a GPU; whoever takes one copies it
to the GPU, in the order of all the GPU's work and without waiting for it. So the GPU holds the data of those
micro-batches only that it has been asked to compute.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from finetune_trainer.batches import Batch, Indices, Schedule
from finetune_trainer.inputs import Inputs, assemble, moved, pinned
from finetune_trainer.packing import Lengths, pack
from finetune_trainer.prepare.arrow import Samples

# Steps are planned between micro-batches: a few of them cover for it.
_MICRO_BATCHES_AHEAD = 8


@dataclass(frozen=True, eq=False)
class Step:
    """One optimizer step, as one process takes part in it."""

    index: int
    """Counts from 0 over all epochs."""
    batch: Batch
    micro_batches: "MicroBatches"
    """Those of this process, in order; to be iterated over once, before the next step is asked for."""
    members: list[Indices]
    """The samples of each of them."""
    tokens: int
    """Tokens of the step, over all processes."""
    loss_tokens: int
    """Tokens of the step that loss is taken on, over all processes."""
    padding: int
    """Tokens that this process computes for nothing: one in each micro-batch without a sample."""


@dataclass
class MicroBatches:
    """The micro-batches of one step and process: their number is known, each one is there when it is asked for."""

    _feed: "Feed"
    _number: int

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Inputs]:
        for _ in range(self._number):
            yield self._feed._next_micro_batch()


class _ClosedError(Exception):
    """Nobody wants more."""


class Feed(Iterator[Step]):
    """The steps from `first` up to, but not including, `last`. Errors of the thread are raised to whoever iterates.

    To be closed when no more is wanted.
    """

    waited: float
    """Seconds that whoever iterates has waited for data, in all."""

    def __init__(
        self,
        samples: Samples,
        schedule: Schedule,
        *,
        budget: int,
        rank: int,
        world_size: int,
        device: torch.device,
        first: int,
        last: int,
    ) -> None:
        self.waited = 0.0
        self._samples, self._schedule = samples, schedule
        self._budget, self._rank, self._world_size = budget, rank, world_size
        self._device, self._steps = device, range(first, last)
        self._ready: SimpleQueue[Step | Inputs | BaseException] = SimpleQueue()
        self._slots = threading.Semaphore(_MICRO_BATCHES_AHEAD)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def __next__(self) -> Step:
        step = self._take()
        assert isinstance(step, Step), "the micro-batches of the last step were not all taken"
        return step

    def close(self) -> None:
        """End the thread; what is ahead is given up."""
        self._closed = True
        self._slots.release()
        self._thread.join()

    def _next_micro_batch(self) -> Inputs:
        inputs = self._take()
        assert isinstance(inputs, dict), "the micro-batches of a step were taken twice"
        self._slots.release()
        return moved(inputs, self._device)

    def _take(self) -> Step | Inputs:
        began = time.perf_counter()
        item = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(item, BaseException):
            # Whoever asks again gets the same answer.
            self._ready.put(item)
            raise item
        return item

    def _work(self) -> None:
        if self._device.type == "cuda":
            # Pinning belongs to a GPU, and a new thread begins with the first one.
            torch.cuda.set_device(self._device)
        try:
            with suppress(_ClosedError):
                for index in self._steps:
                    self._provide(index)
            self._ready.put(StopIteration())
        except BaseException as error:  # noqa: BLE001 - raised to whoever iterates
            self._ready.put(error)

    def _provide(self, index: int) -> None:
        batch = self._schedule.batch(index)
        lengths: Lengths = self._samples.lengths
        shares = pack(batch.samples, lengths, budget=self._budget, world_size=self._world_size)
        mine = shares[self._rank]
        step = Step(
            index=index,
            batch=batch,
            micro_batches=MicroBatches(self, len(mine)),
            members=mine,
            tokens=int(lengths[batch.samples].sum()),
            loss_tokens=int(self._samples.loss_tokens[batch.samples].sum()),
            padding=sum(not len(members) for members in mine),
        )
        self._ready.put(step)
        for members in mine:
            self._slots.acquire()
            if self._closed:
                raise _ClosedError
            inputs = assemble(self._samples, members)
            self._ready.put(pinned(inputs) if self._device.type == "cuda" else inputs)
