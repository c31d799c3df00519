"""Models for people and state for restarts, on the storage volume; see commit.py for how they become visible."""

import logging
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finetune_api.status import Checkpoint
from finetune_trainer import commit, history
from finetune_trainer.commit import FileRecord, Manifest
from finetune_trainer.distributed import Gang
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.model import TrainableModel, full_weights, write
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

# What AdamW keeps of each weight, besides the number of steps.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """All that changes in training. Batches, learning rates and random numbers follow from the step alone."""

    model: TrainableModel
    optimizer: Optimizer
    scheduler: LambdaLR


@dataclass(frozen=True)
class Checkpoints:
    """Writes and reads checkpoints. Every process calls every method."""

    storage: Storage
    gang: Gang
    base: Path
    """The base model's directory: its tokenizer goes with every model."""
    dtype: torch.dtype
    """In which models are stored."""
    data: str
    """Digest of the prepared data: a step means something only together with the samples that it counts."""
    tick: Callable[[], None]
    """Called often while something takes long."""

    def save_weights(self, model: TrainableModel, step: int, epoch: float) -> Checkpoint:
        """Write an ordinary Hugging Face model into the checkpoints."""
        final = self.storage.checkpoints / _name(step)
        return history.checkpoint_of(self.storage, final, self._save_model(model, final, step, epoch))

    def save_output(self, model: TrainableModel, step: int, epoch: float) -> None:
        """Write the run's result, after which no state for restarts is needed."""
        self._save_model(model, self.storage.output, step, epoch)
        if self.gang.is_first:
            shutil.rmtree(self.storage.resume, ignore_errors=True)

    def _save_model(self, model: TrainableModel, final: Path, step: int, epoch: float) -> Manifest:
        weights = full_weights(model.hf, self.dtype, keep=self.gang.is_first, tick=self.tick)

        def write_it() -> str:
            directory = commit.start(final)
            write(model.hf, weights, self.dtype, self.base, directory)
            return self._publish(final, commit.sealed(directory.iterdir(), self.tick), step, epoch)

        return Manifest.model_validate_json(self.gang.on_first(write_it))

    def save_resume(self, state: State, step: int, epoch: float) -> Checkpoint:
        """Write what a restart goes on from, and remove what it replaces."""
        final = self.storage.resume / _name(step)
        directory = Path(self.gang.on_first(lambda: str(commit.start(final))))
        dcp.save(_tensors(state), storage_writer=dcp.FileSystemWriter(directory, sync_files=False))
        mine = [*directory.glob(f"__{self.gang.rank}_*")]
        if self.gang.is_first:
            mine.append(directory / ".metadata")
        shares = self.gang.collect(commit.sealed(mine, self.tick))

        def finish() -> str:
            files = {name: record for share in shares for name, record in share.items()}
            manifest = self._publish(
                final, files, step, epoch, data=self.data, scheduler=state.scheduler.state_dict()
            )
            for other in self.storage.resume.iterdir():
                if other != final:
                    shutil.rmtree(other)
            return manifest

        manifest = Manifest.model_validate_json(self.gang.on_first(finish))
        return history.checkpoint_of(self.storage, final, manifest)

    def restore(self, state: State) -> int:
        """Go on from the newest intact state of this run, written by any number of processes.

        Returns its step; 0 where there is none. Raises InvalidDataError when it was trained on other data.
        """
        found = self.gang.on_first(self._candidates)
        for name in found:
            directory = self.storage.resume / name
            manifest = commit.read(directory, uid=self.storage.uid)
            # Reading unpickles, so nothing is read but what this run wrote, bit by bit.
            if not self.gang.agree(manifest is not None and self._intact(directory, manifest)):
                _log.warning("%s is damaged; trying an older state", directory)
                continue
            assert manifest is not None
            step = int(manifest.facts["step"])
            if manifest.facts["data"] != self.data:
                raise InvalidDataError(
                    f"spec.dataset.train: the data or the tokenizer changed since step {step} of this run: restore "
                    "them, or train anew with another spec.storage.path"
                )
            reader = dcp.FileSystemReader(directory)
            _make_room(state, step, set(reader.read_metadata().state_dict_metadata))
            dcp.load(_tensors(state), storage_reader=reader)
            state.scheduler.load_state_dict(manifest.facts["scheduler"])
            # The scheduler leaves its rates to the optimizer until the next step.
            for group, rate in zip(state.optimizer.param_groups, state.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
            return step
        return 0

    def _candidates(self) -> list[str]:
        return [path.name for path, _ in history.complete(self.storage.resume, uid=self.storage.uid)][::-1]

    def _intact(self, directory: Path, manifest: Manifest) -> bool:
        """Whether this process's share of the files is what was written."""
        mine = sorted(manifest.files.items())[self.gang.rank :: self.gang.world_size]
        return commit.intact(directory, dict(mine), self.tick)

    def _publish(
        self, final: Path, files: Mapping[str, FileRecord], step: int, epoch: float, **more: Any
    ) -> str:
        """Make a directory visible; returns its manifest as JSON."""
        facts = {"step": step, "epoch": epoch, **more}
        return commit.publish(final, uid=self.storage.uid, files=files, facts=facts).model_dump_json()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _key(name: str, moment: str) -> str:
    return f"optimizer.{name}.{moment}"


def _tensors(state: State) -> dict[str, Tensor]:
    """Weights and moments under stable names, as they are divided among processes."""
    tensors: dict[str, Tensor] = {}
    for name, weight in state.model.named_parameters():
        tensors[f"model.{name}"] = weight.detach()
        # A weight that never had a gradient has no moments.
        for moment in _MOMENTS if weight in state.optimizer.state else ():
            tensors[_key(name, moment)] = state.optimizer.state[weight][moment]
    return tensors


def _make_room(state: State, step: int, stored: Set[str]) -> None:
    """Give the optimizer the state that it has after some steps, for its moments to be read into."""
    for name, weight in state.model.named_parameters():
        if _key(name, _MOMENTS[0]) in stored:
            moments = {moment: torch.zeros_like(weight, requires_grad=False) for moment in _MOMENTS}
            state.optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
