"""The Report: what rank 0 of the trainer tells the operator. Always the whole state, so a lost one costs nothing."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field
from pydantic_core import from_json

from finetune_api.curve import Curve
from finetune_api.evaluation import MAX_SETS
from finetune_api.failure import cause_of
from finetune_api.inputs import MAX_INPUTS, Input
from finetune_api.model import ApiModel, FiniteFloat, ListMap
from finetune_api.publication import Published
from finetune_api.scores import Evaluated, EvaluationStatus
from finetune_api.status import (
    MAX_LISTED_CHECKPOINTS,
    Checkpoint,
    DatasetStatus,
    EvaluationData,
    LogTail,
    Message,
    Output,
    Plan,
    Subspaces,
    last_lines,
    shortened,
)

# What the operator's endpoint reads of one request at most.
MAX_REPORT_BYTES = 64 * 1024
# Whatever happens to it, a trainer posts no more often, in the long run. The endpoint holds it to that.
SHORTEST_REPORT_INTERVAL_SECONDS = 0.5
# What the kubelet keeps of a termination message.
MAX_TERMINATION_BYTES = 4096
MAX_DETAILS = 100
MAX_DETAIL_LENGTH = 256
Detail = Annotated[str, shortened(MAX_DETAIL_LENGTH), Field(max_length=MAX_DETAIL_LENGTH)]


class Stage(StrEnum):
    """What the trainer is doing."""

    STARTING = "Starting"
    DOWNLOADING = "Downloading"
    PREPARING = "Preparing"
    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    MERGING = "Merging"
    PUBLISHING = "Publishing"
    FINISHED = "Finished"
    FAILED = "Failed"


class Failure(ApiModel):
    """Why an attempt ended without a result."""

    exit_code: int
    """The container's exit code (see finetune_api.failure)."""
    reason: Annotated[str, Field(max_length=128)]
    """The cause in one word."""
    message: Message
    """The cause in a sentence, with what to do."""
    details: Annotated[list[Detail], Field(max_length=MAX_DETAILS)] = []
    """Every single fault, as far as there is room: rows that cannot be trained on, samples of a batch."""
    log: LogTail | None = None
    """The end of what the failed process said."""

    @classmethod
    def of(cls, exit_code: int, message: str, details: Sequence[str] = (), log: str | None = None) -> Self:
        """The failure behind an exit code, which tells its reason."""
        return cls(
            exit_code=exit_code,
            reason=cause_of(exit_code).reason,
            message=_encodable(message),
            details=[_encodable(detail) for detail in details[:MAX_DETAILS]],
            log=log and _encodable(log),
        )


class Preparation(ApiModel):
    """How far the preparation of the data has come."""

    rows: int
    """Rows read."""
    percent: int
    """Share of the file that is read; 0 for as long as it is not known, and always of Parquet."""


class Transfer(ApiModel):
    """How far a download or an upload has come."""

    of: Annotated[str, Field(max_length=256)]
    """What is transferred."""
    bytes: int
    """Bytes that are there."""
    total_bytes: int
    """Bytes in all."""


class StepSeconds(ApiModel):
    """Where the time of a step went, as rank 0 saw it."""

    data: FiniteFloat = None
    """Waiting for data; the GPU has nothing to do meanwhile."""
    compute: FiniteFloat = None
    """Everything else. On GPUs communication runs beside it, and is counted here as well."""
    communication: FiniteFloat = None
    """In collectives, waiting for other processes included."""
    checkpoint: FiniteFloat = None
    """Held up by saving, since the step before."""


class Metrics(ApiModel):
    """Measurements of the last optimizer step."""

    step: int
    """Optimizer steps done."""
    epoch: FiniteFloat = None
    """Epochs done, with their fraction."""
    loss: FiniteFloat = None
    """Mean loss per token, over all processes, before the step."""
    learning_rate: FiniteFloat = None
    """Learning rate of the step."""
    grad_norm: FiniteFloat = None
    """Global gradient norm before clipping."""
    tokens_per_second: FiniteFloat = None
    """Tokens trained on per second, over all processes."""
    samples: int | None = None
    """Samples of the step, over all processes."""
    samples_seen: int = 0
    """Samples trained on so far, all epochs counted."""
    micro_batches: int | None = None
    """Micro-batches of each process."""
    padding: FiniteFloat = None
    """Share of the computed tokens that belong to no sample, over all processes."""
    seconds: StepSeconds | None = None
    """Where the time went."""
    peak_memory: int | None = None
    """Largest memory use of one process so far, in bytes."""
    mfu: FiniteFloat = None
    """Model FLOPs utilization: what the step had to compute, as a share of what the GPUs can compute in bfloat16 in
    that time; absent without GPUs, and for GPUs and models that are not known."""
    subspace_leak: FiniteFloat = None
    """How far what osft trains has come to reach into what it froze (see status.Subspaces); not measured in every
    step."""


class StepRecord(Metrics):
    """A line of names.METRICS_FILE: what a step showed, in which attempt, and when."""

    attempt: int
    """Attempt that made the step."""
    time: datetime
    """When it was done."""

    @classmethod
    def of(cls, metrics: Metrics, attempt: int, time: datetime) -> Self:
        """The line of a step."""
        return cls(attempt=attempt, time=time, **metrics.model_dump())

    @property
    def metrics(self) -> Metrics:
        """What a Report says of the step."""
        return Metrics.model_validate(self.model_dump(exclude={"attempt", "time"}))


