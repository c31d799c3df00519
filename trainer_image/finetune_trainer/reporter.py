"""The Report of this attempt, kept by rank 0: on the storage volume, and told to the operator."""

import time
from typing import Any

from finetune_api.report import Stage
from finetune_api.status import MAX_LISTED_CHECKPOINTS, Checkpoint
from finetune_trainer import history
from finetune_trainer.post import Poster
from finetune_trainer.storage import Storage

# Signs of life between steps need not come more often.
_TICK_SECONDS = 2.0


class Reporter:
    """Keeps the Report and passes it on whenever it changes. On other ranks than 0 it is silent."""

    def __init__(self, storage: Storage, attempt: int, poster: Poster | None, *, silent: bool) -> None:
        self._silent = silent
        if silent:
            return
        self._metrics = history.open_metrics(storage)
        self._poster = poster
        last = history.last_report(storage, attempt)
        found = history.checkpoints(storage)
        self.report = last.model_copy(update={"checkpoints": found, "stage": Stage.STARTING})
        self._last = 0.0
        self._put(urgent=True)

    def stage(self, stage: Stage, **changes: Any) -> None:
        """Enter another stage."""
        self.update(urgent=True, stage=stage, **changes)

    def update(self, *, urgent: bool = False, **changes: Any) -> None:
        """Change fields of the Report."""
        if self._silent:
            return
        self.report = self.report.model_copy(update={**changes, "sequence": self.report.sequence + 1})
        self._put(urgent=urgent)

    def tick(self, **changes: Any) -> None:
        """Show that something happens. Changes are passed on only now and then, for more of them will come."""
        if not self._silent and time.monotonic() - self._last >= _TICK_SECONDS:
            self.update(**changes)

    def checkpoint(self, saved: Checkpoint) -> None:
        """List a complete checkpoint, in place of those whose directories it replaced."""
        if self._silent:
            return
        kept = [
            old
            for old in self.report.checkpoints
            if old.name != saved.name and not (old.kind == saved.kind == "resume")
        ]
        self.update(urgent=True, checkpoints=[*kept, saved][-MAX_LISTED_CHECKPOINTS:])

    def close(self) -> None:
        """Deliver what is left."""
        if self._silent:
            return
        self._metrics.close()
        if self._poster:
            self._poster.close()

    def _put(self, *, urgent: bool) -> None:
        self._last = time.monotonic()
        # First: a full volume must not keep it from being told that it is full.
        if self._poster:
            self._poster.offer(self.report.to_json(), urgent=urgent)
        history.append(self._metrics, self.report)
