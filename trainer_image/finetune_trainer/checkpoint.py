"""Models for people and state for restarts, on the storage volume; see commit.py for how they become visible."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from finetune_api.status import Checkpoint
from finetune_trainer import commit, history
from finetune_trainer.commit import FileRecord, Manifest
from finetune_trainer.distributed import Gang
from finetune_trainer.errors import InvalidConfigurationError, InvalidDataError
from finetune_trainer.model import TrainableModel, full_weights, write
from finetune_trainer.state import State
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """What training goes on from."""

    step: int
    """Optimizer steps that the state holds; 0 where there was none."""
    metrics_bytes: int | None
    """How long the file of metrics was then."""


class Checkpoints:
    """Writes and reads checkpoints. Every process calls every method."""

    def __init__(
        self,
        storage: Storage,
        gang: Gang,
        base: Path,
        dtype: torch.dtype,
        *,
        data: str,
        effective_batch_size: int,
        keep_last: int,
        tick: Callable[[], None],
    ) -> None:
        """`base` is the base model's directory, whose tokenizer goes with every model; `dtype` that of stored models.

        A step means something only together with the samples that it counts: `data` is the digest of the prepared
        data, `effective_batch_size` the number of samples of a step. The newest `keep_last` states are kept. `tick` is
        called often while something takes long.
        """
        self.storage = storage
        self._gang = gang
        self._base = base
        self._dtype = dtype
        self._data = data
        self._effective_batch_size = effective_batch_size
        self._keep_last = keep_last
        self._tick = tick
        self._complete: Checkpoint | None = None
        self.seconds_to_save: float | None = None
        """How long the last state took from its begin until it was complete."""
        self.stalled = 0.0
        """Seconds for which saving states has held up training."""

    def save_weights(self, model: TrainableModel, step: int, epoch: float) -> Checkpoint:
        """Write an ordinary Hugging Face model into the checkpoints."""
        final = self.storage.checkpoints / _name(step)
        return history.checkpoint_of(self.storage, final, self._save_model(model, final, step, epoch))

    def save_full_state(self, state: State, step: int, epoch: float) -> Checkpoint:
        """Write a model and, in fp32, all that changes in training, for good."""
        raise NotImplementedError

    def save_output(self, model: TrainableModel, step: int, epoch: float) -> None:
        """Write the run's result, after which no state for restarts is needed."""
        self.finish()
        self._save_model(model, self.storage.output, step, epoch)
        if self._gang.is_first:
            shutil.rmtree(self.storage.resume, ignore_errors=True)

    def begin(self, state: State, step: int, epoch: float, metrics_bytes: int) -> None:
        """Begin to save what a restart goes on from; it may change once this returns."""
        self.finish()
        begun = time.monotonic()
        self._complete = self._save_state(state, step, epoch, metrics_bytes)
        self.seconds_to_save = time.monotonic() - begun
        self.stalled += self.seconds_to_save

    def finished(self) -> Checkpoint | None:
        """A state that became complete since this was asked last. Raises what its saving failed with."""
        complete, self._complete = self._complete, None
        return complete

    def finish(self) -> Checkpoint | None:
        """Wait for the state that is being saved, and answer as `finished` does."""
        return self.finished()

    def save_aside(self, state: State, step: int, epoch: float, metrics_bytes: int) -> None:
        """Save a state from a thread beside that which trains, though that one waits in a collective for ever."""
        raise NotImplementedError

    def _save_model(self, model: TrainableModel, final: Path, step: int, epoch: float) -> Manifest:
        weights = full_weights(model.hf, self._dtype, keep=self._gang.is_first, tick=self._tick)

        def write_it() -> str:
            directory = commit.start(final)
            write(model.hf, weights, self._dtype, self._base, directory)
            return self._publish(final, commit.sealed(directory.iterdir(), self._tick), step, epoch)

        return Manifest.model_validate_json(self._gang.on_first(write_it))

    def _save_state(self, state: State, step: int, epoch: float, metrics_bytes: int) -> Checkpoint:
        final = self.storage.resume / _name(step)
        directory = Path(self._gang.on_first(lambda: str(commit.start(final))))
        dcp.save(state.tensors(), storage_writer=dcp.FileSystemWriter(directory, sync_files=False))
        mine = [*directory.glob(f"__{self._gang.rank}_*")]
        if self._gang.is_first:
            mine.append(directory / ".metadata")
        shares = self._gang.collect(commit.sealed(mine, self._tick))

        def finish() -> str:
            files = {name: record for share in shares for name, record in share.items()}
            manifest = self._publish(
                final,
                files,
                step,
                epoch,
                data=self._data,
                effective_batch_size=self._effective_batch_size,
                scheduler=state.scheduler.state_dict(),
                metrics_bytes=metrics_bytes,
            )
            for other in self.storage.resume.iterdir():
                if other != final:
                    shutil.rmtree(other)
            return manifest

        manifest = Manifest.model_validate_json(self._gang.on_first(finish))
        return history.checkpoint_of(self.storage, final, manifest)

    def restore(self, state: State) -> Restored:
        """Go on from the newest intact state of this run, written by any number of processes.

        Raises InvalidDataError when it was trained on other data, InvalidConfigurationError when its steps had
        another number of samples.
        """
        found = self._gang.on_first(self._candidates)
        for name in found:
            directory = self.storage.resume / name
            manifest = commit.read(directory, uid=self.storage.uid)
            # Reading unpickles, so nothing is read but what this run wrote, bit by bit.
            if not self._gang.agree(manifest is not None and self._intact(directory, manifest)):
                _log.warning("%s is damaged; trying an older state", directory)
                continue
            assert manifest is not None
            step = int(manifest.facts["step"])
            if manifest.facts["data"] != self._data:
                raise InvalidDataError(
                    f"spec.dataset.train: the data or the tokenizer changed since step {step} of this run: restore "
                    "them, or train anew with another spec.storage.path"
                )
            if (before := manifest.facts["effective_batch_size"]) != self._effective_batch_size:
                raise InvalidConfigurationError(
                    f"spec.hyperparameters.effectiveBatchSize: is {self._effective_batch_size}, and was {before} up "
                    f"to step {step} of this run: set it to {before}, or train anew with another spec.storage.path"
                )
            reader = dcp.FileSystemReader(directory)
            state.make_room(step, set(reader.read_metadata().state_dict_metadata))
            dcp.load(state.tensors(), storage_reader=reader)
            state.scheduler.load_state_dict(manifest.facts["scheduler"])
            # The scheduler leaves its rates to the optimizer until the next step.
            for group, rate in zip(state.optimizer.param_groups, state.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
            return Restored(step, manifest.facts["metrics_bytes"])
        return Restored(0, None)

    def _candidates(self) -> list[str]:
        return [path.name for path, _ in history.complete(self.storage.resume, uid=self.storage.uid)][::-1]

    def _intact(self, directory: Path, manifest: Manifest) -> bool:
        """Whether this process's share of the files is what was written."""
        mine = sorted(manifest.files.items())[self._gang.rank :: self._gang.world_size]
        return commit.intact(directory, dict(mine), self._tick)

    def _publish(
        self, final: Path, files: Mapping[str, FileRecord], step: int, epoch: float, **more: Any
    ) -> str:
        """Make a directory visible; returns its manifest as JSON."""
        facts = {"step": step, "epoch": epoch, **more}
        return commit.publish(final, uid=self.storage.uid, files=files, facts=facts).model_dump_json()


def _name(step: int) -> str:
    return f"step-{step:08d}"
