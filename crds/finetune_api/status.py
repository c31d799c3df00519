"""The status of a FineTuneJob: what the operator observed, and what the trainer reported."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from finetune_api.curve import Curve
from finetune_api.defaults import Defaults
from finetune_api.evaluation import MAX_SETS
from finetune_api.inputs import MAX_INPUTS, Input
from finetune_api.model import ApiModel, FiniteFloat, ListMap
from finetune_api.publication import Publication
from finetune_api.queueing import Queueing
from finetune_api.scores import EvaluationStatus

# Long runs make many: the newest are listed, all of them lie on the volume.
MAX_LISTED_CHECKPOINTS = 50
MAX_LISTED_ATTEMPTS = 50
MAX_LISTED_MATRICES = 32
MAX_MESSAGE_LENGTH = 1024
MAX_LOG_LENGTH = 1024
# A condition holds as much as metav1.Condition may: of a rejected spec, every fault is told.
MAX_CONDITION_MESSAGE_LENGTH = 32768
# A job that was never reconciled must not look up to date (kstatus compares it with metadata.generation).
NEVER_OBSERVED = -1


def shortened(limit: int) -> AfterValidator:
    """Text that is longer than `limit` is cut in its middle instead of refused."""

    def shorten(message: str) -> str:
        """A long message keeps both ends: what happened stands first, what to do last."""
        if len(message) <= limit:
            return message
        half = (limit - 5) // 2
        return f"{message[:half]} ... {message[-half:]}"

    return AfterValidator(shorten)


def last_lines(text: str, limit: int) -> str:
    """Of text that is longer than `limit` the last whole lines are kept; of a single line, its end."""
    if len(text) <= limit:
        return text
    _, _, lines = text[-limit - 1 :].partition("\n")
    return lines or text[-limit:]


Message = Annotated[str, shortened(MAX_MESSAGE_LENGTH), Field(max_length=MAX_MESSAGE_LENGTH)]
LogTail = Annotated[
    str,
    AfterValidator(lambda text: last_lines(text, MAX_LOG_LENGTH)),
    Field(max_length=MAX_LOG_LENGTH),
]
ConditionMessage = Annotated[
    str, shortened(MAX_CONDITION_MESSAGE_LENGTH), Field(max_length=MAX_CONDITION_MESSAGE_LENGTH)
]


class Phase(StrEnum):
    """Where a job stands, derived from what is observed."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    PREPARING = "Preparing"
    RUNNING = "Running"
    MERGING = "Merging"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the job is over: such a phase is never left."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class Condition(ApiModel):
    """A condition as metav1.Condition defines it."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one word."""
    message: ConditionMessage = ""
    """Why, in a sentence."""
    observed_generation: int | None = None
    """Generation of the spec that this speaks of."""
    last_transition_time: datetime
    """When the status last changed."""


class Choice(ApiModel):
    """A value that the guide chose because the spec leaves it open, or a token budget that memory has lowered."""

    field: Annotated[str, Field(max_length=128)]
    """The field, from `spec` on."""
    value: float
    """What was chosen."""
    reason: Annotated[str, Field(max_length=512)]
    """Why."""


class Advice(ApiModel):
    """Something that the guide advises against."""

    rule: Annotated[str, Field(max_length=64)]
    """Identifier of the rule, as docs/hyperparameters.md lists it."""
    field: Annotated[str, Field(max_length=128)]
    """The field, from `spec` on."""
    message: Message
    """What is the matter, and what to do."""


class MicroBatches(ApiModel):
    """Micro-batches of each process per optimizer step."""

    min: int
    """Of the step that takes fewest."""
    mean: FiniteFloat = None
    """On average; absent where the samples' lengths are not known."""
    max: int
    """Of the step that takes most."""


class MemoryParts(ApiModel):
    """What one process holds in the phase of a step that needs most, in bytes. Activations may be gone by then."""

    weights: int
    """The model's weights, and adapters."""
    gradients: int
    """Gradients of what is trained."""
    optimizer: int
    """State of AdamW."""
    activations: int
    """What the backward pass needs of the forward pass."""
    logits: int
    """Logits and their gradients, of one chunk of tokens."""
    framework: int
    """The libraries themselves, communication buffers, and what fragmentation loses."""
    saving: int = 0
    """The copy of the state that is being saved; with GPUs it lies in main memory, and is not counted."""


