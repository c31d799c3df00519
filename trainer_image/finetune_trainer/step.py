"""One optimizer step of one process: whatever can fail it is known to all processes before a weight changes."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.report import MAX_DETAILS
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Ballot, Gang
from finetune_trainer.ends.errors import LossNotFiniteError
from finetune_trainer.feed import Step
from finetune_trainer.inputs import Inputs
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import exchange_gradients
from finetune_trainer.optimization import clip
from finetune_trainer.peak import peak_memory
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.stopwatch import Stopwatch

Guard = Callable[[Inputs], AbstractContextManager[None]]

# So many rows stand in the message itself.
_NAMED = 8
# Steps from one measurement of the leak to the next: it takes about a tenth of what osft does in each step.
_LEAK_EVERY = 10


@dataclass(frozen=True)
class Measured:
    """What one optimizer step showed, over all processes."""

    loss: float
    grad_norm: float
    learning_rate: float
    peak_memory: int
    padding: int
    """Tokens computed for nothing."""
    stop: bool
    """Whether some process was asked to stop."""
    overdue: bool
    """Whether rank 0 found that a new state for restarts is due by time."""
    leak: float | None = None
    """How far trained weights reached into frozen ones before the step; None where that was not measured."""


@dataclass(frozen=True)
class Stepper:
    """Makes optimizer steps, together with the other processes of the gang."""

    gang: Gang
    state: State
    samples: Samples
    stated: Hyperparameters
    accumulate_locally: bool
    ballot: Ballot
    stop_requested: Callable[[], bool]
    overdue: Callable[[], bool]
    tick: Callable[[], None]

    def make(self, step: Step, stopwatch: Stopwatch, guarding: Guard) -> Measured | None:
        """Make a step; forward and backward pass of each micro-batch happen inside of `guarding`.

        None, with nothing changed, when some process was asked to stop meanwhile. Raises LossNotFiniteError, with
        nothing changed, on all processes.
        """
        # Random numbers (dropout, in models that have it) follow from the step, so a resumed run draws the same.
        torch.manual_seed(hash((self.stated.seed, step.index, self.gang.rank)) & 0x7FFFFFFF)
        # The whole step's tokens, over all processes: a token counts the same wherever it lies. A step without any
        # has a loss of zero and changes nothing but what weight decay and momentum do.
        loss_tokens = max(1, step.loss_tokens)
        # FSDP takes the mean over processes, so the sum needs their number.
        scale = self.gang.world_size / loss_tokens
        count = len(step.micro_batches)
        losses = torch.zeros(count, dtype=torch.float64, device=self.gang.device)
        for number, inputs in enumerate(step.micro_batches):
            if number and self._asked_to_stop(stopwatch):
                self.state.trained.zero_grad()
                return None
            exchange_gradients(self.state.model, now=number == count - 1 or not self.accumulate_locally)
            with guarding(inputs):
                losses[number] = self._forward_backward(inputs, scale)
            self.tick()
        trained = self.state.trained
        trained.pull_back(stopwatch.communicating)
        leak = trained.leak() if step.index % _LEAK_EVERY == 0 else None
        known = [peak_memory(self.gang.devices), step.padding, self.stop_requested(), self.overdue()]
        measured_here = [
            losses.sum(),
            *_square_norms(trained),
            losses.new_tensor(-1.0) if leak is None else leak,
        ]
        mine = torch.cat([torch.stack([each.to(losses) for each in measured_here]), losses.new_tensor(known)])
        with stopwatch.communicating():
            everyone = self.gang.gather(mine)
        # The step's one wait for the device.
        by_process = everyone.view(self.gang.world_size, -1).tolist()
        loss_sums, shared, own, leaks, peaks, paddings, stops, overdues = zip(*by_process, strict=True)
        measured = Measured(
            loss=sum(loss_sums) / loss_tokens,
            # The same on every process for what all have in common.
            grad_norm=math.sqrt(shared[0] + sum(own)),
            learning_rate=float(self.state.scheduler.get_last_lr()[0]),
            peak_memory=int(max(peaks)),
            padding=int(sum(paddings)),
            stop=any(stops),
            overdue=bool(overdues[0]),
            leak=None if leak is None else max(leaks),
        )
        if not all(map(math.isfinite, (*loss_sums, measured.grad_norm))):
            raise self._not_finite(step, measured, losses)
        for weights in trained.groups:
            clip(weights, measured.grad_norm, self.stated.max_grad_norm)
        self.state.optimizer.step()
        self.state.scheduler.step()
        trained.zero_grad()
        trained.constrain()
        trained.push_forward(stopwatch.communicating)
        return measured

    def _asked_to_stop(self, stopwatch: Stopwatch) -> bool:
        # One that is much faster than the others waits here, and not only where gradients are exchanged.
        with stopwatch.communicating():
            return self.ballot.ask(self.stop_requested())

    def _forward_backward(self, inputs: Inputs, scale: float) -> Tensor:
        # A function of its own: where memory runs out in it, its tensors can be let go.
        loss: Tensor = self.state.model(**inputs)
        (loss * scale).backward()
        return loss.detach()

    def _not_finite(self, step: Step, measured: Measured, losses: Tensor) -> LossNotFiniteError:
        """The error, with the samples of the batch, those of micro-batches without a finite loss first."""
        mine = [
            int(sample)
            for members, loss in zip(step.members, losses.tolist(), strict=True)
            if not math.isfinite(loss)
            for sample in members
        ]
        suspects = [sample for theirs in self.gang.collect(mine) for sample in theirs]
        others = sorted({int(sample) for sample in step.batch.samples} - set(suspects))
        # People count rows from 1.
        rows = [self.samples.number(sample) + 1 for sample in (*suspects, *others)]
        count = len(suspects)
        details = [f"row {row}: the loss of its micro-batch is not finite" for row in rows[:count]]
        details += [f"row {row}: in the same batch" for row in rows[count:]]
        named = rows[:count] if suspects else rows
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return LossNotFiniteError(
            f"the loss is {measured.loss} and the gradient norm {measured.grad_norm} in step {step.index + 1}, at a "
            f"learning rate of {measured.learning_rate:.3g}; {'it came of' if suspects else 'the batch was'} rows "
            f"{', '.join(map(str, named[:_NAMED]))}{more} of the training data",
            details[:MAX_DETAILS],
        )


def _square_norms(trained: Parametrization) -> list[Tensor]:
    """Squares of the norm of the gradients of weights that all processes have in common, and of this process's own."""
    norms = []
    for weights in (trained.shared, trained.own):
        norm = get_total_norm(weight.grad for weight in weights.values() if weight.grad is not None)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return [norm.double().square() for norm in norms]
