"""Evaluations of one attempt: made when they are due, taken down, told, and drawn conclusions from."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from finetune_api.evaluation import EarlyStopping
from finetune_api.report import Stage
from finetune_api.scores import Evaluated, SetScore, best, why_to_stop, with_changes
from finetune_trainer.adviser import Adviser
from finetune_trainer.checkpoints.safekeeping import Safekeeping
from finetune_trainer.distributed import Gang
from finetune_trainer.judging.timing import Timing
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.step import Guard
from finetune_trainer.trackers import Trackers

_log = logging.getLogger(__name__)


class Scores(Protocol):
    """What evaluates: evaluating.Evaluator."""

    def evaluate(self, budget: int, guarding: Guard) -> list[SetScore] | None:
        """The scores of all sets, the same on every process; None when some process was asked to stop."""


class Outlook(Enum):
    """How training goes on after a step."""

    ON = auto()
    OVER = auto()
    """It has come to its end: nothing gets better any more."""
    INTERRUPTED = auto()
    """Some process was asked to stop, and the evaluation is left to the next attempt."""


@dataclass
class Judge:
    """Evaluates when it is due, and knows what follows. Every process calls every method.

    All of it follows from the history of evaluations, which is the same in each process, and in each attempt.
    """

    timing: Timing
    rule: EarlyStopping | None
    """When training ends early; None: never."""
    keeps_best: bool
    """Whether the weights of the best evaluation are kept."""
    evaluator: Scores | None
    """None where there is nothing to evaluate on."""
    gang: Gang
    reporter: Reporter
    trackers: Trackers
    adviser: Adviser | None
    """Hears of each evaluation; None in all processes but one."""
    epoch: Callable[[int], float]
    """The epochs that so many steps are, with their fraction."""
    history: list[Evaluated] = field(default_factory=list)
    stopped_early: str | None = None
    """Why training has ended before its last step, once it has."""
    _seconds: float | None = None
    """How long the last evaluation took."""

    def seconds_left(self, step: int) -> float:
        """How long the evaluations will take that are due after more steps than so many, as far as one knows by now."""
        return self.timing.left(step) * self._seconds if self._seconds is not None else 0.0

    def recall(self) -> None:
        """Go on from the evaluations that the run has made up to the state that was restored."""
        if self.evaluator is None:
            return
        told = self.gang.on_first(lambda: [one.to_wire() for one in self.reporter.evaluations()])
        self.history = [Evaluated.model_validate(one) for one in told]

    def after(self, step: int, budget: int, guarding: Guard, safekeeping: Safekeeping) -> Outlook:
        """Make the evaluation that is due after so many steps, unless there is one, and do what follows from it.

        What an attempt has not come to, the next one makes up: it begins with this. A pass has `budget` tokens.
        """
        if self.evaluator is None or not self.timing.due(step):
            return Outlook.ON
        if not any(one.step == step for one in self.history):
            self.reporter.stage(Stage.EVALUATING)
            begun = time.monotonic()
            scores = self.evaluator.evaluate(budget, guarding)
            if scores is None:
                return Outlook.INTERRUPTED
            self._seconds = time.monotonic() - begun
            self._take_down(step, scores)
        if self._is_over(step):
            return Outlook.OVER
        # What a run ends with is its result, and need not be kept twice.
        if step < self.timing.total_steps and self.keeps_best and self._best_step() == step:
            safekeeping.keep_best(step)
        self.reporter.stage(Stage.TRAINING)
        return Outlook.ON

    def ranked(self, last: int) -> list[int]:
        """The steps of evaluations with a lower validation loss than the one after the `last` step, the best first."""
        found = []
        left = [one for one in self.history if one.step > 0]
        while (lowest := best(left)) is not None and lowest.step != last:
            found.append(lowest.step)
            left.remove(lowest)
        return found

    def _take_down(self, step: int, scores: list[SetScore]) -> None:
        baseline = self.history[0] if self.history and self.history[0].step == 0 else None
        evaluated = with_changes(
            Evaluated(step=step, epoch=self.epoch(step), time=datetime.now(UTC), sets=scores), baseline
        )
        self.reporter.evaluated(evaluated)
        self.history.append(evaluated)
        self.trackers.evaluated(evaluated)
        if self.adviser:
            self.adviser.judge(self.history)
        if self.gang.is_first:
            _log.info("%s", told(evaluated, baseline))

    def _is_over(self, step: int) -> bool:
        """Whether training ends here, before its last step."""
        why = why_to_stop(self.history, self.rule) if self.rule and step < self.timing.total_steps else None
        if why is None:
            return False
        self.stopped_early = why
        self.reporter.stopped_early(why)
        if self.gang.is_first:
            _log.info("training ends after step %d of %d: %s", step, self.timing.total_steps, why)
        return True

    def _best_step(self) -> int | None:
        found = best(self.history)
        return None if found is None else found.step


def told(evaluated: Evaluated, baseline: Evaluated | None) -> str:
    """An evaluation as a line of the log: 'step 20: validation loss 1.87 (2.31 before training), general 2.07'."""
    before = {score.name: score.loss for score in baseline.sets} if baseline and evaluated.step else {}
    words = [_words(score, before.get(score.name)) for score in evaluated.sets]
    return f"{f'step {evaluated.step}' if evaluated.step else 'before training'}: {', '.join(words)}"


def _words(score: SetScore, before: float | None) -> str:
    loss = "not finite" if score.loss is None else f"{score.loss:.4g}"
    notes = [] if before is None else [f"{before:.4g} before training"]
    if score.answered is not None:
        notes.append(f"{score.answered:.0%} of the answers match")
    return f"{score.label} {loss}" + (f" ({'; '.join(notes)})" if notes else "")
