"""Pure: the checkpoints of a run, what each of them is good for, and the result."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.model import ApiModel
from finetune_api.status import Checkpoint, FineTuneJobStatus, newest_state
from finetune_api.units import size
from finetune_operator.cli.columns import aligned
from finetune_operator.status.progress import duration

_HEAD = ("STEP", "EPOCH", "KIND", "SIZE", "AGE", "VALIDATION", "NOTE", "PATH")
_NEXT, _BEST, _RESULT = "restart goes on here", "best", "result"
# Of several of one step, the one that a restart tries first comes last.
_ORDER = {"weights": 0, "fullState": 1, "resume": 2}


class Result(ApiModel):
    """The model, or adapter, that is the output."""

    step: int | None = None
    """Optimizer steps that it holds, where that is known."""
    epoch: float | None = None
    format: str
    path: str
    bytes: int
    time: datetime | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class Shelf:
    """All of it, by step."""

    checkpoints: tuple[Checkpoint, ...]
    results: tuple[Result, ...] = ()
    """The output, and with lora.mergeAdapter the merged model."""
    is_over: bool = False
    """No attempt follows."""

    @property
    def next(self) -> Checkpoint | None:
        """The one that another attempt would go on from, if it is intact."""
        if self.is_over or not (step := newest_state(self.checkpoints)):
            return None
        states = (found for found in self.checkpoints if found.step == step and found.kind != "weights")
        return max(states, key=lambda found: _ORDER[found.kind])

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "checkpoints": [
                found.to_wire() | ({"next": True} if found == self.next else {}) for found in self.checkpoints
            ],
            "results": [result.to_wire() for result in self.results],
        }

    def table(self, now: datetime) -> list[str]:
        """For people."""
        rows = [_row(found, now, is_next=found == self.next) for found in self.checkpoints]
        rows += [_result_row(result, now) for result in self.results]
        return aligned(_HEAD, rows)


def of_status(status: FineTuneJobStatus) -> Shelf:
    """What a job's status lists: of very many checkpoints the newest."""
    results = []
    if (output := status.output) is not None:
        final = status.evaluation.final if status.evaluation else None
        step = final.step if final else status.progress.step if status.progress else None
        loss = final.validation_loss if final else None
        told = {"step": step, "time": status.completion_time}
        results = [
            Result(format=output.format, path=output.path, bytes=output.bytes, validation_loss=loss, **told)
        ]
        if (merged := output.merged) is not None:
            results.append(Result(format="model", path=merged.path, bytes=merged.bytes, **told))
    is_over = status.phase is not None and status.phase.is_terminal
    return Shelf(_by_step(status.checkpoints), tuple(results), is_over or bool(results))


def shelf(found: Iterable[Checkpoint], results: Sequence[Result]) -> Shelf:
    """What lies in a run's directory. With a result there, states for restarts are of no more use."""
    return Shelf(_by_step(found), tuple(results), is_over=bool(results))


def _by_step(found: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    return tuple(sorted(found, key=lambda one: (one.step, _ORDER[one.kind])))


def _row(found: Checkpoint, now: datetime, *, is_next: bool) -> tuple[str, ...]:
    notes = ([_BEST] if found.best else []) + ([_NEXT] if is_next else [])
    return (
        str(found.step),
        _epoch(found.epoch),
        found.kind,
        size(found.bytes),
        duration((now - found.time).total_seconds()),
        _loss(found.validation_loss),
        ", ".join(notes),
        found.path,
    )


def _result_row(result: Result, now: datetime) -> tuple[str, ...]:
    return (
        "" if result.step is None else str(result.step),
        _epoch(result.epoch),
        result.format,
        size(result.bytes),
        "" if result.time is None else duration((now - result.time).total_seconds()),
        _loss(result.validation_loss),
        _RESULT,
        result.path,
    )


def _epoch(epoch: float | None) -> str:
    return "" if epoch is None else f"{epoch:.2f}"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4g}"
