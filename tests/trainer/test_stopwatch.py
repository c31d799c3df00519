"""Where a step's time goes, measured on steps whose parts are made to take a known time."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard

from finetune_trainer.distributed import Gang
from finetune_trainer.stopwatch import Stopwatch
from trainer.gangs import free_port

PAUSE = 1.0


class Waited:
    """What a stopwatch reads of a feed."""

    waited = 0.0


class Slow(nn.Module):
    """A layer that takes its time on rank 1 alone."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self._pause = PAUSE * rank

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self._pause)
        result: torch.Tensor = self.linear(inputs)
        return result


def member(rank: int, world_size: int, port: int, into: str) -> None:
    """One step of one process, whose data are waited for as well."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    gang = Gang(use_gpu=False)
    gang.join()
    model: nn.Module = Slow(rank)
    if world_size > 1:
        fully_shard(model, mesh=gang.mesh())
    feed = Waited()
    stopwatch = Stopwatch(model, gang, feed)  # type: ignore[arg-type]
    gang.meet()
    stopwatch.start()
    time.sleep(PAUSE / 5)
    feed.waited += PAUSE / 5
    # The gradients of a process are summed with those of the slowest.
    model(torch.ones(1, 4)).sum().backward()
    with stopwatch.communicating():
        gang.gather(torch.ones(1))
    seconds, parts = stopwatch.stop()
    torch.save((seconds, parts.model_dump(exclude_none=True)), Path(into) / f"{rank}")
    dist.destroy_process_group()


def measured(world_size: int, directory: Path) -> list[tuple[float, dict[str, float]]]:
    arguments = (world_size, free_port(), str(directory))
    multiprocessing.start_processes(member, arguments, nprocs=world_size, start_method="spawn")
    return [torch.load(directory / f"{rank}") for rank in range(world_size)]


def test_a_process_alone_has_nobody_to_talk_to(tmp_path: Path) -> None:
    [(seconds, parts)] = measured(1, tmp_path)
    assert parts["communication"] == 0
    assert parts["data"] == pytest.approx(PAUSE / 5)
    assert sum(parts.values()) == pytest.approx(seconds)


def test_waiting_for_a_slower_process_is_communication(tmp_path: Path) -> None:
    (fast_total, fast), (slow_total, slow) = measured(2, tmp_path)
    # Lower bounds only: on a busy machine everything may take longer.
    assert fast["communication"] >= PAUSE / 2
    assert slow["compute"] >= PAUSE
    for total, parts in ((fast_total, fast), (slow_total, slow)):
        assert sum(parts.values()) == pytest.approx(total)
        assert parts["data"] == pytest.approx(PAUSE / 5)
