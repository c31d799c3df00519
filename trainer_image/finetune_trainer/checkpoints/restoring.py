"""Going on from what an earlier process of this run saved."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.planner import ReadItem

from finetune_trainer import commit
from finetune_trainer.checkpoints.shelf import Shelf, StateFacts
from finetune_trainer.checkpoints.state import State
from finetune_trainer.circle import Circle
from finetune_trainer.commit import Condition, FileRecord
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError, InvalidDataError, TrainerError

_log = logging.getLogger(__name__)

# After which a file is read once more that the volume did not give: most of what networks do to it passes.
PAUSES = (2.0, 10.0)


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
        """Go on from the newest intact state, written by any number of processes.

        Raises TrainerError where there is none, and one that cannot be read may be intact.
        """
        root = self.shelf.storage.root
        names = self.gang.on_first(lambda: [str(path.relative_to(root)) for path in self.shelf.found()])
        unreadable = []
        for name in names:
            condition, facts = self._look(root / name)
            if facts is not None:
                self._expect(facts, state)
                self._read(root / name, facts, state)
                return Restored(facts.step, facts.metrics_bytes)
            if condition is Condition.UNREADABLE:
                unreadable.append(name)
                self.shelf.leave_alone(root / name)
                _log.warning("%s cannot be read: it is left alone, and an older state tried", root / name)
            else:
                self.shelf.pass_over(root / name)
                _log.warning("%s is damaged: it is left alone, and an older state tried", root / name)
        if unreadable:
            raise TrainerError(
                f"spec.storage: {', '.join(unreadable)} cannot be read, and no other state of this run is intact: have "
                "the volume looked at, or remove them to begin anew, at step 0"
            )
        if names:
            _log.error("none of the %d states of this run is intact: it begins anew, at step 0", len(names))
        return Restored(0, None)

    def _look(self, directory: Path) -> tuple[Condition, StateFacts | None]:
        """What a state is like, and what it tells of itself if it is to the last bit what this run wrote.

        Reading it runs code in it. Each process looks at a share of the files, the first one at the largest: it alone
        is heard while they are at it.
        """
        manifest = commit.read(directory, uid=self.shelf.storage.uid)
        files = sorted(manifest.files.items(), key=lambda item: (-item[1].bytes, item[0])) if manifest else []
        mine = dict(files[self.gang.rank :: self.gang.world_size])
        # As patient as those who save: shares differ, and a large one on a slow volume takes a while.
        everyone = self.circle.everyone(
            lambda: self._patiently(directory, mine) if manifest is not None else Condition.DAMAGED
        )
        for condition in (Condition.DAMAGED, Condition.UNREADABLE):
            if condition in everyone:
                return condition, None
        assert manifest is not None
        return Condition.INTACT, StateFacts.model_validate(manifest.facts)

    def _patiently(self, directory: Path, files: Mapping[str, FileRecord]) -> Condition:
        for pause in PAUSES:
            if (found := commit.condition(directory, files, self.tick)) is not Condition.UNREADABLE:
                return found
            time.sleep(pause)
        return commit.condition(directory, files, self.tick)

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

    def _read(self, directory: Path, facts: StateFacts, state: State) -> None:
        reader = dcp.FileSystemReader(directory)
        state.make_room(facts.step, set(reader.read_metadata().state_dict_metadata))
        dcp.load(
            state.tensors(),
            storage_reader=reader,
            planner=_Audible(self.tick),
            process_group=self.circle.group,
        )
        state.trained.push_forward()
        state.scheduler.load_state_dict(facts.scheduler)
        # The scheduler leaves its rates to the optimizer until the next step.
        for group, rate in zip(state.optimizer.param_groups, state.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate


class _Audible(dcp.DefaultLoadPlanner):
    """Gives a sign of life with each tensor that is read."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self._tick = tick

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        self._tick()
