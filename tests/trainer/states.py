"""States of a small model, and gangs of processes that save them: no run, no data."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel
from finetune_trainer.storage import Storage
from trainer.forked import FORKS
from trainer.gangs import PATIENCE, free_port

# What a process of a gang does; returns what the test is to know.
Part = Callable[..., Any]


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@contextmanager
def alone() -> Iterator[Gang]:
    """A gang of this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(0, 1, 0).items():
            patch.setenv(name, value)
        made = Gang(use_gpu=False)
        made.join()
    yield made
    made.leave()


def checkpoints_in(directory: Path, gang: Gang, base: Path = Path(), **changes: Any) -> Checkpoints:
    """The checkpoints of a run."""
    usual: dict[str, Any] = {
        "data": "digest-1",
        "effective_batch_size": 4,
        "keep_last": 2,
        "tick": lambda: None,
    }
    storage = Storage(directory, "run", "uid-1")
    return Checkpoints(storage, gang, base, **usual | changes)


def small(gang: Gang, *, width: int = 8) -> State:
    """The state of a small model in which nothing has happened, the same in gangs of all sizes."""
    torch.manual_seed(1)
    # Of the second one's rows there are fewer than some gangs have processes.
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    if gang.world_size > 1:
        fully_shard(model, mesh=gang.mesh())
    return state_of(cast(TrainableModel, model))


def state_of(model: TrainableModel) -> State:
    """The state of a model in which nothing has happened."""
    optimizer = AdamW(model.parameters(), lr=1.0)
    return State(Parametrization(model), optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)))


def advance(state: State) -> None:
    """A step of any kind; it depends on the steps before."""
    for weight in state.model.parameters():
        weight.grad = 0.5 + weight.detach().sin()
    state.optimizer.step()
    state.scheduler.step()


def content(state: State) -> dict[str, Tensor]:
    """All tensors of a state, whole, copied."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, tensor in state.tensors().items()
    }


def expected(step: int) -> dict[str, Tensor]:
    """What a small state is after so many steps."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    state = state_of(cast(TrainableModel, model))
    for _ in range(step):
        advance(state)
    return content(state)


def assert_same(one: dict[str, Tensor], another: dict[str, Tensor]) -> None:
    """To the last bit."""
    assert one.keys() == another.keys()
    assert all(torch.equal(one[name], another[name]) for name in one)


def save(checkpoints: Checkpoints, state: State, step: int) -> Path:
    """Save a state, wait for it, and tell where it is."""
    checkpoints.begin(state, step, step / 10, metrics_bytes=0)
    saved = checkpoints.finish()
    assert saved is not None
    assert (saved.kind, saved.step, saved.epoch) == ("resume", step, step / 10)
    return checkpoints.storage.root / saved.name


def together(world_size: int, part: Part, *given: Any) -> list[Any]:
    """What each process of a gang returns, or how it ended if it did not get so far."""
    port = free_port()
    processes, ends = [], []
    for rank in range(world_size):
        receiving, sending = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_take_part, args=(sending, rank, world_size, port, part, given))
        process.start()
        sending.close()
        processes.append(process)
        ends.append(receiving)
    try:
        results = []
        for process, end in zip(processes, ends, strict=True):
            assert end.poll(PATIENCE), "waited in vain"
            try:
                results.append(end.recv())
            except EOFError:
                process.join(PATIENCE)
                results.append(process.exitcode)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _take_part(
    sending: Any, rank: int, world_size: int, port: int, part: Part, given: tuple[Any, ...]
) -> None:
    os.environ.update(environment(rank, world_size, port))
    torch.set_num_threads(1)
    try:
        gang = Gang(use_gpu=False)
        gang.join()
        sending.send(part(gang, *given))
    except Exception:  # noqa: BLE001 - told, and it ends the process
        traceback.print_exc()
        os._exit(1)
    # As a training process does: threads that wait for others do not hold it up.
    os._exit(0)
