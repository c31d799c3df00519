"""The Report of this attempt, kept by rank 0: on the storage volume, and told to the operator."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from finetune_api.report import EvaluationRecord, Metrics, Stage, StepRecord
from finetune_api.scores import Evaluated, EvaluationStatus
from finetune_api.status import Checkpoint
from finetune_api.thinning import Course
from finetune_trainer.reports import evaluations_file, history
from finetune_trainer.reports.metrics_file import MetricsFile, last_record, records
from finetune_trainer.reports.post import Poster
from finetune_trainer.storage import Storage

# What is not urgent is passed on no more often: whoever reads wants the newest, and every step has a line of its own.
_PASS_ON_SECONDS = 1.0
# Signs of life between steps need not come more often.
_TICK_SECONDS = 2.0


class Reporter:
    """Keeps the Report and passes it on when it changes. On other ranks than 0 it is silent.

    Threads may share it.
    """

    def __init__(self, storage: Storage, attempt: int, poster: Poster | None, *, silent: bool) -> None:
        self._silent = silent
        if silent:
            return
        self._storage = storage
        self._metrics = MetricsFile(storage)
        self._poster = poster
        self._lock = threading.RLock()
        self.report = history.first_report(storage, attempt)
        # Of the run so far, once it is known from where it goes on: see rewind.
        self._course = Course()
        self._judged: list[Evaluated] = []
        self._has_stepped = False
        self._pass_on(urgent=True)

    @property
    def position(self) -> int:
        """Length of the metrics file, for a state to remember; 0 where there is no file."""
        return 0 if self._silent else self._metrics.position

    def rewind(self, restored_step: int, metrics_bytes: int | None) -> None:
        """Go on from a state: what comes after its step is about to be done again.

        `metrics_bytes` is the `position` that the state remembers, if it does.
        """
        if self._silent:
            return
        with self._lock:
            self._metrics.rewind(restored_step, metrics_bytes, attempt=self.report.attempt)
            evaluations_file.rewind(self._storage, restored_step)
            self._course = history.course(self._storage)
            self._judged = self.evaluations()
            record = last_record(self._storage)
            changes: dict[str, Any] = {
                "metrics": record and record.metrics,
                "evaluation": history.shown_by(self._judged, self._storage),
                "checkpoints": history.listed(self.report.checkpoints, self._judged),
                "curve": self._course.curve(self._judged),
            }
            if restored_step == 0:
                changes["initial_loss"] = None
            self.report = self.report.model_copy(update=changes)

    def steps(self) -> Iterator[Metrics]:
        """What all steps of the run have shown so far, as the metrics file has it; nothing where there is no file."""
        return iter(()) if self._silent else records(self._storage)

    def evaluations(self) -> list[Evaluated]:
        """All evaluations of the run so far, as their file has them; nothing where there is no file."""
        return [] if self._silent else history.evaluations(self._storage)

    def evaluated(self, evaluated: Evaluated) -> None:
        """Take down an evaluation, for good, and tell what all of them show by now."""
        if self._silent:
            return
        with self._lock:
            evaluations_file.append(self._storage, EvaluationRecord.of(evaluated, self.report.attempt))
            self._judged = self.evaluations()
            self.update(
                urgent=True,
                evaluation=history.shown_by(self._judged, self._storage),
                checkpoints=history.listed(self.report.checkpoints, self._judged),
                curve=self._course.curve(self._judged),
            )

    def stopped_early(self, why: str) -> None:
        """Training has come to its end before its last step."""
        if self._silent:
            return
        with self._lock:
            shown = self.report.evaluation or EvaluationStatus()
            self.update(
                urgent=True,
                evaluation=shown.model_copy(update={"stopped_early": why}),
                seconds_remaining=0,
            )

    def stage(self, stage: Stage, **changes: Any) -> None:
        """Enter another stage."""
        self.update(urgent=True, stage=stage, **changes)

    def update(self, *, urgent: bool = False, metrics: Metrics | None = None, **changes: Any) -> None:
        """Change fields of the Report. `metrics` are those of a step, which becomes a line of the metrics file too.

        A leak that was measured in the step stays in the Report until the next one.
        """
        if self._silent:
            return
        with self._lock:
            if metrics is not None:
                self._metrics.append(StepRecord.of(metrics, self.report.attempt, datetime.now(UTC)))
                self._course.add(metrics)
                self._has_stepped = True
                changes["metrics"] = metrics
                if metrics.subspace_leak is not None and self.report.subspaces is not None:
                    leak = {"leak": metrics.subspace_leak}
                    changes["subspaces"] = self.report.subspaces.model_copy(update=leak)
            self.report = self.report.model_copy(update=changes)
            if urgent or time.monotonic() - self._passed_on >= _PASS_ON_SECONDS:
                # It counts what others see, so that what is on the volume is never behind what was posted.
                told: dict[str, Any] = {"sequence": self.report.sequence + 1}
                if self._has_stepped:
                    # Not with every step, which may take no longer than this.
                    told["curve"] = self._course.curve(self._judged)
                    self._has_stepped = False
                self.report = self.report.model_copy(update=told)
                self._pass_on(urgent=urgent)

    def tick(self, **changes: Any) -> None:
        """Show that something happens. Changes are passed on only now and then, for more of them will come."""
        if not self._silent and time.monotonic() - self._passed_on >= _TICK_SECONDS:
            self.update(**changes)

    def checkpoint(self, *saved: Checkpoint) -> None:
        """List complete checkpoints, and no longer what was removed for their sake."""
        if self._silent:
            return
        with self._lock:
            new = {each.name for each in saved}
            kept = [
                old
                for old in self.report.checkpoints
                if old.name not in new and (self._storage.root / old.name).exists()
            ]
            self.update(urgent=True, checkpoints=history.listed([*kept, *saved], self.evaluations()))

    def close(self) -> None:
        """Deliver what is left."""
        if self._silent:
            return
        self._metrics.close()
        if self._poster:
            self._poster.close()

    def _pass_on(self, *, urgent: bool) -> None:
        self._passed_on = time.monotonic()
        # First: a full volume must not keep it from being told that it is full.
        if self._poster:
            self._poster.offer(self.report.to_json(), urgent=urgent)
        history.keep(self._storage, self.report)
