"""What is known of a job's model and data when it is planned, and what is found out about the job."""

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.architecture import Architecture
from finetune_api.status import Lengths, MicroBatches

ASSUMED_LENGTH = 2048


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"
    """The job cannot be run as it is."""
    WARNING = "warning"
    """The job runs, and is likely not to do what is wanted."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """Something that a rule has to say about a job."""

    rule: str
    """Identifier of the rule, as docs/hyperparameters.md lists it."""
    severity: Severity
    field: str
    """Path of the field, from `spec` on."""
    message: str
    """What is the matter, with this job's numbers, and what to do."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the base model."""

    architecture: Architecture
    guessed_from: str | None = None
    """The name that its size was guessed from; None where its configuration is known."""

    @property
    def is_guess(self) -> bool:
        """Whether its shapes are only those that are usual at its size."""
        return self.guessed_from is not None

    @property
    def context_length(self) -> int | None:
        """Tokens that the model reads at a time, as far as its configuration tells."""
        return None if self.is_guess else self.architecture.context_length

    @property
    def assumed_length(self) -> int:
        """Tokens of the longest sample where neither maxSeqLen nor the data tell."""
        return min(ASSUMED_LENGTH, self.architecture.context_length or ASSUMED_LENGTH)


@dataclass(frozen=True)
class DataFacts:
    """What is known of the training data."""

    samples: int
    """Samples that are trained on."""
    dropped: int = 0
    """Samples left out because they are longer than maxSeqLen."""
    lengths: Lengths | None = None
    """Of all samples, before over-long ones are left out."""
    micro_batches: MicroBatches | None = None
    """As the batch planner packs them."""
