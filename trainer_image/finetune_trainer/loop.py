"""The training loop."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from finetune_api.report import Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer.adviser import Adviser
from finetune_trainer.batches import Schedule
from finetune_trainer.checkpoints.cadence import Cadence
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.safekeeping import Safekeeping
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Ballot, Gang
from finetune_trainer.ends.errors import TerminatedError
from finetune_trainer.ends.retreat import Retreat, SmallerBudgetError
from finetune_trainer.ends.stopping import StopRequest
from finetune_trainer.evaluating.evaluator import Evaluator
from finetune_trainer.feed import Feed
from finetune_trainer.judging.judge import Judge, Outlook
from finetune_trainer.judging.timing import Timing
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.optimization import make_optimizer, make_scheduler
from finetune_trainer.planning import ExactPlan, Planner, model_facts
from finetune_trainer.prepare.data_sets import PreparedData
from finetune_trainer.progress import Hardware, Progress
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.step import Guard, Stepper
from finetune_trainer.stopwatch import Stopwatch
from finetune_trainer.throughput import peak_flops
from finetune_trainer.trackers import Trackers


@dataclass
class Loop:
    """One attempt at a run, from the newest state to the end."""

    config: RunConfig
    attempt: int
    plan: ExactPlan
    planner: Planner
    data: PreparedData
    context_length: int
    """Of the model, in tokens."""
    gang: Gang
    trained: Parametrization
    checkpoints: Checkpoints
    reporter: Reporter
    trackers: Trackers
    stop: StopRequest

    def __post_init__(self) -> None:
        stated = self.config.hyperparameters
        optimizer = make_optimizer(self.trained, stated, self.plan)
        self._state = State(self.trained, optimizer, make_scheduler(optimizer, stated, self.plan))
        self._samples = self.data.train.samples
        self._schedule = Schedule(len(self._samples), self.plan.effective_batch_size, stated.seed)
        self._adviser = Adviser(self.config.recipe, self.plan, self.reporter) if self.gang.is_first else None
        self._progress = Progress(
            self._samples,
            self._schedule,
            self.plan.total_steps,
            self._hardware(),
            self.reporter,
            self.trackers,
            self._adviser,
            speaks=self.gang.is_first,
        )
        self._ballot = Ballot(self.gang)
        self._judge = Judge(
            Timing(self.config.evaluation, self.plan.steps_per_epoch, self.plan.total_steps),
            self.config.evaluation.early_stopping,
            self.config.checkpoints.keep_best,
            self._evaluator(),
            self.gang,
            self.reporter,
            self.trackers,
            self._adviser,
            self._progress.epoch,
        )
        self._retreat = Retreat(self.gang, self.checkpoints, self._state, self.planner, self.plan)
        self._done = 0

    def run(self) -> None:
        """Train to the end, which evaluations may bring forward, and write the result.

        Raises TerminatedError when some process of the gang was asked to stop; LossNotFiniteError.
        """
        self._restore()
        safekeeping = self._safekeeping()
        safekeeping.make_up()
        # From here on there is something to save before this process goes.
        self.stop.defer()
        with self._retreat:
            if not self._train(safekeeping):
                self._leave(safekeeping)
        safekeeping.result(
            self._done,
            better=self._judge.ranked(self._done) if self.config.checkpoints.deliver_best else (),
            stopped_early=self._judge.stopped_early,
        )

    def _restore(self) -> None:
        restored = self.checkpoints.restore(self._state)
        self._done = restored.step
        self.reporter.rewind(restored.step, restored.metrics_bytes)
        # A later attempt that found no state begins anew, and says so.
        resumed = restored.step if restored.step or self.attempt > 1 else None
        self.reporter.stage(Stage.TRAINING, resumed_from_step=resumed)
        if self._adviser:
            self._adviser.recall(self.reporter.steps(), self.reporter.evaluations())
        self._judge.recall()

    def _train(self, safekeeping: Safekeeping) -> bool:
        """Whether training came to its end; False when some process was asked to stop."""
        while True:
            try:
                return self._make_steps(safekeeping)
            except SmallerBudgetError:
                # Nothing else in here: until it is handled, it keeps the tensors of the step.
                pass
            self.plan = self._retreat.recover()
            if self._adviser:
                self.plan = self._adviser.advised(self.plan)
            self.reporter.update(urgent=True, plan=self.plan)

    def _make_steps(self, safekeeping: Safekeeping) -> bool:
        # The baseline, or what the attempt before did not get to.
        outlook = self._evaluate(safekeeping)
        if outlook is not Outlook.ON:
            return outlook is Outlook.OVER
        stepper = self._stepper(safekeeping)
        with closing(self._feed()) as feed:
            stopwatch = Stopwatch(self.trained.model, self.gang, feed)
            stalled = self.checkpoints.stalled
            for step in feed:
                measured = stepper.make(step, stopwatch, self._guarding())
                if measured is None:
                    return False
                self._done += 1
                seconds, parts = stopwatch.stop()
                held_up = self.checkpoints.stalled - stalled
                stalled += held_up
                self._progress.tell(
                    step,
                    measured,
                    seconds,
                    parts.model_copy(update={"checkpoint": held_up}),
                    evaluating=self._judge.seconds_left(self._done - 1),
                )
                if measured.stop and self._done < self.plan.total_steps:
                    return False
                # First: the state is written while the model is evaluated.
                safekeeping.after(self._done, overdue=measured.overdue)
                outlook = self._evaluate(safekeeping)
                if outlook is not Outlook.ON:
                    return outlook is Outlook.OVER
                stopwatch.start()
        return True

    def _evaluate(self, safekeeping: Safekeeping) -> Outlook:
        what = f"the evaluation after step {self._done}" if self._done else "the evaluation before training"
        guarding = self._guarding(what=what)
        return self._judge.after(self._done, self.plan.max_tokens_per_gpu, guarding, safekeeping)

    def _guarding(self, what: str | None = None) -> Guard:
        position = self._progress.epoch(self._done), self.reporter.position
        return partial(self._retreat.guarding, self._done, *position, what=what)

    def _leave(self, safekeeping: Safekeeping) -> NoReturn:
        outcome = safekeeping.before_leaving(
            self._done, self.stop.seconds_left(self.config.grace_period_seconds)
        )
        # Together: whoever goes first is a loss to the others.
        self.gang.meet()
        raise TerminatedError(f"asked to stop; {outcome}")

    def _safekeeping(self) -> Safekeeping:
        plan = self.plan
        return Safekeeping(
            Cadence(self.config.checkpoints, plan.steps_per_epoch, plan.total_steps),
            self.checkpoints,
            self._state,
            self.gang,
            self.reporter,
            self._progress.epoch,
            newest=self._done,
        )

    def _stepper(self, safekeeping: Safekeeping) -> Stepper:
        return Stepper(
            self.gang,
            self._state,
            self._samples,
            self.config.hyperparameters,
            self.plan.accumulate_locally,
            self._ballot,
            stop_requested=lambda: self.stop.requested,
            overdue=safekeeping.overdue,
            tick=self.reporter.tick,
        )

    def _evaluator(self) -> Evaluator | None:
        if not self.data.evaluated:
            return None
        return Evaluator.of(
            self.config,
            self.gang,
            self.trained.model,
            self.data.evaluated,
            context_length=self.context_length,
            tick=self.reporter.tick,
            asked_to_stop=lambda: self._ballot.ask(self.stop.requested),
        )

    def _feed(self) -> Feed:
        return Feed(
            self._samples,
            self._schedule,
            budget=self.plan.max_tokens_per_gpu,
            rank=self.gang.rank,
            world_size=self.gang.world_size,
            device=self.gang.device,
            first=self._done,
            last=self.plan.total_steps,
        )

    def _hardware(self) -> Hardware | None:
        facts = model_facts(Path(self.config.locations.model))
        if facts is None or self.gang.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(self.gang.device))
        gpus = self.gang.world_size * len(self.gang.devices)
        return Hardware(gpus, peak, facts.architecture) if peak else None
