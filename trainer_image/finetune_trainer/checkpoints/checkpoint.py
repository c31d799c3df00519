"""Results for people and states for restarts, on the storage volume; see commit.py for how they become visible."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from finetune_api.status import Checkpoint
from finetune_trainer import commit
from finetune_trainer.checkpoints import best, shelf
from finetune_trainer.checkpoints.restoring import Restored, Restorer
from finetune_trainer.checkpoints.saving import StateWriter
from finetune_trainer.checkpoints.shelf import Shelf, StateFacts
from finetune_trainer.checkpoints.state import State
from finetune_trainer.commit import Manifest
from finetune_trainer.distributed import Gang
from finetune_trainer.reports import history
from finetune_trainer.results import Describe, Result, nothing
from finetune_trainer.storage import Storage

T = TypeVar("T")

# How often one who waits for the thread that saves looks whether that gets on.
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Saving:
    """What the thread is at."""

    final: Path
    manifest: Future[Manifest]


class Checkpoints:
    """Writes and reads checkpoints. Every process calls every method, in the same order."""

    def __init__(
        self,
        storage: Storage,
        gang: Gang,
        base: Path,
        *,
        data: str,
        effective_batch_size: int,
        keep_last: int,
        tick: Callable[[], None],
        describe: Describe = nothing,
    ) -> None:
        """`base` is the base model's directory. What is to lie beside the run's result `describe` writes.

        A step means something only together with the samples that it counts: `data` is the digest of the prepared
        data, `effective_batch_size` the number of samples of a step. The newest `keep_last` states are kept. `tick` is
        called often while something takes long.
        """
        self.storage = storage
        self._gang = gang
        self._base = base
        self._data = data
        self._effective_batch_size = effective_batch_size
        self._tick = tick
        self._describe = describe
        self._shelf = Shelf(storage, keep_last=keep_last)
        self._writer = StateWriter(self._shelf)
        self._aside = StateWriter(self._shelf, name="aside")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        on_gpu = gang.device.type == "cuda"
        # Keeps the memory that it copies into, for the next time.
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_non_blocking_copy=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
            )
        )
        self._in_flight: _Saving | None = None
        self._parts_sealed = 0
        self._complete: Checkpoint | None = None
        self.seconds_to_save: float | None = None
        """How long the last state took from its begin until it was complete; None before there was one."""
        self.stalled = 0.0
        """Seconds for which saving has held up training."""

    def save_weights(self, state: State, step: int, epoch: float, *, as_best: bool = False) -> Checkpoint:
        """Write what training has led to so far into the checkpoints.

        What is kept as the best alone goes when there is better (see `drop_former_best`).
        """
        final = self.storage.weights_after(step)
        with self._stalling():
            return self._save_result(state, final, step, epoch, best.AS_BEST if as_best else {})

    def drop_former_best(self) -> None:
        """Remove weights that were kept as the best ones alone, now that the best of all are complete."""
        if self._gang.is_first:
            best.prune(self.storage)

    def save_full_state(self, state: State, step: int, epoch: float, metrics_bytes: int) -> Checkpoint:
        """Write what training has led to and, beside it in fp32, all that changes in training; kept for good.

        The run itself goes on from it where no later state is intact. So to go back to that epoch, suspend the job,
        move the states and full states of later steps out of its directory, and resume it. Another job may name it in
        spec.model, as a model. For other programs, torch.distributed.checkpoint reads the weights (`model.*`) and
        AdamW's moments (`optimizer.*.exp_avg`, `optimizer.*.exp_avg_sq`) from there, and
        `python -m torch.distributed.checkpoint.format_utils dcp_to_torch` makes one file of them. Of what osft
        decomposed it has the trained factors (`model.*.weight.U`, `.S`, `.V`).
        """
        final = self.storage.full_state_after(epoch)
        with self._stalling():
            self._settle()
            result, weights = self._result(state)
            facts = self._facts(state, step, epoch, metrics_bytes)
            write = partial(result.write, weights)
            return self._wait(self._submit(final, state.tensors(), facts, write))

    def save_output(self, state: State, step: int, epoch: float, *, stopped_early: str | None = None) -> None:
        """Write the run's result, after which no state for restarts is needed; with why training ended early, if so."""
        self._save_result(state, self.storage.output, step, epoch, best.facts_of(stopped_early))
        self._clear()

    def deliver(self, steps: Sequence[int], *, stopped_early: str | None) -> bool:
        """Make the run's result of weights that were kept: of the first of these steps after which they are intact.

        False, with nothing changed, where none are.
        """

        def deliver() -> bool:
            for step in steps:
                facts = best.facts_of(stopped_early)
                done = self._thread.submit(
                    best.deliver, self.storage, step, facts, self._describe, self._part_sealed
                )
                if self._finished(done, self.storage.output):
                    return True
            return False

        # Every process settles what it has part in; what rank 0 then does takes none of the others.
        self._settle()
        delivered = self._gang.on_first(deliver)
        if delivered:
            self._clear()
        return delivered

    def _clear(self) -> None:
        if self._gang.is_first:
            shelf.clear(self.storage)

    def begin(self, state: State, step: int, epoch: float, metrics_bytes: int) -> None:
        """Begin to save what a restart goes on from; it may change once this returns.

        Training is held up while it is copied in main memory, and until the one before is complete. Raises what the
        saving of that one failed with.
        """
        with self._stalling():
            self._settle()
            begun = time.monotonic()
            staged = self._stager.stage(state.tensors())
            assert isinstance(staged, dict)
            for device in self._gang.devices[1:]:
                # The stager has waited for copies from the first one only.
                torch.accelerator.synchronize(device)
            final, facts = self.storage.state_after(step), self._facts(state, step, epoch, metrics_bytes)
            self._in_flight = self._submit(final, staged, facts, begun=begun)

    def finished(self) -> Checkpoint | None:
        """A state that became complete since this was asked last. Raises what its saving failed with."""
        if self._in_flight and self._in_flight.manifest.done():
            self._settle()
        complete, self._complete = self._complete, None
        return complete

    def finish(self) -> Checkpoint | None:
        """Wait for the state that is being saved, and answer as `finished` does."""
        with self._stalling():
            self._settle()
        return self.finished()

    def save_aside(self, state: State, step: int, epoch: float, metrics_bytes: int) -> None:
        """Save a state in a thread beside that which trains, though that one waits in a collective for ever.

        Nothing may change the state meanwhile. A state of that step that is there already is enough.
        """
        final = self.storage.state_after(step)
        if self._aside.circle.first(lambda: self._shelf.newest == final):
            return
        facts = self._facts(state, step, epoch, metrics_bytes)
        # What others put on the usual stream may wait for ever as well.
        stream = torch.cuda.Stream(self._gang.device) if self._gang.device.type == "cuda" else None
        with torch.cuda.stream(stream) if stream else nullcontext():
            self._aside.write(final, state.tensors(), facts, self._tick)

    def restore(self, state: State) -> Restored:
        """Go on from the newest intact state of this run, written by any number of processes.

        Raises InvalidDataError when it was trained on other data, InvalidConfigurationError when its steps had
        another number of samples.
        """
        circle = self._writer.circle
        return Restorer(
            self._shelf, self._gang, circle, self._data, self._effective_batch_size, self._tick
        ).restore(state)

    def _save_result(
        self, state: State, final: Path, step: int, epoch: float, more: Mapping[str, Any]
    ) -> Checkpoint:
        """Write what training has led to; `more` is what else its manifest is to tell."""
        self._settle()
        result, weights = self._result(state)

        def save() -> Manifest:
            with commit.writing(final) as directory:
                result.write(weights, directory)
                if final == self.storage.output:
                    self._describe(directory, result.format, step)
                files = commit.sealed(directory.iterdir(), self._part_sealed)
                facts = {"step": step, "epoch": epoch, "format": result.format, "base": state.trained.base}
                facts |= more
                return commit.publish(final, uid=self.storage.uid, files=files, facts=facts)

        def write_it() -> str:
            return self._wait(_Saving(final, self._thread.submit(save))).model_dump_json()

        return Checkpoint.model_validate_json(self._gang.on_first(write_it))

    def _result(self, state: State) -> tuple[Result, dict[str, Tensor]]:
        """What training has led to, and its weights, which only rank 0 has."""
        result = state.trained.result(self._base)
        return result, result.weights(keep=self._gang.is_first, tick=self._tick)

    def _facts(self, state: State, step: int, epoch: float, metrics_bytes: int) -> StateFacts:
        return StateFacts(
            step=step,
            epoch=epoch,
            data=self._data,
            effective_batch_size=self._effective_batch_size,
            world_size=self._gang.world_size,
            base=state.trained.base,
            scheduler=copy.deepcopy(state.scheduler.state_dict()),
            metrics_bytes=metrics_bytes,
        )

    def _submit(
        self,
        final: Path,
        tensors: Mapping[str, Tensor],
        facts: StateFacts,
        result: Callable[[Path], None] | None = None,
        begun: float | None = None,
    ) -> _Saving:
        """Have the thread write a state. All do that in the same order, for the writer's agreements to meet."""

        def save() -> Manifest:
            manifest = self._writer.write(final, tensors, facts, self._part_sealed, result=result)
            if begun is not None:
                self.seconds_to_save = time.monotonic() - begun
            return manifest

        return _Saving(final, self._thread.submit(save))

    def _settle(self) -> None:
        """Wait for the state that is being saved, if there is one."""
        if in_flight := self._in_flight:
            self._in_flight = None
            self._complete = self._wait(in_flight)

    def _wait(self, saving: _Saving) -> Checkpoint:
        manifest = self._finished(saving.manifest, saving.final)
        return history.checkpoint_of(self.storage, saving.final, manifest)

    def _finished(self, work: Future[T], final: Path) -> T:
        """Wait for the thread. That more and more is written is a sign of life; the waiting itself is none."""
        directory = commit.temporary(final)
        seen = None
        while not wait([work], _POLL_SECONDS).done:
            if (written := (self._parts_sealed, commit.size(directory))) != seen:
                seen = written
                self._tick()
        return work.result()

    def _part_sealed(self) -> None:
        self._parts_sealed += 1

    @contextmanager
    def _stalling(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.stalled += time.monotonic() - begun
