"""Measurements on their way to TensorBoard, MLflow and Weights & Biases.

Every service has a thread of its own, so that one that hangs or fails holds up neither training nor the others.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.report import Metrics
from finetune_api.scores import Evaluated
from finetune_trainer.ends.errors import TerminatedError
from finetune_trainer.trackers import mlflow, tensorboard, wandb
from finetune_trainer.trackers.outbox import Outbox
from finetune_trainer.trackers.tracker import Ending, Point, Run, Tracker

# For all services together, once training is over; a pod that is to go has little time.
_CLOSE_SECONDS = 10.0


class Trackers:
    """Everyone who wants to know what a step showed."""

    def __init__(self, *trackers: Tracker) -> None:
        self.outboxes = [Outbox(tracker) for tracker in trackers]

    def log(self, metrics: Metrics) -> None:
        """Pass a step's measurements on; never waits."""
        self._put(Point(metrics.step, time.time(), scalars(metrics)))

    def evaluated(self, evaluated: Evaluated) -> None:
        """Pass an evaluation on; never waits."""
        self._put(Point(evaluated.step, evaluated.time.timestamp(), scores(evaluated), follows_step=True))

    def _put(self, point: Point) -> None:
        for outbox in self.outboxes:
            outbox.put(point)

    def close(self, ending: Ending) -> None:
        """Deliver what is left, as far as that is quickly done."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for outbox in self.outboxes:
            outbox.close(ending)
        for outbox in self.outboxes:
            outbox.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def tracking(run: Run | None) -> Iterator[Trackers]:
    """Track a run as long as the context lasts: in TensorBoard's files, and in the services that the environment names.

    None for a process that has nothing to tell.
    """
    found: list[Tracker] = []
    if run is not None:
        found.append(tensorboard.TensorBoard(run))
        if mlflow.is_wanted():
            found.append(mlflow.Mlflow(run))
        if wandb.is_wanted():
            found.append(wandb.Wandb(run))
    trackers = Trackers(*found)
    ending = Ending.FAILED
    try:
        yield trackers
        ending = Ending.FINISHED
    except TerminatedError:
        ending = Ending.STOPPED
        raise
    finally:
        trackers.close(ending)


def scalars(metrics: Metrics) -> dict[str, float]:
    """Measurements by the names under which charts show them: `train/loss`, `train/seconds/data`."""
    values: dict[str, float] = {}
    for name, value in metrics.model_dump(exclude={"step"}, exclude_none=True).items():
        parts = value.items() if isinstance(value, dict) else ((None, value),)
        values |= {
            f"train/{name}/{part}" if part else f"train/{name}": float(number) for part, number in parts
        }
    return values


def scores(evaluated: Evaluated) -> dict[str, float]:
    """Scores by the names under which charts show them: `eval/validation/loss`, `eval/general/token_accuracy`."""
    return {
        f"eval/{score.name}/{name}": float(value)
        for score in evaluated.sets
        for name, value in score.model_dump(exclude={"name", "tokens", "change"}, exclude_none=True).items()
    }
