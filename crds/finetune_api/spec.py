"""The spec of a FineTuneJob: what a user writes."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.evaluation import TRAIN, VALIDATION, Evaluation
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.methods import Lora, Method, Osft
from finetune_api.model import ApiModel, Rule, SpecModel
from finetune_api.publish import Publish
from finetune_api.resources import Resources
from finetune_api.scheduling import Scheduling
from finetune_api.sources import Dataset, DataSource, ModelSource, Storage
from finetune_api.tracking import Tracking

# Job and pod names are built from it (<name>-<attempt>-<index>) and must stay within 63 characters.
MAX_NAME_LENGTH = 50
# What a FineTuneJob is called, for those who have it as a part of something, and for those who have it alone.
JOB_NAME = rf"[a-z]([-a-z0-9]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?"
NAME_PATTERN = f"^{JOB_NAME}$"


class Checkpoints(SpecModel):
    """What is kept along the way."""

    every_epoch: bool = True
    """Keep the model's weights at the end of every epoch, for good."""
    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Save the state from which a restart goes on after every so many optimizer steps, too."""
    every_minutes: Annotated[int, Field(ge=1, le=10080)] = 30
    """Save that state when the newest one is so many minutes old: what an accident may cost."""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    """How many of those states are kept, the newest ones; all go when the result is complete."""
    keep_best: bool = True
    """Keep the weights of the lowest validation loss, too, where there are validation data."""
    deliver_best: bool = False
    """Make those the output, and not the ones after the last step; needs validation data."""
    full_state_at_epoch: bool = False
    """Keep weights and optimizer state in FP32 at the end of every epoch, to go on training from any of them. Large."""


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of the whole gang without a new checkpoint in between before the job fails."""
    max_disruptions: Annotated[int, Field(ge=0, le=10000)] = 100
    """The same for attempts that the cluster ended: preempted, drained and deleted pods, lost nodes."""
    startup_deadline_seconds: Annotated[int, Field(ge=10, le=604800)] = 1800
    """Time within which all pods of an attempt run and the trainer is heard of; else the attempt has failed."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=604800)] = 1800
    """Time within which the trainer shows a new sign of life; else it hangs and is started again."""
    active_deadline_seconds: Annotated[int, Field(ge=10, le=2**31 - 1)] | None = None
    """Time from the start within which the job must succeed, without that for which it was suspended."""
    grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """Time a pod gets to save its state when it is asked to go."""


# Fields that decide what is trained: they may not change any more once training has begun. Where it is trained
# (resources, scheduling) may change while the job is suspended.
FIXED = (
    "method",
    "model",
    "dataset",
    "hyperparameters",
    "osft",
    "lora",
    "evaluation",
    "storage",
)
FIXED_UNLESS_SUSPENDED = ("resources", "scheduling")


_VALIDATED = "has(self.dataset.validation) || has(self.dataset.validationSplit)"
_OVER_THE_NETWORK = "has({0}.huggingFace) || has({0}.objectStore)"
_DOWNLOADS = " || ".join(
    (
        "has(self.model.huggingFace)",
        _OVER_THE_NETWORK.format("self.dataset.train"),
        f"has(self.dataset.validation) && ({_OVER_THE_NETWORK.format('self.dataset.validation')})",
        f"has(self.evaluation.sets) && self.evaluation.sets.exists(one, {_OVER_THE_NETWORK.format('one')})",
    )
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
    evaluation: Evaluation = Evaluation()
    """How the model is judged before, while and after it is trained."""
    checkpoints: Checkpoints = Checkpoints()
    """What is kept along the way. May change at any time, from the next attempt on."""
    storage: Storage = Storage()
    """Where results are written."""
    publish: Publish | None = None
    """Where to upload the result once the job has succeeded. May change at any time, after that too."""
    resources: Resources = Resources()
    """Pods, GPUs, CPU and memory. Once training has begun, they may change while the job is suspended."""
    scheduling: Scheduling = Scheduling()
    """When and where the pods run. Once training has begun, it may change while the job is suspended."""
    trainer_image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """The image that trains, one of those that the administrator allows; the installation's own if left out. May change
    at any time, from the next attempt on."""
    failure_policy: FailurePolicy = FailurePolicy()
    """What happens when an attempt fails. May change at any time."""
    tracking: Tracking = Tracking()
    """Services that get the measurements. May change at any time; pods that run already go on as they are."""
    suspend: bool = False
    """Save the state and give back everything that runs; false goes on from there. May change at any time."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Time after which a finished job's Jobs, pods and the like are removed; the FineTuneJob and its volume stay."""

    rules = (
        Rule(
            cel=f"!has(self.evaluation.earlyStopping) || {_VALIDATED}",
            message="evaluation.earlyStopping needs validation data: set dataset.validation or "
            "dataset.validationSplit, or remove it",
            holds=lambda spec: spec.evaluation.early_stopping is None or spec.dataset.is_validated,
        ),
        Rule(
            cel=f"!self.checkpoints.deliverBest || {_VALIDATED}",
            message="checkpoints.deliverBest needs validation data: set dataset.validation or "
            "dataset.validationSplit, or remove it",
            holds=lambda spec: not spec.checkpoints.deliver_best or spec.dataset.is_validated,
        ),
        Rule(
            cel="!self.checkpoints.deliverBest || self.checkpoints.keepBest",
            message="checkpoints.deliverBest delivers what keepBest keeps: set keepBest: true, or remove deliverBest",
            holds=lambda spec: not spec.checkpoints.deliver_best or spec.checkpoints.keep_best,
        ),
        Rule(
            cel="!has(self.hyperparameters.pretraining) || !has(self.evaluation.sets) || "
            "!self.evaluation.sets.exists(one, has(one.generate))",
            message="evaluation.sets: generate needs conversations, and with hyperparameters.pretraining the data are "
            "documents: remove one of them",
            holds=lambda spec: (
                spec.hyperparameters.pretraining is None
                or all(one.generate is None for one in spec.evaluation.sets)
            ),
        ),
        Rule(
            cel=f"self.dataset.prepare == 'Job' || !({_DOWNLOADS})",
            message="dataset.prepare: Inline has pods with GPUs wait for downloads: set prepare: Job for huggingFace "
            "and objectStore",
            holds=lambda spec: spec.dataset.prepare == "Job" or not spec.has_downloads,
        ),
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

    @property
    def data_sources(self) -> dict[str, DataSource]:
        """Every data set that the spec names, by its name."""
        dataset = self.dataset
        own = {TRAIN: dataset.train} | ({VALIDATION: dataset.validation} if dataset.validation else {})
        return own | {one.name: one for one in self.evaluation.sets}

    @property
    def has_downloads(self) -> bool:
        """Whether something comes over the network, in the preparation."""
        return self.model.is_downloaded or any(one.is_downloaded for one in self.data_sources.values())


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
    def storage_claim(self) -> str:
        """The claim that results are written to, of a job in which the administrator's defaults are filled in."""
        claim = self.spec.storage.claim_name
        assert claim is not None
        return claim

    @property
    def storage_path(self) -> str:
        """This job's directory inside its storage volume."""
        return self.spec.storage.path or self.metadata.name