class MemoryEstimate(ApiModel):
    """Peak memory of one GPU (of one process, without GPUs), in bytes."""

    estimate: int
    """Sum of the parts."""
    low: int
    """Least to expect."""
    high: int
    """Most to expect."""
    parts: MemoryParts
    """What it is made of."""


class Plan(ApiModel):
    """What will be trained, in numbers. What depends on data or model is absent until they are known."""

    learning_rate: float
    """Peak learning rate."""
    effective_batch_size: int | None = None
    """Samples per optimizer step over all processes."""
    num_epochs: int
    """Passes over the training data."""
    max_seq_len: int | None = None
    """Longest sample in tokens."""
    max_tokens_per_gpu: int | None = None
    """Token budget of one micro-batch of one process."""
    activation_checkpointing: bool | None = None
    """Whether activations are recomputed in the backward pass, because keeping them would not fit."""
    accumulate_locally: bool | None = None
    """Whether gradients stay whole in each process until the last micro-batch of a step, and are exchanged once."""
    world_size: int
    """Training processes over all pods."""
    micro_batches_per_step: MicroBatches | None = None
    """Micro-batches of each process per optimizer step."""
    steps_per_epoch: int | None = None
    """Optimizer steps of one epoch."""
    total_steps: int | None = None
    """Optimizer steps of the whole run."""
    trainable_parameters: int | None = None
    """Number of weights that training changes."""
    memory_per_gpu: MemoryEstimate | None = None
    """Peak memory of one GPU (of one process, without GPUs)."""
    checkpoint_bytes: int | None = None
    """Size of the model, or adapter, that one checkpoint of weights holds."""
    resume_bytes: int | None = None
    """Size of the state from which a restart goes on."""
    full_state_bytes: int | None = None
    """Size of one full-state checkpoint."""
    decomposition_bytes: int | None = None
    """Size of the base model's decomposed matrices, with osft. Every job that trains the same ones uses them."""
    download_bytes: int | None = None
    """Size of the base model that is downloaded. Every job that stores beside this one uses it."""
    storage_bytes: int | None = None
    """Space that the whole run takes on the storage claim, downloaded model, decomposed matrices and merged model
    included; downloaded data come on top."""
    merge_memory: int | None = None
    """Main memory that merging the adapter takes, in bytes."""
    chosen: Annotated[list[Choice], Field(max_length=32), ListMap("field")] = []
    """Values that are not, or no longer, those of the spec, with reasons."""
    assumptions: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=8)] = []
    """What had to be assumed, for neither spec nor model nor data tell."""
    warnings: Annotated[list[Advice], Field(max_length=32)] = []
    """What the guide advises against."""

    def choice(self, field: str) -> Choice | None:
        """What was chosen for a field, from `spec` on; None where the spec's own value is used, or none is known."""
        return next((choice for choice in self.chosen if choice.field == field), None)


class Lengths(ApiModel):
    """Lengths of samples in tokens, before over-long ones are left out."""

    p50: int
    """Half of the samples are at most so long."""
    p95: int
    """95 % are."""
    p99: int
    """99 % are."""
    max: int
    """All are."""


class DatasetStatus(ApiModel):
    """What was found in the training data."""

    samples: int
    """Samples that are trained on."""
    dropped: int
    """Samples left out because they are longer than maxSeqLen."""
    invalid: int = 0
    """Rows left out because they cannot be trained on (dataset.invalidRows: Drop)."""
    empty: int | None = None
    """Documents left out because there is nothing in them; absent for conversations."""
    tokens: int
    """Tokens of all samples trained on."""
    loss_tokens: int
    """Those of them that loss is taken on."""
    longest: int
    """Tokens of the longest sample trained on."""
    lengths: Lengths | None = None
    """How long the samples are."""
    duplicates: int | None = None
    """Samples that are equal to an earlier one of the same data; with pretraining, documents."""
    digest: Annotated[str, Field(max_length=128)]
    """Digest of data, tokenizer and settings; names the prepared data on the volume."""
    path: Annotated[str, Field(max_length=1024)] | None = None
    """Where the prepared data lie on the storage claim: datasets.load_from_disk opens them."""

    @property
    def left_out(self) -> str:
        """What is not trained on, for people: '3 too long, 2 invalid'; empty where everything is."""
        counts = {"too long": self.dropped, "invalid": self.invalid, "empty": self.empty or 0}
        return ", ".join(f"{count:,} {why}" for why, count in counts.items() if count)


