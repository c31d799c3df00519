"""Going on from what an earlier process of this run saved."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed.checkpoint as dcp

from finetune_trainer import commit
from finetune_trainer.checkpoints.shelf import Shelf, StateFacts
from finetune_trainer.checkpoints.state import State
from finetune_trainer.circle import Circle
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError, InvalidDataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """What training goes on from."""

    step: int
    """Optimizer steps that the state holds; 0 where there was none."""
    metrics_bytes: int | None
    """How long the file of metrics was then."""


@dataclass(frozen=True)
class Restorer:
    """Finds the newest good state, and reads it. Every process calls every method."""

    shelf: Shelf
    gang: Gang
    circle: Circle
    data: str
    """Digest of the prepared data."""
    effective_batch_size: int
    tick: Callable[[], None]

    def restore(self, state: State) -> Restored:
        """Go on from the newest intact state, written by any number of processes."""
        root = self.shelf.storage.root
        names = self.gang.on_first(lambda: [str(path.relative_to(root)) for path in self.shelf.found()])
        for name in names:
            if facts := self._intact(root / name):
                self._expect(facts, state)
                _read(root / name, facts, state, self.circle)
                return Restored(facts.step, facts.metrics_bytes)
            self.shelf.pass_over(root / name)
            _log.warning("%s is damaged: it is left alone, and an older state tried", root / name)
        if names:
            _log.error("none of the %d states of this run is intact: it begins anew, at step 0", len(names))
        return Restored(0, None)

    def _intact(self, directory: Path) -> StateFacts | None:
        """What a state tells of itself, if it is to the last bit what this run wrote: reading it runs code in it.

        Each process looks at a share of the files.
        """
        manifest = commit.read(directory, uid=self.shelf.storage.uid)
        files = sorted(manifest.files.items()) if manifest else []
        mine = dict(files[self.gang.rank :: self.gang.world_size])
        # As patient as those who save: shares differ, and a large one on a slow volume takes a while.
        everyone = self.circle.everyone(
            lambda: manifest is not None and commit.intact(directory, mine, self.tick)
        )
        if not all(everyone):
            return None
        assert manifest is not None
        return StateFacts.model_validate(manifest.facts)

    def _expect(self, facts: StateFacts, state: State) -> None:
        """Make sure that a step is what it was when the state was written."""
        if facts.data != self.data:
            raise InvalidDataError(
                f"spec.dataset.train: the data or the tokenizer changed since step {facts.step} of this run: restore "
                "them, or train anew with another spec.storage.path"
            )
        if (before := facts.effective_batch_size) != self.effective_batch_size:
            raise InvalidConfigurationError(
                f"spec.hyperparameters.effectiveBatchSize: is {self.effective_batch_size}, and was {before} up to step "
                f"{facts.step} of this run: set it to {before}, or train anew with another spec.storage.path"
            )
        if facts.base != state.trained.base:
            raise InvalidConfigurationError(
                f"spec.model: the base model's weights changed since step {facts.step} of this run, and what is frozen "
                "comes from there: restore them, or train anew with another spec.storage.path"
            )


def _read(directory: Path, facts: StateFacts, state: State, circle: Circle) -> None:
    reader = dcp.FileSystemReader(directory)
    state.make_room(facts.step, set(reader.read_metadata().state_dict_metadata))
    dcp.load(state.tensors(), storage_reader=reader, process_group=circle.group)
    state.trained.push_forward()
    state.scheduler.load_state_dict(facts.scheduler)
    # The scheduler leaves its rates to the optimizer until the next step.
    for group, rate in zip(state.optimizer.param_groups, state.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
