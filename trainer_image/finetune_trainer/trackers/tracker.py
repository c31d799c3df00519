"""What a run tells the services that track it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_api.status import Plan
from finetune_trainer.storage import Storage

Parameter = str | int | float | bool


class Ending(Enum):
    """How an attempt ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """It was asked to, and will go on."""
    FAILED = "failed"


@dataclass(frozen=True)
class Point:
    """Measurements of one step, or of an evaluation after it."""

    step: int
    time: float
    """Seconds since 1970."""
    values: Mapping[str, float]
    follows_step: bool = False
    """Whether the step itself was measured before: it does not come again."""

    @property
    def first_step(self) -> int:
        """The first step that is yet to be measured where this is the first point to come."""
        return self.step + self.follows_step


@dataclass(frozen=True)
class Run:
    """Who is tracked. Every attempt at a job is the same run."""

    name: str
    """For people: namespace/name."""
    uid: str
    attempt: int
    storage: Path
    """The job's own directory."""
    parameters: Mapping[str, Parameter]
    """What was decided before training: `hyperparameters.learningRate`, `plan.totalSteps`."""

    @classmethod
    def of(cls, config: RunConfig, plan: Plan, storage: Storage, attempt: int) -> "Run":
        """The run of a RunConfig."""
        facts = {
            "method": config.method,
            "model": str(config.model),
            "data": str(config.dataset.train),
            "hyperparameters": config.hyperparameters.to_wire(),
            config.method: getattr(config, config.method, None) and getattr(config, config.method).to_wire(),
            "plan": plan.to_wire(),
        }
        return cls(
            name=f"{config.namespace}/{config.name}",
            uid=config.uid,
            attempt=attempt,
            storage=storage.root,
            parameters=dict(_flat(facts)),
        )

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard finds the run."""
        return self.storage / names.TENSORBOARD_DIR


class Tracker(Protocol):
    """A service. Its methods are called in one thread, may take as long as they like, and may raise anything."""

    name: str
    """For people."""

    def begin(self, first_step: int) -> None:
        """Start the run, or go on with it: whatever it has from `first_step` on is about to come again.

        Called again after it raised.
        """

    def log(self, points: Sequence[Point]) -> None:
        """Take measurements, in the order of their steps. Called again with the same ones after it raised."""

    def end(self, ending: Ending) -> None:
        """Nothing more will come."""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Nested values under dotted names; lists, which are there for people, are left out."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Parameter):
            yield f"{prefix}{name}", value
