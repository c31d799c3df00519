"""All that is told of a result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api.inputs import Input
from finetune_api.report import Report, StepRecord
from finetune_api.runconfig import RunConfig
from finetune_api.scores import Evaluated
from finetune_api.status import DatasetStatus, Plan
from finetune_trainer.adapters.identity import Named, named
from finetune_trainer.card.environment import Environment

Kind = Literal["model", "adapter", "merged"]


@dataclass(frozen=True)
class Story:
    """How a result was made."""

    config: RunConfig
    kind: Kind
    """What it is; merged: a model that an adapter was merged into."""
    step: int
    """Optimizer steps after which its weights were taken."""
    report: Report
    """What was told of the run until now."""
    inputs: Sequence[Input]
    steps: Sequence[StepRecord]
    history: Sequence[Evaluated]
    environment: Environment | None
    """None where it is not known."""

    @property
    def plan(self) -> Plan:
        """What was trained, in numbers."""
        assert self.report.plan is not None, "a run with a result has a plan"
        return self.report.plan

    @property
    def dataset(self) -> DatasetStatus:
        """What was trained on."""
        assert self.report.dataset is not None, "a run with a result has data"
        return self.report.dataset

    @property
    def base(self) -> Named:
        """What programs find the base model by."""
        return named(Path(self.config.locations.model))

    @property
    def baseline(self) -> Evaluated | None:
        """The evaluation of the base model."""
        return self._evaluated(0)

    @property
    def final(self) -> Evaluated | None:
        """That of the result."""
        return self._evaluated(self.step)

    def _evaluated(self, step: int) -> Evaluated | None:
        return next((one for one in self.history if one.step == step), None)
