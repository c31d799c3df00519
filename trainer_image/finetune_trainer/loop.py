"""The training loop."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from finetune_api.report import Metrics, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer.batches import Batch, Schedule
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.distributed import Gang
from finetune_trainer.errors import LossNotFiniteError, TerminatedError
from finetune_trainer.feed import Feed, Step
from finetune_trainer.model import TrainableModel, exchange_gradients
from finetune_trainer.optimization import make_optimizer, make_scheduler
from finetune_trainer.peak import peak_memory
from finetune_trainer.planning import ExactPlan, model_facts
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.reporter import Reporter
from finetune_trainer.state import State
from finetune_trainer.stopwatch import Stopwatch
from finetune_trainer.throughput import peak_flops, step_flops, utilization
from finetune_trainer.trackers import Trackers

_log = logging.getLogger(__name__)

# Weight of the newest step in the mean duration of steps.
_NEWEST = 0.1
# The log is for people: a line now and then. Every step is in the metrics file.
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class Measured:
    """What one optimizer step showed, over all processes."""

    loss: float
    grad_norm: float
    stop: bool
    """Whether some process was asked to stop."""
    peak_memory: int
    padding: int
    """Tokens computed for nothing."""


@dataclass
class Loop:
    """One attempt at a run, from the newest state to the end."""

    config: RunConfig
    plan: ExactPlan
    samples: Samples
    gang: Gang
    model: TrainableModel
    checkpoints: Checkpoints
    reporter: Reporter
    trackers: Trackers
    stop_requested: Callable[[], bool]

    def __post_init__(self) -> None:
        stated = self.config.hyperparameters
        optimizer = make_optimizer(self.model, stated, self.plan)
        self._state = State(self.model, optimizer, make_scheduler(optimizer, stated, self.plan))
        self._schedule = Schedule(len(self.samples), self.plan.effective_batch_size, stated.seed)
        self._facts = model_facts(Path(self.config.locations.model))
        on_gpu = self.gang.device.type == "cuda"
        self._peak_flops = peak_flops(torch.cuda.get_device_name(self.gang.device)) if on_gpu else None
        self._mean_seconds: float | None = None
        self._last_logged = -math.inf

    def run(self) -> None:
        """Train to the end and write the result.

        Raises TerminatedError once the state is saved, when any process was asked to stop; LossNotFiniteError.
        """
        restored = self.checkpoints.restore(self._state)
        first, last = restored.step, self.plan.total_steps
        self.reporter.rewind(first, restored.metrics_bytes)
        self.reporter.stage(Stage.TRAINING, resumed_from_step=first or None)
        with closing(self._feed(first, last)) as feed:
            stopwatch = Stopwatch(self.model, self.gang, feed)
            for step in feed:
                rate = float(self._state.scheduler.get_last_lr()[0])
                measured = self._step(step, stopwatch)
                self._report(step, rate, measured, stopwatch)
                self._keep(step.index + 1, step.batch, stop=measured.stop)
                stopwatch.start()
        self.reporter.stage(Stage.SAVING)
        self.checkpoints.save_output(self.model, last, self._epoch(last))

    def _feed(self, first: int, last: int) -> Feed:
        return Feed(
            self.samples,
            self._schedule,
            budget=self.plan.max_tokens_per_gpu,
            rank=self.gang.rank,
            world_size=self.gang.world_size,
            device=self.gang.device,
            first=first,
            last=last,
        )

    def _step(self, step: Step, stopwatch: Stopwatch) -> Measured:
        # Random numbers (dropout, in models that have it) follow from the step, so a resumed run draws the same.
        torch.manual_seed(hash((self.config.hyperparameters.seed, step.index, self.gang.rank)) & 0x7FFFFFFF)
        # The whole step's tokens, over all processes: a token counts the same wherever it lies. A step without any
        # has a loss of zero and changes nothing but what weight decay and momentum do.
        loss_tokens = max(1, step.loss_tokens)
        # FSDP takes the mean over processes, so the sum needs their number.
        scale = self.gang.world_size / loss_tokens
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.gang.device)
        for number, inputs in enumerate(step.micro_batches, start=1):
            last = number == len(step.micro_batches)
            exchange_gradients(self.model, now=last or not self.plan.accumulate_locally)
            loss: Tensor = self.model(**inputs)
            (loss * scale).backward()
            loss_sum += loss.detach()
        norm = clip_grad_norm_(self.model.parameters(), self.config.hyperparameters.max_grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self._state.optimizer.step()
        self._state.scheduler.step()
        self._state.optimizer.zero_grad()
        known = [self.stop_requested(), peak_memory(self.gang.device), step.padding]
        mine = torch.cat([loss_sum[None], loss_sum.new_tensor(known)])
        with stopwatch.communicating():
            everyone = self.gang.gather(mine)
        # The step's one wait for the device.
        *values, grad_norm = torch.cat([everyone, norm.double()[None]]).tolist()
        return Measured(
            loss=sum(values[0::4]) / loss_tokens,
            grad_norm=grad_norm,
            stop=any(values[1::4]),
            peak_memory=int(max(values[2::4])),
            padding=int(sum(values[3::4])),
        )

    def _epoch(self, steps: int) -> float:
        return self._schedule.samples_before(steps) / self._schedule.samples

    def _report(self, step: Step, rate: float, measured: Measured, stopwatch: Stopwatch) -> None:
        """Tell everyone what a step showed. Raises LossNotFiniteError."""
        seconds, parts = stopwatch.stop()
        done = step.index + 1
        if not (math.isfinite(measured.loss) and math.isfinite(measured.grad_norm)):
            raise LossNotFiniteError(
                f"the loss is {measured.loss} and the gradient norm {measured.grad_norm} in step {done}, at a "
                f"learning rate of {rate:.3g}"
            )
        metrics = Metrics(
            step=done,
            epoch=self._epoch(done),
            loss=measured.loss,
            learning_rate=rate,
            grad_norm=measured.grad_norm,
            tokens_per_second=step.tokens / seconds,
            samples=len(step.batch.samples),
            samples_seen=self._schedule.samples_before(done),
            micro_batches=len(step.micro_batches),
            padding=measured.padding / (step.tokens + measured.padding),
            seconds=parts,
            peak_memory=measured.peak_memory,
            mfu=self._utilization(step, seconds),
        )
        mean = self._mean_seconds or seconds
        self._mean_seconds = mean + _NEWEST * (seconds - mean)
        remaining = (self.plan.total_steps - done) * self._mean_seconds
        changes: dict[str, Any] = {"initial_loss": measured.loss} if done == 1 else {}
        self.reporter.update(metrics=metrics, seconds_remaining=remaining, **changes)
        self.trackers.log(metrics)
        now = time.monotonic()
        if self.gang.is_first and now - self._last_logged >= _LOG_SECONDS:
            self._last_logged = now
            _log.info(
                "step %d/%d, epoch %.2f: loss %.4f, learning rate %.3g, gradient norm %.3g, %.0f tokens/s",
                done,
                self.plan.total_steps,
                metrics.epoch,
                measured.loss,
                rate,
                measured.grad_norm,
                metrics.tokens_per_second,
            )

    def _utilization(self, step: Step, seconds: float) -> float | None:
        if self._peak_flops is None or self._facts is None:
            return None
        lengths = self.samples.lengths[step.batch.samples]
        flops = step_flops(self._facts.architecture, lengths, step.loss_tokens)
        return utilization(flops, seconds, self.gang.world_size, self._peak_flops)

    def _keep(self, step: int, batch: Batch, *, stop: bool) -> None:
        """Save what is due after so many steps, and go if that was asked for."""
        epoch = self._epoch(step)
        is_last = step == self.plan.total_steps
        if batch.ends_epoch and self.config.checkpoints.every_epoch:
            self.reporter.stage(Stage.SAVING)
            self.reporter.checkpoint(self.checkpoints.save_weights(self.model, step, epoch))
        # The result takes the place of the last state.
        if is_last or not (batch.ends_epoch or stop):
            return
        self.reporter.stage(Stage.SAVING)
        self.checkpoints.begin(self._state, step, epoch, self.reporter.position)
        if saved := self.checkpoints.finish():
            self.reporter.checkpoint(saved)
        if stop:
            self.gang.meet()
            raise TerminatedError(f"asked to stop; the state after step {step} is saved")
        self.reporter.stage(Stage.TRAINING)
