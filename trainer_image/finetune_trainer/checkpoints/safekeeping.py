"""What one attempt saves, when, and what becomes of it when it has to go."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from finetune_api.report import Stage
from finetune_api.status import Checkpoint
from finetune_trainer.checkpoints.cadence import Cadence
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.reports import history
from finetune_trainer.reports.reporter import Reporter

_log = logging.getLogger(__name__)


@dataclass
class Safekeeping:
    """Saves what is due, and lists it in the Report once it is complete. Every process calls every method."""

    cadence: Cadence
    checkpoints: Checkpoints
    state: State
    gang: Gang
    reporter: Reporter
    epoch: Callable[[int], float]
    """The epochs that so many steps are, with their fraction."""
    newest: int
    """Step of the newest state, complete or under way; 0 where there is none."""
    _begun: float = field(default_factory=time.monotonic)
    """When it was begun; or this attempt, if that was later."""
    _under_way: bool = False

    def overdue(self) -> bool:
        """Whether this process finds a new state due by time; one that is under way is not too old yet."""
        return not self._under_way and self.cadence.overdue(time.monotonic() - self._begun)

    def after(self, step: int, *, overdue: bool) -> None:
        """Save what is due after so many steps."""
        self._list(self.checkpoints.finished())
        due = self.cadence.due(step, overdue=overdue)
        if due.weights or due.full_state:
            self.reporter.stage(Stage.SAVING)
            self._save_for_good(step, weights=due.weights, full_state=due.full_state)
            self.reporter.stage(Stage.TRAINING)
        if due.resume:
            self._begin(step)

    def make_up(self) -> None:
        """Save what was due after the steps that were restored, if the attempt that made them did not get to it."""
        step = self.newest
        due = self.cadence.due(step, overdue=False)
        if not step or not (due.weights or due.full_state):
            return
        kept = self.gang.on_first(
            lambda: [
                found.kind for found in history.checkpoints(self.checkpoints.storage) if found.step == step
            ]
        )
        self._save_for_good(
            step,
            weights=due.weights and "weights" not in kept,
            full_state=due.full_state and "fullState" not in kept,
        )

    def before_leaving(self, step: int, seconds_left: float) -> str:
        """Save the state after so many steps, unless there is no time for it; tells what became of it.

        One that would not fit is not begun: it would keep a GPU busy and a volume full for nothing.
        """
        self.reporter.stage(Stage.SAVING)
        began = time.monotonic()
        self._list(self.checkpoints.finish())
        if self.newest != step:
            left = seconds_left - (time.monotonic() - began)
            everyone = self.gang.collect((left, self.checkpoints.seconds_to_save or 0.0))
            left, needed = min(left for left, _ in everyone), max(needed for _, needed in everyone)
            if needed > left:
                kept = (
                    f"the newest is that after step {self.newest}" if self.newest else "there is no older one"
                )
                return (
                    f"the state after step {step} is not saved: that takes {needed:.1f} s, and {max(0, left):.1f} s "
                    f"are left of spec.failurePolicy.gracePeriodSeconds; {kept}"
                )
            self._begin(step)
            self._list(self.checkpoints.finish())
        return f"the state after step {step} is saved" if step else "there is nothing to save before step 1"

    def keep_best(self, step: int) -> None:
        """Keep the weights after so many steps, which are the best so far. Those that were may go then."""
        # What is due anyway has been saved before.
        due = self.cadence.due(step, overdue=False).weights
        if due:
            saved = []
        else:
            self.reporter.stage(Stage.SAVING)
            saved = [self.checkpoints.save_weights(self.state, step, self.epoch(step), as_best=True)]
        self.checkpoints.drop_former_best()
        self.reporter.checkpoint(*saved)

    def result(self, step: int, *, better: Sequence[int] = (), stopped_early: str | None = None) -> None:
        """Save what training leads to: weights that were kept after one of the `better` steps, or those after the last.

        `stopped_early` is why that step was the last one, if it should not have been.
        """
        self.reporter.stage(Stage.SAVING)
        if better and self.checkpoints.deliver(better, stopped_early=stopped_early):
            return
        if better and self.gang.is_first:
            _log.warning(
                "no intact weights are left of step %d, which has the lowest validation loss, or of others that are "
                "better than the last one: those after step %d are the output",
                better[0],
                step,
            )
        self.checkpoints.save_output(self.state, step, self.epoch(step), stopped_early=stopped_early)

    def _save_for_good(self, step: int, *, weights: bool, full_state: bool) -> None:
        epoch = self.epoch(step)
        if weights:
            self.reporter.checkpoint(self.checkpoints.save_weights(self.state, step, epoch))
        if full_state:
            self.reporter.checkpoint(
                self.checkpoints.save_full_state(self.state, step, epoch, self.reporter.position)
            )
            self._is_newest(step)

    def _begin(self, step: int) -> None:
        # One at a time: this waits for the one before, which is to be listed too.
        self._list(self.checkpoints.finish())
        self.checkpoints.begin(self.state, step, self.epoch(step), self.reporter.position)
        self._is_newest(step)
        self._under_way = True

    def _is_newest(self, step: int) -> None:
        self.newest, self._begun = step, time.monotonic()

    def _list(self, complete: Checkpoint | None) -> None:
        if complete:
            self._under_way = False
            self.reporter.checkpoint(complete)
