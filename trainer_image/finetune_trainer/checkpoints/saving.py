"""Writing states to go on from: all processes together, each its share, in the thread of whoever calls."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from finetune_trainer import commit
from finetune_trainer.checkpoints.shelf import Shelf, StateFacts
from finetune_trainer.circle import Circle
from finetune_trainer.commit import Manifest
from finetune_trainer.ends.errors import TrainerError
from finetune_trainer.ends.verdict import explain, relayed


class StateWriter:
    """Writes one state at a time. Several writers may be at work at the same time, each in a thread of its own."""

    def __init__(self, shelf: Shelf, *, name: str = "") -> None:
        """Every process makes its writers in the same order; `name` tells them apart."""
        self.circle = Circle()
        self._shelf = shelf
        self._name = name

    def write(
        self,
        final: Path,
        tensors: Mapping[str, Tensor],
        facts: StateFacts,
        tick: Callable[[], None],
        *,
        result: Callable[[Path], None] | None = None,
    ) -> Manifest:
        """Write a state, with what `result` writes beside it on rank 0. Every process calls it.

        Raises a TrainerError: where one process fails, all do, and nothing is left of it but what was there before.
        """
        with self._directory(final) as directory:
            if result:
                self.circle.first(lambda: result(directory))
            _write(directory, tensors, self.circle)
            shares = self.circle.everyone(lambda: commit.sealed(self._mine(directory), tick))
            files = {name: record for share in shares for name, record in share.items()}
            return self.circle.first(lambda: self._shelf.put(final, files, facts, writer=self._name))

    @contextmanager
    def _directory(self, final: Path) -> Iterator[Path]:
        """A directory to write into. Its space is given back when that fails, once nobody writes any more."""
        try:
            yield Path(self.circle.first(lambda: str(commit.start(final, self._name))))
        except Exception as error:
            if self.circle.is_first:
                shutil.rmtree(commit.temporary(final, self._name), ignore_errors=True)
            if isinstance(error, TrainerError):
                raise
            raise relayed(*explain(error)) from error

    def _mine(self, directory: Path) -> Iterator[Path]:
        """The files that this process wrote."""
        for file in directory.iterdir():
            shared = not file.name.startswith("__")
            if self.circle.is_first if shared else file.name.startswith(f"__{self.circle.rank}_"):
                yield file


class _Writer(dcp.FileSystemWriter):
    """Tells the other processes what went wrong, not only that something did: chains of errors do not travel."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            raise relayed(*explain(_of_system(error) or error)) from error


def _of_system(error: BaseException) -> OSError | None:
    """The system's error that brought about one of torch's, which tell only what could not be finished."""
    one: BaseException | None = error
    while one and not isinstance(one, OSError):
        one = one.__context__
    return one if isinstance(one, OSError) else None


def _write(directory: Path, tensors: Mapping[str, Tensor], circle: Circle) -> None:
    # Files are flushed when they are sealed. Without copying ahead, a thread has nothing to do with the stream on which
    # another computes.
    writer = _Writer(directory, sync_files=False, per_thread_copy_ahead=0)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=circle.group)
    except dcp.CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        exit_code, message = explain(cause)
        raise relayed(exit_code, message if rank == circle.rank else f"rank {rank}: {message}") from error
