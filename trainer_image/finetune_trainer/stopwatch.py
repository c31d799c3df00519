"""Where the time of a step goes, found out without making the step wait for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from finetune_api.report import StepSeconds
from finetune_trainer.distributed import Gang
from finetune_trainer.feed import Feed

# What marks that a process is busy with others, or waits for them: Stopwatch.communicating, or nullcontext.
Communicating = Callable[[], AbstractContextManager[None]]


class Stopwatch:
    """Measures the steps of one process.

    Communication is the time spent in FSDP's collectives and in what else is marked with `communicating`. On the CPU
    they block, so it is the time by the clock, and computing is what is left of the step. On a GPU it is the time
    between two events in the stream that a collective runs in, from when its input was ready until it was done. Most
    of that is hidden behind computing: how long computing had to wait for it cannot be told without stopping both.
    The one small reduction inside of gradient clipping counts as computing.
    """

    def __init__(self, model: nn.Module, gang: Gang, feed: Feed) -> None:
        self._feed = feed
        self._alone = gang.world_size == 1
        self._on_gpu = gang.device.type == "cuda"
        self._blocked = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        if not self._alone:
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_all_gather(_TimedAllGather(self))
                    module.set_custom_reduce_scatter(_TimedReduceScatter(self))
        self.start()

    def start(self) -> None:
        """A step begins: the next thing to happen is that its data are waited for."""
        self._began = time.perf_counter()
        self._waited_before = self._feed.waited
        self._blocked = 0.0
        self._events.clear()

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """What happens in here is communication: on a GPU, what is put into the current stream."""
        if self._alone:
            yield
        elif self._on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._blocked += time.perf_counter() - began

    def stop(self) -> tuple[float, StepSeconds]:
        """The step is over, and the GPU has been waited for: how long it took, and on what."""
        seconds = time.perf_counter() - self._began
        data = self._feed.waited - self._waited_before
        communication = self._blocked
        for begin, end in self._events:
            end.synchronize()
            communication += begin.elapsed_time(end) / 1000
        compute = seconds - data - (0.0 if self._on_gpu else communication)
        return seconds, StepSeconds(data=data, compute=compute, communication=communication)


class _TimedAllGather(DefaultAllGather):
    """FSDP's own, with a stopwatch."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def __call__(self, *args: Any, **options: Any) -> dist.Work | None:
        with self._stopwatch.communicating():
            return super().__call__(*args, **options)


class _TimedReduceScatter(DefaultReduceScatter):
    """FSDP's own, with a stopwatch."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def __call__(self, *args: Any, **options: Any) -> dist.Work | None:
        with self._stopwatch.communicating():
            return super().__call__(*args, **options)
