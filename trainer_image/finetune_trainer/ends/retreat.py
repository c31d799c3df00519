"""Out of memory in a micro-batch: the step is done again with half the token budget, and nothing else changes.

A process that trains alone, without FSDP, does that where it is. Elsewhere there is no way back into the middle of a
step: the peers wait inside a collective, and FSDP has parts of the model gathered. So all leave together, with the
state after the last whole step saved, and the first process of each node starts them again with the smaller budget.
So does a process alone where steps are to be carried out in another way, for that is settled when the model is loaded.

The training threads of the peers hear nothing inside of their collective. In each process a thread of its own listens,
saves, and ends the process.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

import torch
from torch.distributed.fsdp import FSDPModule

from finetune_api.failure import CAUSES, ExitCode
from finetune_api.model import ApiModel
from finetune_api.precedents import TokenBudget
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.ends import causes
from finetune_trainer.ends.errors import TrainerError
from finetune_trainer.ends.out_of_memory import give_back, ran_out_of_memory, release
from finetune_trainer.ends.verdict import explain
from finetune_trainer.inputs import Inputs
from finetune_trainer.planning import ExactPlan, Planner
from finetune_trainer.processes import end_at_once

_log = logging.getLogger(__name__)

_CALL = "retreat"
_POLL_SECONDS = 0.5
# Less than a collective's time-out: the peers must not take each other for dead while they save.
_SAVE_SECONDS = 480


class OutOfMemoryError(TrainerError):
    """A micro-batch that cannot be smaller does not fit."""

    exit_code = ExitCode.OUT_OF_MEMORY


class SmallerBudgetError(TrainerError):
    """A micro-batch does not fit, and the step is to be done again, in this process, with a smaller token budget."""

    exit_code = ExitCode.SMALLER_BUDGET


class _Call(ApiModel):
    """What the process that ran out of memory tells all of them."""

    step: int
    """Whole steps that were done."""
    budget: TokenBudget


@dataclass(frozen=True)
class _Position:
    """What this process's weights are, from the beginning of a step until the optimizer changes them."""

    step: int
    """Whole steps that they have seen."""
    epoch: float
    metrics_bytes: int
    changed: torch.cuda.Event | None
    """On a GPU: when the last step has changed them indeed."""


class Retreat:
    """Watches over the micro-batches of one attempt. A context, in which the whole of the training is to run."""

    def __init__(
        self, gang: Gang, checkpoints: Checkpoints, state: State, planner: Planner, plan: ExactPlan
    ) -> None:
        """Every process makes it, with the plan that it trains by and the state that it changes."""
        self._gang, self._checkpoints, self._state = gang, checkpoints, state
        self._planner, self._plan = planner, plan
        self._alone = gang.world_size == 1 and not isinstance(state.model, FSDPModule)
        self._position: _Position | None = None
        self._moved = threading.Condition()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="retreat", daemon=True)

    def __enter__(self) -> "Retreat":
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self._gang.posted(_CALL) is None:
            self._closed.set()
        # Where a retreat is called, whatever else went wrong is a consequence: the watcher ends this process.
        self._watcher.join()

    @contextmanager
    def guarding(
        self, step: int, epoch: float, metrics_bytes: int, inputs: Inputs, *, what: str | None = None
    ) -> Iterator[None]:
        """Guard forward and backward pass of one micro-batch, after `step` whole steps, which are `epoch` epochs.

        It is one of the next step, unless `what` says otherwise.

        Where memory runs out, it raises SmallerBudgetError if the step can be done again in this process (see
        `recover`), OutOfMemoryError if a smaller budget would not help, and otherwise does not return. Tensors of the
        passes must be local to a function that the guarded code calls: those can be let go. All other errors pass.
        """
        self._enter(step, epoch, metrics_bytes)
        try:
            yield
            return
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            release(error)
            said = str(error).strip().partition("\n")[0]
        # Out of the handler: the exception is gone.
        lengths = inputs["sample_lengths"]
        budget = self._planner.smaller(self._plan, step + 1, lengths, said)
        if budget is None:
            raise OutOfMemoryError(self._advice(what or f"step {step + 1}", lengths, said))
        _log.warning("%s; the step is done again", budget.reason)
        if not self._alone or budget.mode != self._plan.mode:
            self._call(_Call(step=step, budget=budget))
        self._planner.settle(budget)
        raise SmallerBudgetError(budget.reason)

    def recover(self) -> ExactPlan:
        """The plan with the smaller budget, once SmallerBudgetError is no longer being handled; makes room, too."""
        self._make_room()
        self._plan = self._planner.plan()
        return self._plan

    def _enter(self, step: int, epoch: float, metrics_bytes: int) -> None:
        if self._position and self._position.step == step:
            return
        changed = None
        if self._gang.device.type == "cuda":
            # The processor is ahead of the GPU, where the optimizer may still be at work.
            changed = torch.cuda.Event()
            changed.record()
        with self._moved:
            self._position = _Position(step, epoch, metrics_bytes, changed)
            self._moved.notify_all()

    def _advice(self, when: str, lengths: Sequence[int], said: str) -> str:
        tokens = sum(lengths)
        what = (
            f"a sample of {tokens:,} tokens" if len(lengths) == 1 else f"the least budget, {tokens:,} tokens,"
        )
        found = self._planner.remedies(tokens)
        advice = CAUSES[ExitCode.OUT_OF_MEMORY].advice
        if found:
            fitting = "; or ".join(found)
            advice = f"Change spec.hyperparameters or spec.resources to what fits by the plan: {fitting}"
        return f"{when}: {what} does not fit into memory ({said:.200}). {advice}"

    def _make_room(self) -> None:
        self._state.trained.zero_grad()
        give_back()

    def _call(self, call: _Call) -> NoReturn:
        """Have all processes retreat."""
        self._make_room()
        self._gang.post(_CALL, call.model_dump_json())
        self._watcher.join()
        raise RuntimeError("the thread that was to end this process has failed; the log tells more")

    def _watch(self) -> None:
        if self._gang.device.type == "cuda":
            torch.cuda.set_device(self._gang.device)
        while not self._closed.wait(_POLL_SECONDS):
            if text := self._gang.posted(_CALL):
                self._withdraw(_Call.model_validate_json(text))

    def _withdraw(self, call: _Call) -> NoReturn:
        """Save what this process has, and end it: the training thread may never come back."""
        bound = threading.Timer(_SAVE_SECONDS, self._end, [ExitCode.SMALLER_BUDGET, call.budget.reason])
        bound.daemon = True
        bound.start()
        if self._gang.is_first:
            try:
                self._planner.settle(call.budget)
            except OSError as error:
                # Without it, all would run out of memory again.
                self._end(*explain(error))
        try:
            self._save(call.step)
        except Exception:  # noqa: BLE001 - whatever it is, there is an older state
            _log.exception("the state after step %d is not saved; an older one will do", call.step)
        self._end(ExitCode.SMALLER_BUDGET, call.budget.reason)

    def _save(self, step: int) -> None:
        with self._moved:
            # Whoever is late still finishes the step before: nobody has let it down in that one.
            self._moved.wait_for(lambda: self._position is not None and self._position.step >= step)
        position = self._position
        assert position is not None
        assert position.step == step, "no process can finish a step without the others"
        if position.changed:
            position.changed.synchronize()
        self._checkpoints.save_aside(self._state, step, position.epoch, position.metrics_bytes)

    def _end(self, exit_code: int, message: str) -> NoReturn:
        causes.leave(f"rank {self._gang.rank}", exit_code, message)
        self._gang.part()
        end_at_once(exit_code)