class EvaluationRecord(Evaluated):
    """A line of names.EVALUATIONS_FILE: an evaluation, and in which attempt it was made."""

    attempt: int
    """Attempt that evaluated."""

    @classmethod
    def of(cls, evaluated: Evaluated, attempt: int) -> Self:
        """The line of an evaluation."""
        return cls(attempt=attempt, **evaluated.model_dump())

    @property
    def evaluated(self) -> Evaluated:
        """What a Report says of it."""
        return Evaluated.model_validate(self.model_dump(exclude={"attempt"}))


class Report(ApiModel):
    """The trainer's whole state. Of two Reports of one attempt, the higher sequence is the newer."""

    attempt: int
    """Attempt that reports."""
    sequence: int
    """Rises while anything happens; it standing still means a hang."""
    stage: Stage
    """What the trainer is doing."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that this attempt went on from."""
    preparation: Preparation | None = None
    """How far the preparation of the data has come, while it goes on."""
    transfer: Transfer | None = None
    """How far a download or an upload has come, while it goes on."""
    metrics: Metrics | None = None
    """Measurements of the last step."""
    initial_loss: FiniteFloat = None
    """Loss of the very first step of the run."""
    curve: Curve | None = None
    """How training went from the first step on."""
    seconds_remaining: FiniteFloat = None
    """Time to the end of training at the present speed."""
    plan: Plan | None = None
    """What is trained, in numbers."""
    dataset: DatasetStatus | None = None
    """What was found in the training data."""
    inputs: Annotated[list[Input], Field(max_length=MAX_INPUTS), ListMap("name")] = []
    """What model and data were when the run began."""
    evaluation_data: Annotated[list[EvaluationData], Field(max_length=MAX_SETS + 1), ListMap("name")] = []
    """What was found in the data that are evaluated on."""
    evaluation: EvaluationStatus | None = None
    """What the evaluations have shown."""
    subspaces: Subspaces | None = None
    """What osft trains of the model."""
    checkpoints: Annotated[list[Checkpoint], Field(max_length=MAX_LISTED_CHECKPOINTS)] = []
    """Complete checkpoints, oldest first."""
    output: Output | None = None
    """The result."""
    published: Published | None = None
    """Where it was uploaded to."""
    failure: Failure | None = None
    """Why the attempt ended without one."""

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a Report that came from elsewhere.

        Raises ValueError (of which pydantic's ValidationError is one) for what is no Report, however deep it is nested
        and whatever it is made of, and for what the API server could not store: integers of more than 64 bits, and
        halves of surrogate pairs.
        """
        raw = text.encode() if isinstance(text, str) else text
        _check_integers(from_json(raw))
        # Strictly: the integers that a string or a float could be read as are not checked. And Python's name for a
        # field is not the API's.
        return cls.model_validate_json(raw, strict=True, by_alias=True, by_name=False)

    def to_json(self) -> str:
        """The Report as it travels: camel case, absent rather than null."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    def to_termination_message(self) -> str:
        """JSON of at most MAX_TERMINATION_BYTES.

        What does not fit is left out, the least needed first: the curve, the oldest checkpoints, reasons and warnings
        of the plan, subspaces, plan and dataset (the operator has had them from earlier Reports, if it had any), the
        last details of a failure, the beginning of the log, inputs, evaluations, then even what only a multi-byte
        script makes so long.
        """
        lean: Report | None = self
        while lean is not None and len((text := lean.to_json()).encode()) > MAX_TERMINATION_BYTES:
            lean = lean._leaner()
        assert lean is not None, "a Report without anything that can be left out fits"
        return text

    def _leaner(self) -> Self | None:
        """The same without what is needed least; None if it has nothing to spare."""
        failure = self.failure
        changes: dict[str, Any]
        if self.curve:
            changes = {"curve": None}
        elif len(self.checkpoints) > 1:
            changes = {"checkpoints": self.checkpoints[1:]}
        elif self.plan and (self.plan.chosen or self.plan.warnings):
            changes = {"plan": self.plan.model_copy(update={"chosen": [], "warnings": []})}
        elif self.subspaces:
            changes = {"subspaces": None}
        elif self.plan or self.dataset:
            changes = {"plan": None, "dataset": None}
        elif failure and failure.details:
            changes = {"failure": failure.model_copy(update={"details": failure.details[:-1]})}
        elif failure and failure.log:
            changes = {"failure": failure.model_copy(update={"log": _second_half(failure.log)})}
        elif self.checkpoints:
            changes = {"checkpoints": []}
        elif self.inputs or self.evaluation_data:
            changes = {"inputs": [], "evaluation_data": []}
        elif self.evaluation and self.evaluation.latest:
            changes = {"evaluation": self.evaluation.model_copy(update={"latest": None, "best": None})}
        elif self.evaluation:
            changes = {"evaluation": None}
        elif failure and failure.message:
            shorter = failure.message[: len(failure.message) // 2]
            changes = {"failure": failure.model_copy(update={"message": shorter})}
        elif self.output:
            changes = {"output": None}
        else:
            return None
        return self.model_copy(update=changes)


def _second_half(text: str) -> str | None:
    return last_lines(text, (len(text) - 1) // 2) if len(text) > 2 else None


def _encodable(text: str) -> str:
    """Text without what UTF-8 lacks: file names of other encodings get into messages."""
    return text.encode(errors="replace").decode()


def _check_integers(wire: Any) -> None:
    if isinstance(wire, dict):
        wire = list(wire.values())
    if isinstance(wire, list):
        for part in wire:
            _check_integers(part)
    elif isinstance(wire, int) and not -(2**63) <= wire < 2**63:
        raise ValueError(f"{wire} does not fit into 64 bits")


class ReportReply(ApiModel):
    """The operator's answer to a Report: its back-pressure."""

    next_report_seconds: Annotated[float, Field(ge=0.1, le=3600)]
    """Seconds after which the next Report is wanted, unless something changed that matters."""
