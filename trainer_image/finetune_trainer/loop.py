"""The training loop."""

import logging
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from finetune_api.report import Metrics, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer.batches import Batch, Schedule
from finetune_trainer.checkpoint import Checkpoints, State
from finetune_trainer.distributed import Gang
from finetune_trainer.errors import LossNotFiniteError, TerminatedError
from finetune_trainer.inputs import assemble
from finetune_trainer.model import TrainableModel, exchange_gradients
from finetune_trainer.optimization import make_optimizer, make_scheduler
from finetune_trainer.packing import pack
from finetune_trainer.planning import ExactPlan
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.reporter import Reporter

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
    stop_requested: Callable[[], bool]

    def __post_init__(self) -> None:
        stated = self.config.hyperparameters
        optimizer = make_optimizer(self.model, stated, self.plan)
        self._state = State(self.model, optimizer, make_scheduler(optimizer, stated, self.plan))
        self._schedule = Schedule(len(self.samples), self.plan.effective_batch_size, stated.seed)
        self._last_logged = -math.inf

    def run(self) -> None:
        """Train to the end and write the result.

        Raises TerminatedError once the state is saved, when any process was asked to stop; LossNotFiniteError.
        """
        step = self.checkpoints.restore(self._state)
        self.reporter.stage(Stage.TRAINING, resumed_from_step=step or None)
        mean_duration: float | None = None
        while step < self.plan.total_steps:
            began = time.perf_counter()
            batch = self._schedule.batch(step)
            rate = float(self._state.scheduler.get_last_lr()[0])
            measured = self._step(step, batch)
            step += 1
            if not (math.isfinite(measured.loss) and math.isfinite(measured.grad_norm)):
                raise LossNotFiniteError(
                    f"the loss is {measured.loss} and the gradient norm {measured.grad_norm} in step {step}, at a "
                    f"learning rate of {rate:.3g}"
                )
            duration = time.perf_counter() - began
            mean_duration = (
                duration if mean_duration is None else mean_duration + _NEWEST * (duration - mean_duration)
            )
            self._report(step, batch, rate, measured, duration, mean_duration)
            self._keep(step, batch, stop=measured.stop)
        self.reporter.stage(Stage.SAVING)
        self.checkpoints.save_output(self.model, step, self._epoch(step))

    def _step(self, step: int, batch: Batch) -> Measured:
        # Random numbers (dropout, in models that have it) follow from the step, so a resumed run draws the same.
        torch.manual_seed(hash((self.config.hyperparameters.seed, step, self.gang.rank)) & 0x7FFFFFFF)
        device = self.gang.device
        micro_batches = pack(
            batch.samples,
            self.samples.lengths,
            budget=self.plan.max_tokens_per_gpu,
            world_size=self.gang.world_size,
        )[self.gang.rank]
        # The whole step's tokens, over all processes: a token counts the same wherever it lies. FSDP takes the
        # mean over processes, so the sum needs their number.
        loss_tokens = int(self.samples.loss_tokens[batch.samples].sum())
        scale = self.gang.world_size / loss_tokens
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        for index, members in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            exchange_gradients(self.model, now=last or not self.plan.accumulate_locally)
            loss: Tensor = self.model(**assemble(self.samples, members, device))
            (loss * scale).backward()
            loss_sum += loss.detach()
        norm = clip_grad_norm_(self.model.parameters(), self.config.hyperparameters.max_grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self._state.optimizer.step()
        self._state.scheduler.step()
        self._state.optimizer.zero_grad()
        mine = torch.stack(
            [loss_sum, loss_sum.new_tensor(self.stop_requested()), loss_sum.new_tensor(_peak_memory(device))]
        )
        # The step's one wait for the device.
        *values, grad_norm = torch.cat([self.gang.gather(mine), norm.double()[None]]).tolist()
        return Measured(
            loss=sum(values[0::3]) / loss_tokens,
            grad_norm=grad_norm,
            stop=any(values[1::3]),
            peak_memory=int(max(values[2::3])),
        )

    def _epoch(self, step: int) -> float:
        return self._schedule.samples_before(step) / self._schedule.samples

    def _report(
        self, step: int, batch: Batch, rate: float, measured: Measured, duration: float, mean_duration: float
    ) -> None:
        metrics = Metrics(
            step=step,
            epoch=self._epoch(step),
            loss=measured.loss,
            learning_rate=rate,
            grad_norm=measured.grad_norm,
            tokens_per_second=int(self.samples.lengths[batch.samples].sum()) / duration,
            samples_seen=self._schedule.samples_before(step),
            peak_memory=measured.peak_memory,
        )
        changes: dict[str, Any] = {"initial_loss": measured.loss} if step == 1 else {}
        remaining = (self.plan.total_steps - step) * mean_duration
        self.reporter.update(metrics=metrics, seconds_remaining=remaining, **changes)
        now = time.monotonic()
        if self.gang.is_first and now - self._last_logged >= _LOG_SECONDS:
            self._last_logged = now
            _log.info(
                "step %d/%d, epoch %.2f: loss %.4f, learning rate %.3g, gradient norm %.3g, %.0f tokens/s",
                step,
                self.plan.total_steps,
                metrics.epoch,
                measured.loss,
                rate,
                measured.grad_norm,
                metrics.tokens_per_second,
            )

    def _keep(self, step: int, batch: Batch, *, stop: bool) -> None:
        """Save what is due after a step, and go if that was asked for."""
        epoch = self._epoch(step)
        is_last = step == self.plan.total_steps
        if batch.ends_epoch and self.config.checkpoints.every_epoch:
            self.reporter.stage(Stage.SAVING)
            self.reporter.checkpoint(self.checkpoints.save_weights(self.model, step, epoch))
        # The result takes the place of the last state.
        if is_last or not (batch.ends_epoch or stop):
            return
        self.reporter.stage(Stage.SAVING)
        self.reporter.checkpoint(self.checkpoints.save_resume(self._state, step, epoch))
        if stop:
            self.gang.meet()
            raise TerminatedError(f"asked to stop; the state after step {step} is saved")
        self.reporter.stage(Stage.TRAINING)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