class EvaluationData(ApiModel):
    """What was found in data that are evaluated on."""

    name: Annotated[str, Field(max_length=32)]
    """validation, or the name of the set."""
    samples: int
    """Samples that are evaluated on."""
    dropped: int = 0
    """Samples left out because they are longer than maxSeqLen."""
    invalid: int = 0
    """Rows left out because they cannot be read as samples (dataset.invalidRows: Drop)."""
    loss_tokens: int
    """Tokens that loss is taken on."""
    in_training: int = 0
    """Samples that are equal to one that is trained on; with pretraining, documents. What is learnt by heart is no
    measure."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """As that of status.dataset; absent for samples that were held back from the training data."""


class DecomposedMatrices(ApiModel):
    """Weight matrices of one kind that osft has decomposed: those of one module, of one shape, in all blocks."""

    module: Annotated[str, Field(max_length=128)]
    """Name of the module inside of a block, such as self_attn.q_proj."""
    count: int
    """Matrices."""
    directions: int
    """Singular directions of each: the smaller of its sides."""
    trained: int
    """Those of them that are trained, the weakest ones; the others are frozen."""


class Subspaces(ApiModel):
    """What osft trains of the model, and how well what it froze is left alone."""

    decomposed: int
    """Matrices decomposed so far."""
    of: int
    """Matrices to decompose."""
    matrices: Annotated[list[DecomposedMatrices], Field(max_length=MAX_LISTED_MATRICES)] = []
    """Matrices by their kinds, those of most weights first."""
    trainable_share: FiniteFloat = None
    """Share of all weights, those in frozen directions counted, that is trained."""
    leak: FiniteFloat = None
    """How far what is trained has come to reach into what is frozen, when that was measured last: the largest of all
    |U_high^T U_low| and |V_low V_high^T|. Rounding makes up to some 1e-6."""


class Progress(ApiModel):
    """How far training has come."""

    step: int = 0
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps to do."""
    epoch: FiniteFloat = None
    """Epochs done, with their fraction."""
    percent: int | None = None
    """Steps done, in percent."""
    summary: Annotated[str, Field(max_length=64)] | None = None
    """Steps done, for people."""
    loss: FiniteFloat = None
    """Mean loss per token of the last step."""
    initial_loss: FiniteFloat = None
    """Mean loss per token of the first step, before any weight was changed."""
    learning_rate: FiniteFloat = None
    """Learning rate of the last step."""
    grad_norm: FiniteFloat = None
    """Global gradient norm of the last step, before clipping."""
    tokens_per_second: FiniteFloat = None
    """Tokens trained on per second, over all processes."""
    mfu: FiniteFloat = None
    """Share of what the GPUs can compute that went into the model, where their peak is known."""
    samples_seen: int | None = None
    """Samples trained on so far, all epochs counted."""
    peak_memory: int | None = None
    """Largest memory use of one process, in bytes: of the GPU, or of the process itself without one."""
    estimated_finish: datetime | None = None
    """When training will end at the present speed."""
    remaining: Annotated[str, Field(max_length=32)] | None = None
    """Time to the estimated finish, for people."""
    last_report_time: datetime | None = None
    """When the trainer was last heard of."""


class Checkpoint(ApiModel):
    """A complete checkpoint on the storage volume."""

    name: Annotated[str, Field(max_length=128)]
    """Name of its directory."""
    step: int
    """Optimizer steps that it holds."""
    epoch: FiniteFloat = None
    """Epochs that it holds."""
    kind: Literal["weights", "resume", "fullState"]
    """weights: a model to load. resume: the state from which a restart goes on. fullState: both, in FP32, of the end of
    an epoch."""
    path: Annotated[str, Field(max_length=1024)]
    """Where it lies on the storage claim."""
    bytes: int
    """Size of all its files."""
    time: AwareDatetime
    """When it was complete."""
    validation_loss: FiniteFloat = None
    """Loss on the validation data at that step, if it was evaluated."""
    best: bool | None = None
    """True for the weights of the lowest validation loss."""


def newest_state(found: Iterable[Checkpoint]) -> int:
    """Step of the newest checkpoint that a restart can go on from; 0 where there is none."""
    return max((checkpoint.step for checkpoint in found if checkpoint.kind != "weights"), default=0)


