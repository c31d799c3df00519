"""What is found in rows while they are read, and whether anything can be made of them."""

import logging
from dataclasses import dataclass, field

import numpy as np

from finetune_api.report import MAX_DETAILS
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.arrow import Ids
from finetune_trainer.prepare.contents import Contents
from finetune_trainer.prepare.faults import Fault
from finetune_trainer.prepare.kept import Findings, HeldBack
from finetune_trainer.prepare.questions import Question
from finetune_trainer.prepare.task import Task

_log = logging.getLogger(__name__)

# Of all faults, those that stand in the message; the details have more.
_FAULTS_IN_MESSAGE = 3


@dataclass
class Counts:
    """What was found so far."""

    task: Task
    rows: int = 0
    samples: int = 0
    empty: int = 0
    faults: int = 0
    shown: list[Fault] = field(default_factory=list)
    """The first of the faults."""
    overlong: list[Ids] = field(default_factory=list)
    """Tokens of every sample that has too many, in parts."""
    contents: list[Contents] = field(default_factory=list)
    """Of samples, or of documents, in parts."""
    questions: list[Question] = field(default_factory=list)
    held_back: HeldBack | None = None

    def add_rows(self, rows: int, faults: list[Fault], contents: Contents) -> None:
        """Count rows, and what they came to."""
        self.rows += rows
        self.faults += len(faults)
        self.shown += faults[: MAX_DETAILS - len(self.shown)]
        self.contents.append(contents)

    def add_questions(self, questions: list[Question]) -> None:
        """Keep those questions that are to be answered: the first ones."""
        if self.task.generate is not None:
            self.questions += questions[: self.task.generate.max_samples - len(self.questions)]

    @property
    def unusable(self) -> bool:
        """Whether nothing comes of the data, for they have rows that are wrong and may not be left out."""
        return bool(self.faults) and not self.task.drop_invalid

    @property
    def findings(self) -> Findings:
        """What is kept beside the samples."""
        return Findings(
            np.concatenate([np.empty(0, np.uint64), *self.contents]),
            self._overlong,
            self.questions,
            self.held_back,
        )

    @property
    def _overlong(self) -> Ids:
        return np.concatenate([np.empty(0, np.int32), *self.overlong])

    def check(self) -> None:
        """Log what is wrong with rows. Raises InvalidDataError where rows may not be left out, or nothing is left."""
        details = [str(fault) for fault in self.shown]
        if details:
            level = logging.WARNING if self.task.drop_invalid else logging.ERROR
            for detail in details:
                _log.log(level, "%s", detail)
            if self.faults > len(details):
                more = self.faults - len(details)
                _log.log(level, "and %d more rows that cannot be %s on", more, self.task.verb)
        if self.unusable:
            raise InvalidDataError(self._summary(details), details)
        if self.samples:
            return
        overlong = self._overlong
        if len(overlong):
            raise InvalidDataError(
                f"{self.task.origin}: all {len(overlong)} samples are longer than {self.task.limit} tokens, the "
                f"longest has {overlong.max()}: raise spec.hyperparameters.maxSeqLen"
            )
        if self.faults:
            raise InvalidDataError(f"{self._summary(details)}; nothing is left", details)
        if self.empty:
            raise InvalidDataError(f"{self.task.origin} has no samples: all {self.empty} documents are empty")
        raise InvalidDataError(f"{self.task.origin} has no samples")

    def _summary(self, details: list[str]) -> str:
        rows = "1 row" if self.faults == 1 else f"{self.faults} rows"
        more = self.faults - _FAULTS_IN_MESSAGE
        shown = [*details[:_FAULTS_IN_MESSAGE], *([f"and {more} more"] if more > 0 else [])]
        return f"{self.task.origin}: {rows} of {self.rows} cannot be {self.task.verb} on: {'; '.join(shown)}"
