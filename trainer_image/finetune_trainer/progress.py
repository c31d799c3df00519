"""What everyone is told of each step: the Report, the trackers, the adviser, and the log now and then."""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from finetune_api.architecture import Architecture
from finetune_api.report import Metrics, StepSeconds
from finetune_trainer.adviser import Adviser
from finetune_trainer.batches import Schedule
from finetune_trainer.feed import Step
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.step import Measured
from finetune_trainer.throughput import step_flops, utilization
from finetune_trainer.trackers import Trackers

_log = logging.getLogger(__name__)

# Weight of the newest step in the mean duration of steps.
_NEWEST = 0.1
# The log is for people: a line now and then. Every step is in the metrics file.
_LOG_SECONDS = 5.0
# Rounding in fp32 makes leaks of up to some 1e-6.
_LARGEST_LEAK = 1e-4


@dataclass(frozen=True)
class Hardware:
    """What steps are computed on, as far as utilization can be told of it."""

    gpus: int
    """Of all processes."""
    peak_flops: float
    """Of each of them."""
    architecture: Architecture


@dataclass
class Progress:
    """Tells what each step showed."""

    samples: Samples
    schedule: Schedule
    total_steps: int
    hardware: Hardware | None
    """None without GPUs, and for GPUs and models that are not known."""
    reporter: Reporter
    trackers: Trackers
    adviser: Adviser | None
    """Hears of each step; None in all processes but one."""
    speaks: bool
    """Whether this process writes the log's lines: one of all does."""
    _mean_seconds: float | None = None
    _told: int = 0
    _saving_seconds: float = 0.0
    _last_logged: float = -math.inf
    _warned: bool = False

    def epoch(self, steps: int) -> float:
        """The epochs that so many steps are, with their fraction."""
        return self.schedule.samples_before(steps) / self.schedule.samples

    def tell(
        self, step: Step, measured: Measured, seconds: float, parts: StepSeconds, *, evaluating: float = 0.0
    ) -> None:
        """Tell what a step showed, that took so many seconds; evaluations to come take `evaluating` more."""
        done = step.index + 1
        metrics = Metrics(
            step=done,
            epoch=self.epoch(done),
            loss=measured.loss,
            learning_rate=measured.learning_rate,
            grad_norm=measured.grad_norm,
            tokens_per_second=step.tokens / seconds,
            samples=len(step.batch.samples),
            samples_seen=self.schedule.samples_before(done),
            micro_batches=len(step.micro_batches),
            padding=measured.padding / (step.tokens + measured.padding),
            seconds=parts,
            peak_memory=measured.peak_memory,
            mfu=self._utilization(step, seconds),
            subspace_leak=measured.leak,
        )
        remaining = (self.total_steps - done) * self._seconds_per_step(seconds, parts) + evaluating
        changes: dict[str, Any] = {"initial_loss": measured.loss} if done == 1 else {}
        self.reporter.update(metrics=metrics, seconds_remaining=remaining, **changes)
        self.trackers.log(metrics)
        if self.adviser:
            self.adviser.hear(metrics)
        self._log(metrics)
        warning = leak_warning(measured.leak)
        if warning and self.speaks and not self._warned:
            self._warned = True
            _log.warning("step %d: %s", done, warning)

    def _seconds_per_step(self, seconds: float, parts: StepSeconds) -> float:
        """What a step takes, with its share of what saving takes.

        That is spread over all steps so far: few wait for it, and each of these for as long as many steps take.
        """
        mean = self._mean_seconds or seconds
        self._mean_seconds = mean + _NEWEST * (seconds - mean)
        self._told += 1
        self._saving_seconds += parts.checkpoint or 0.0
        return self._mean_seconds + self._saving_seconds / self._told

    def _log(self, metrics: Metrics) -> None:
        now = time.monotonic()
        if not self.speaks or now - self._last_logged < _LOG_SECONDS:
            return
        self._last_logged = now
        _log.info(
            "step %d/%d, epoch %.2f: loss %.4f, learning rate %.3g, gradient norm %.3g, %.0f tokens/s",
            metrics.step,
            self.total_steps,
            metrics.epoch,
            metrics.loss,
            metrics.learning_rate,
            metrics.grad_norm,
            metrics.tokens_per_second,
        )

    def _utilization(self, step: Step, seconds: float) -> float | None:
        if self.hardware is None:
            return None
        lengths = self.samples.lengths[step.batch.samples]
        flops = step_flops(self.hardware.architecture, lengths, step.loss_tokens)
        return utilization(flops, seconds, self.hardware.gpus, self.hardware.peak_flops)


def leak_warning(leak: float | None) -> str | None:
    """What there is to say of a leak that is more than rounding makes; None of one that was not measured."""
    if leak is None or leak <= _LARGEST_LEAK:
        return None
    return (
        f"what osft trains reaches by {leak:.1e} into what it froze, where rounding makes some 1e-6: trained "
        "directions have grown out of all proportion, and the model may forget. A lower learning rate keeps them in "
        "bounds"
    )
