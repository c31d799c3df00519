"""The RunConfig: everything a training pod needs to know, the same for every pod and attempt of a job."""

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from finetune_api import names
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.methods import Lora, Method, Osft
from finetune_api.model import ApiModel
from finetune_api.recipe import Recipe
from finetune_api.sources import Columns, VolumeSource
from finetune_api.spec import Checkpoints, FineTuneJob


class Locations(ApiModel):
    """Where a process finds and leaves things, as absolute paths of its own file system."""

    model: str
    """Directory of the base model."""
    train: str
    """File of the training data."""
    storage: str
    """This job's own directory; made if it is missing."""

    @property
    def prepared(self) -> str:
        """Directory of prepared data, which jobs with directories side by side share."""
        return str(PurePosixPath(self.storage).parent / names.PREPARED_DATA_DIR)

    @property
    def decompositions(self) -> str:
        """Directory of decomposed weight matrices, which jobs with directories side by side share."""
        return str(PurePosixPath(self.storage).parent / names.DECOMPOSITIONS_DIR)


class Origins(ApiModel):
    """The same things as the spec names them: what messages to people and paths in the status speak of."""

    model: VolumeSource
    """Claim and path of the base model."""
    train: VolumeSource
    """Claim and path of the training data."""
    storage: VolumeSource
    """Claim and path of this job's own directory."""


class RunConfig(ApiModel):
    """What the trainer is started with."""

    namespace: str
    """Namespace of the FineTuneJob."""
    name: str
    """Name of the FineTuneJob."""
    uid: Annotated[str, Field(min_length=1)]
    """Identity of the run: a storage directory that belongs to another one is not touched."""
    method: Method
    """Training method."""
    osft: Osft | None = None
    """Knobs of method osft."""
    lora: Lora | None = None
    """Knobs of method lora."""
    columns: Columns
    """Names of the data's columns."""
    invalid_rows: Literal["Fail", "Drop"]
    """What becomes of rows that cannot be trained on."""
    prepared: str | None = None
    """Digest of the data that were prepared beforehand; None where this process is to prepare them."""
    locations: Locations
    """Where things are."""
    origins: Origins
    """What the spec calls them."""
    hyperparameters: Hyperparameters
    """As stated in the spec; what is open is chosen once the data is known."""
    checkpoints: Checkpoints
    """What is kept along the way."""
    nodes: int
    """Pods of the gang."""
    gpus_per_node: int
    """GPUs of each pod. 0: one process per pod, on its CPU."""
    gpu_memory: int | None = None
    """Bytes of one GPU, as far as stated."""
    grace_period_seconds: int
    """Time between SIGTERM and SIGKILL."""
    report_url: str | None = None
    """Where Reports are posted; None where nobody listens."""

    @property
    def use_gpu(self) -> bool:
        """Whether training is done by GPUs."""
        return self.recipe.on_gpu

    @property
    def world_size(self) -> int:
        """Training processes over all pods."""
        return self.recipe.world_size

    @property
    def processes_per_node(self) -> int:
        """Training processes of each pod: one for each GPU, or a single one for a model that is split."""
        return self.world_size // self.nodes

    @property
    def recipe(self) -> Recipe:
        """What the plan depends on."""
        return Recipe(
            method=self.method,
            hyperparameters=self.hyperparameters,
            osft=self.osft or Osft(),
            lora=self.lora or Lora(),
            checkpoints=self.checkpoints,
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            gpu_memory=self.gpu_memory,
        )

    def to_json(self) -> str:
        """Canonical JSON: equal configurations have equal text."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def run_config(
    job: FineTuneJob, locations: Locations, report_url: str | None, *, prepared: str | None = None
) -> RunConfig:
    """The RunConfig of a job whose volumes appear at `locations`, and whose data were `prepared` under this digest.

    Only settings that decide the result are in it, and the grace period that applies when the pods are made.
    """
    resources = job.spec.resources
    return RunConfig(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        method=job.spec.method,
        osft=job.spec.osft,
        lora=job.spec.lora,
        columns=job.spec.dataset.columns,
        invalid_rows=job.spec.dataset.invalid_rows,
        prepared=prepared,
        locations=locations,
        origins=Origins(
            model=job.spec.model.volume,
            train=job.spec.dataset.train.volume,
            storage=VolumeSource(claim_name=job.spec.storage.claim_name, path=job.storage_path),
        ),
        hyperparameters=job.spec.hyperparameters,
        checkpoints=job.spec.checkpoints,
        nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        gpu_memory=resources.gpu_memory_bytes,
        grace_period_seconds=job.spec.failure_policy.grace_period_seconds,
        report_url=report_url,
    )