class Attempt(ApiModel):
    """One run of the gang, from its Job's creation to its end."""

    number: int
    """Counts from 1."""
    start_time: datetime
    """When the operator decided to start it."""
    end_time: datetime | None = None
    """When its end was seen."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that it went on from."""
    last_step: int | None = None
    """The last optimizer step that it did."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """How it ended, in one word."""
    message: Message | None = None
    """How it ended, in a sentence."""
    log: LogTail | None = None
    """The end of what the failed process said."""
    exit_code: int | None = None
    """Exit code of the pod that tells most."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of that pod."""
    counted: bool | None = None
    """Whether its end used up one of failurePolicy.maxRestarts."""


class SinceCheckpoint(ApiModel):
    """What happened since there was a newer state to go on from. The next one fills both budgets up again."""

    step: int
    """Step of the newest complete state that attempts have left; 0 before the first."""
    restarts: int = 0
    """Restarts, of failurePolicy.maxRestarts."""
    disruptions: int = 0
    """Attempts that the cluster ended, of failurePolicy.maxDisruptions."""


class Merged(ApiModel):
    """The base model with the adapter merged in: a directory that transformers loads."""

    path: Annotated[str, Field(max_length=1024)]
    """Where it lies on the storage claim."""
    bytes: int
    """Size of all its files."""


class Output(ApiModel):
    """The result of training."""

    path: Annotated[str, Field(max_length=1024)]
    """Where it lies on the storage claim."""
    format: Literal["model", "adapter"]
    """model: a directory that transformers loads. adapter: one that peft loads."""
    bytes: int
    """Size of all its files."""
    merged: Merged | None = None
    """The same as an ordinary model, with lora.mergeAdapter."""


class FineTuneJobStatus(ApiModel):
    """What is known about the job."""

    observed_generation: int = NEVER_OBSERVED
    """Generation of the spec that this status speaks of; -1 before the operator saw the job."""
    phase: Phase | None = None
    """Where the job stands."""
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap("type")] = []
    """Accepted, Prepared, Progressing, Succeeded, Suspended, Published, and Ready, Reconciling, Stalled as kstatus
    reads them."""
    defaults: Defaults | None = None
    """What the administrator's policy for the namespace has filled in of what the spec leaves open. As with the spec,
    what is trained and where it is stored stays as it was when training began, and where it is trained may change while
    the job is suspended."""
    plan: Plan | None = None
    """What is trained, in numbers."""
    dataset: DatasetStatus | None = None
    """What was found in the training data."""
    inputs: Annotated[list[Input], Field(max_length=MAX_INPUTS), ListMap("name")] = []
    """What model and data were when the job began."""
    evaluation_data: Annotated[list[EvaluationData], Field(max_length=MAX_SETS + 1), ListMap("name")] = []
    """What was found in the data that are evaluated on."""
    evaluation: EvaluationStatus | None = None
    """What the evaluations have shown."""
    subspaces: Subspaces | None = None
    """What osft trains of the model; absent for other methods."""
    progress: Progress | None = None
    """How far training has come."""
    curve: Curve | None = None
    """How it went from the first step on."""
    checkpoints: Annotated[
        list[Checkpoint],
        Field(max_length=MAX_LISTED_CHECKPOINTS),
        ListMap("kind", "name"),
    ] = []
    """Complete checkpoints, oldest first; the newest of them when there are many."""
    attempts: Annotated[list[Attempt], Field(max_length=MAX_LISTED_ATTEMPTS), ListMap("number")] = []
    """Runs of the gang, oldest first; the newest of them when there are many."""
    restarts: int | None = None
    """Restarts so far that were not the cluster's doing."""
    since_checkpoint: SinceCheckpoint | None = None
    """How much of the restart budgets is used up."""
    queue: Queueing | None = None
    """How the job stands in its queue."""
    suspended_seconds: int | None = None
    """Seconds for which the job was suspended since it began, a suspension that lasts not counted."""
    output: Output | None = None
    """The result."""
    publication: Publication | None = None
    """The upload of the result."""
    start_time: datetime | None = None
    """When the preparation of the data began, or else the first attempt. From then on the spec is fixed."""
    completion_time: datetime | None = None
    """When the job succeeded or failed."""
    cleanup_time: datetime | None = None
    """When nothing was left of its Jobs, pods and the like, because of ttlSecondsAfterFinished."""
