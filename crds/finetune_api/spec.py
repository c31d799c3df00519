"""The spec of a FineTuneJob: what a user writes."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.methods import Lora, Method, Osft
from finetune_api.model import ApiModel, Rule, SpecModel
from finetune_api.resources import Resources
from finetune_api.sources import Dataset, ModelSource, Storage
from finetune_api.tracking import Tracking

# Job and pod names are built from it (<name>-<attempt>-<index>) and must stay within 63 characters.
MAX_NAME_LENGTH = 50
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


class Checkpoints(SpecModel):
    """What is kept along the way."""

    every_epoch: bool = True
    """Keep the model's weights at the end of every epoch."""
    full_state_at_epoch: bool = False
    """Keep weights and optimizer state in FP32 at the end of every epoch, to go on training from any of them. Large."""


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of the whole gang before the job fails. Preempted and drained pods do not count."""
    grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """Time a pod gets to save its state when it is asked to go."""


# Fields that decide what is trained: they may not change any more once training has begun.
FIXED = (
    "method",
    "model",
    "dataset",
    "hyperparameters",
    "osft",
    "lora",
    "checkpoints",
    "storage",
    "resources",
)


class FineTuneJobSpec(SpecModel):
    """What to train, on what, with how much."""

    method: Method
    """Training method. sft: supervised fine-tuning of all weights. osft: orthogonal subspace fine-tuning, which keeps
    more of what the model knows. lora: low-rank adapters beside a frozen model, 16, 8 or 4 bits wide."""
    model: ModelSource
    """The base model."""
    dataset: Dataset
    """The training data."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """How to train; everything is optional."""
    osft: Osft | None = None
    """Knobs of method osft."""
    lora: Lora | None = None
    """Knobs of method lora."""
    checkpoints: Checkpoints = Checkpoints()
    """What is kept along the way."""
    storage: Storage
    """Where results are written."""
    resources: Resources = Resources()
    """Pods, GPUs, CPU and memory."""
    failure_policy: FailurePolicy = FailurePolicy()
    """What happens when an attempt fails. May change at any time."""
    tracking: Tracking = Tracking()
    """Services that get the measurements. May change at any time; pods that run already go on as they are."""

    rules = (
        Rule(
            cel="!has(self.osft) || self.method == 'osft'",
            message="osft holds knobs of method osft: remove it, or set method: osft",
            holds=lambda spec: spec.osft is None or spec.method == "osft",
        ),
        Rule(
            cel="!has(self.lora) || self.method == 'lora'",
            message="lora holds knobs of method lora: remove it, or set method: lora",
            holds=lambda spec: spec.lora is None or spec.method == "lora",
        ),
        Rule(
            cel="self.method != 'lora' || !has(self.hyperparameters.pretraining)",
            message="hyperparameters.pretraining is for methods sft and osft: remove it, or choose one of them",
            holds=lambda spec: spec.method != "lora" or spec.hyperparameters.pretraining is None,
        ),
        Rule(
            cel="self.method != 'lora' || !self.hyperparameters.unmaskMessages",
            message="hyperparameters.unmaskMessages is for methods sft and osft: remove it, or choose one of them",
            holds=lambda spec: spec.method != "lora" or not spec.hyperparameters.unmask_messages,
        ),
        Rule(
            cel="!has(self.lora) || !self.lora.enableModelSplitting || "
            "(self.resources.nodes == 1 && self.resources.gpusPerNode > 1)",
            message="lora.enableModelSplitting splits the model over the GPUs of one node: set resources.nodes: 1 and "
            "resources.gpusPerNode to 2 or more, or remove it for one copy of the model per GPU",
            holds=lambda spec: (
                spec.lora is None
                or not spec.lora.enable_model_splitting
                or (spec.resources.nodes == 1 and spec.resources.gpus_per_node > 1)
            ),
        ),
    )


class ObjectMeta(ApiModel, extra="ignore"):
    """The part of Kubernetes' metadata that this API reads."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN)]
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None


class FineTuneJob(ApiModel, extra="ignore"):
    """One FineTuneJob as a user writes it and as the API server returns it; its status is read apart."""

    api_version: Literal["finetune.dev/v1alpha1"]
    kind: Literal["FineTuneJob"]
    metadata: ObjectMeta
    spec: FineTuneJobSpec

    @property
    def storage_path(self) -> str:
        """This job's directory inside its storage volume."""
        return self.spec.storage.path or self.metadata.name
