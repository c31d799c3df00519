"""The states that a run can go on from, on its volume: which there are, a new one, and which go for its sake."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.model import ApiModel
from finetune_trainer import commit
from finetune_trainer.checkpoints.retention import superseded
from finetune_trainer.commit import FileRecord, Manifest
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)


class StateFacts(ApiModel):
    """What the manifest of a state tells of it."""

    step: int
    """Optimizer steps that it holds."""
    epoch: float
    """Epochs that it holds."""
    data: str
    """Digest of the prepared data: a step means something only together with the samples that it counts."""
    effective_batch_size: int
    """Samples of a step."""
    world_size: int
    """Processes that wrote it; any number can read it."""
    base: str | None = None
    """Digest of the weights that are frozen, where some are: no state holds them."""
    scheduler: dict[str, Any]
    """What the learning rates go on from."""
    metrics_bytes: int
    """How long the file of metrics was."""


class Shelf:
    """What rank 0 does with states. Threads may share it."""

    def __init__(self, storage: Storage, *, keep_last: int) -> None:
        self.storage = storage
        self._keep_last = keep_last
        self._lock = threading.Lock()
        self._damaged: set[int] = set()
        self._unreadable: set[int] = set()
        self._newest = 0

    @property
    def newest(self) -> Path | None:
        """The latest state for restarts that this process put here."""
        return self.storage.state_after(self._newest) if self._newest else None

    def found(self) -> list[Path]:
        """The states of this run, the newest first; any of them may be damaged.

        Models with a full state come after the states for restarts of the same step.
        """
        full = {
            path: manifest.facts["step"]
            for path in self.storage.full_states()
            if (manifest := commit.of_run(path, uid=self.storage.uid))
        }
        saved = _saved(self.storage)
        for path in set(commit.visible(self.storage.resume)) - set(saved):
            _log.warning("%s is not a state that this run completed: it is left alone", path)
        steps = full | saved
        return sorted(steps, key=lambda path: steps[path])[::-1]

    def pass_over(self, path: Path) -> None:
        """Take note that a state is damaged: it goes as soon as there is a newer one, and no good one for its sake."""
        if step := _saved(self.storage).get(path):
            self._damaged.add(step)

    def leave_alone(self, path: Path) -> None:
        """Take note that a state cannot be read, and may be good: it stays, and no good one goes for its sake."""
        if step := _saved(self.storage).get(path):
            self._unreadable.add(step)

    def put(
        self, final: Path, files: Mapping[str, FileRecord], facts: StateFacts, *, writer: str = ""
    ) -> Manifest:
        """Make a new state visible, and remove the states for restarts that it supersedes."""
        with self._lock:
            # A state counts on the steps that it remembers: they must outlast a loss of power as it does.
            if facts.metrics_bytes:
                commit.flush(self.storage.metrics)
            manifest = commit.publish(
                final, uid=self.storage.uid, files=files, facts=facts.model_dump(), writer=writer
            )
            if final.parent == self.storage.resume:
                self._damaged.discard(facts.step)
                self._unreadable.discard(facts.step)
                # One that was saved aside may have overtaken this one.
                self._newest = max(self._newest, facts.step)
                self._prune()
            return manifest

    def _prune(self) -> None:
        found = {step: path for path, step in _saved(self.storage).items() if step not in self._unreadable}
        for step in superseded(found, damaged=self._damaged, newest=self._newest, keep=self._keep_last):
            remove(found[step])


def clear(storage: Storage) -> None:
    """Remove all states for restarts of a run, complete or not: once there is its result, nothing needs them."""
    commit.remove_incomplete(storage.resume)
    for path in _saved(storage):
        remove(path)
    # What somebody else left there stays.
    if storage.resume.exists() and not any(storage.resume.iterdir()):
        storage.resume.rmdir()


def _saved(storage: Storage) -> dict[Path, int]:
    """The states for restarts, with their steps. What has another name, or another manifest, is not the run's."""
    found = {
        path: manifest.facts["step"]
        for path in commit.visible(storage.resume)
        if (manifest := commit.of_run(path, uid=storage.uid))
    }
    return {path: step for path, step in found.items() if path == storage.state_after(step)}


def remove(path: Path) -> None:
    """Remove a complete directory that nobody needs any more, as far as the volume lets."""
    try:
        commit.remove(path)
    except OSError as error:
        # That is no reason to end: it costs space, and the next attempt tries again.
        _log.warning("%s is no longer needed, and cannot be removed: %s", path, error)
