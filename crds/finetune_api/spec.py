"""The spec of a FineTuneJob: what a user writes."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from finetune_api.model import ApiModel, Rule

# Job and pod names are built from it (<name>-<attempt>-<index>) and must stay within 63 characters.
MAX_NAME_LENGTH = 50
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


class SpecModel(ApiModel):
    """What users write is read as the API server reads it: '2' is not 2."""

    model_config = ConfigDict(strict=True)


def _yaml_float(value: Any) -> Any:
    """YAML 1.1, which PyYAML speaks, reads 5e-6 as a string; kubectl reads the number that was meant."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", value):
        return float(value)
    return value


# Stands behind the bounds: before them, pydantic would leave the bounds out of the JSON schema.
YAML_FLOAT = BeforeValidator(_yaml_float)


def _inside_volume(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be relative to the volume's root and must not contain '..'")
    return path


ClaimName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", examples=["models"])
]
# The same rule as _inside_volume, for the API server: RE2 has no look-ahead, so CEL says it.
INSIDE_VOLUME_CEL = "!self.startsWith('/') && !self.split('/').exists(part, part == '..')"
VolumePath = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": INSIDE_VOLUME_CEL,
                    "message": "must be relative to the volume's root and must not contain '..'",
                }
            ]
        },
    ),
    AfterValidator(_inside_volume),
]
Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
        examples=["500m", "16Gi"],
    ),
]


class VolumeSource(SpecModel):
    """A path on a PersistentVolumeClaim of the job's namespace."""

    claim_name: ClaimName
    """Name of the PersistentVolumeClaim."""
    path: VolumePath
    """Path inside the volume, relative to its root."""


class ModelSource(SpecModel):
    """Where the base model comes from."""

    volume: VolumeSource
    """A directory in Hugging Face format: config.json, safetensors and the tokenizer with its chat template."""


class DataSource(SpecModel):
    """Where a data set comes from."""

    volume: VolumeSource
    """A JSONL file: one object with `messages` per line."""


class Dataset(SpecModel):
    """The data to train on."""

    train: DataSource
    """Training data. Loss is taken on what the assistant says."""


class Hyperparameters(SpecModel):
    """How to train. What is left out is chosen by the guide and shown, with its reason, in status.plan."""

    learning_rate: Annotated[float, Field(gt=0, le=1), YAML_FLOAT] | None = None
    """Peak learning rate."""
    effective_batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Samples per optimizer step over all GPUs, exactly."""
    num_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Passes over the training data."""
    max_seq_len: Annotated[int, Field(ge=8, le=1048576)] | None = None
    """Longest sample in tokens. Longer ones are dropped and counted, never cut."""
    max_tokens_per_gpu: Annotated[int, Field(ge=8, le=16777216)] | None = None
    """Token budget of one micro-batch on one GPU; bounds memory, never changes the result."""
    lr_scheduler: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=1000000)] = 0
    """Optimizer steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1), YAML_FLOAT] = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: Annotated[float, Field(ge=0, lt=1), YAML_FLOAT] = 0.9
    """AdamW: decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1), YAML_FLOAT] = 0.95
    """AdamW: decay of the second moment."""
    eps: Annotated[float, Field(gt=0, le=1), YAML_FLOAT] = 1e-8
    """AdamW: term added to the denominator."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000000), YAML_FLOAT] = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Seed of the sample order."""
    max_steps: Annotated[int, Field(ge=1, le=100000000)] | None = None
    """End after this many optimizer steps even if epochs remain."""

    rules = (
        Rule(
            cel="!has(self.maxTokensPerGpu) || !has(self.maxSeqLen) || self.maxTokensPerGpu >= self.maxSeqLen",
            message="maxTokensPerGpu must be at least maxSeqLen, for the longest sample to fit: "
            "raise maxTokensPerGpu, lower maxSeqLen, or leave maxTokensPerGpu out",
            holds=lambda h: (
                h.max_tokens_per_gpu is None or h.max_seq_len is None or h.max_tokens_per_gpu >= h.max_seq_len
            ),
        ),
    )


class Checkpoints(SpecModel):
    """What is kept along the way."""

    every_epoch: bool = True
    """Keep the model's weights at the end of every epoch."""


class Storage(SpecModel):
    """Where prepared data, checkpoints, logs and the trained model are written."""

    claim_name: ClaimName
    """PersistentVolumeClaim to write to; ReadWriteMany when there is more than one node."""
    path: VolumePath | None = None
    """Directory for this job inside the volume; the job's name if left out. One job, one directory."""


class ResourceRequests(SpecModel):
    """What each training pod asks of its node besides GPUs."""

    cpu: Quantity | None = None
    """Cores."""
    memory: Quantity | None = None
    """Memory, requested and at the same time the limit, so that training never starves its neighbours."""


class Resources(SpecModel):
    """The gang: how many pods, and what each one gets."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of training pods. All start together or not at all."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of each pod; one training process per GPU. 0 trains on the CPU with one process per pod."""
    gpu_resource_name: Annotated[str, Field(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Name under which the cluster offers GPUs."""
    requests: ResourceRequests = ResourceRequests()
    """CPU and memory of each pod."""
    shared_memory: Quantity | None = None
    """Upper limit of /dev/shm; bounded by the pod's memory alone if left out."""


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of the whole gang before the job fails. Preempted and drained pods do not count."""
    grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """Time a pod gets to save its state when it is asked to go."""


# Fields of the spec that decide what is trained. They may not change once the job exists.
IMMUTABLE: dict[str, Any] = {
    "x-kubernetes-validations": [
        {
            "rule": "self == oldSelf",
            "message": "is fixed once the job exists: create another FineTuneJob to train with other settings",
        }
    ]
}


def _fixed(**arguments: Any) -> Any:
    return Field(json_schema_extra=IMMUTABLE, **arguments)


class FineTuneJobSpec(SpecModel):
    """What to train, on what, with how much."""

    method: Literal["sft"] = _fixed()
    """Training method. sft: supervised fine-tuning of all weights."""
    model: ModelSource = _fixed()
    """The base model."""
    dataset: Dataset = _fixed()
    """The training data."""
    hyperparameters: Hyperparameters = _fixed(default=Hyperparameters())
    """How to train; everything is optional."""
    checkpoints: Checkpoints = _fixed(default=Checkpoints())
    """What is kept along the way."""
    storage: Storage = _fixed()
    """Where results are written."""
    resources: Resources = _fixed(default=Resources())
    """Pods, GPUs, CPU and memory."""
    failure_policy: FailurePolicy = FailurePolicy()
    """What happens when an attempt fails. May change at any time."""


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
