"""The RunConfig: everything a training pod needs to know, the same for every pod and attempt of a job."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from finetune_api import names
from finetune_api.evaluation import TRAIN, VALIDATION, Evaluation, Generate
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.methods import Lora, Method, Osft
from finetune_api.model import ApiModel
from finetune_api.publish import Publish
from finetune_api.recipe import Recipe
from finetune_api.sources import Columns, Dataset, DataSource, ModelSource, VolumeSource
from finetune_api.spec import Checkpoints, FineTuneJob


class Locations(ApiModel):
    """Where a process finds and leaves things, as absolute paths of its own file system.

    Of what is downloaded, the operator knows no more than the directory of all downloads; which file or directory in it
    is meant, the preparation has written down in names.INPUTS_FILE.
    """

    model: str
    """Directory of the base model."""
    data: dict[str, list[str]]
    """Files of every data set, in the order in which they are read."""
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

    @property
    def downloads(self) -> str:
        """Directory of what was downloaded, which jobs with directories side by side share."""
        return str(PurePosixPath(self.storage).parent / names.DOWNLOADS_DIR)


@dataclass(frozen=True)
class DataSet:
    """Data that come from somewhere."""

    name: str
    """train, validation, or that of an evaluation set."""
    source: DataSource
    """Where from."""
    columns: Columns
    """Names of the data's columns."""
    field: str
    """What the spec calls it."""
    generate: Generate | None = None
    """How answers are compared, where they are."""


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
    model: ModelSource
    """The base model, in the words of the spec."""
    dataset: Dataset
    """The data, likewise."""
    evaluation: Evaluation
    """How the model is judged."""
    publish: Publish | None = None
    """Where the result is uploaded to; told to the process that does it, and to no other."""
    storage: VolumeSource
    """Claim and path of this job's own directory: what messages to people and paths in the status speak of."""
    prepared: dict[str, str] = {}
    """Digests of the data that were prepared beforehand, by name; this process is to prepare the others."""
    locations: Locations
    """Where things are."""
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
    def data_sets(self) -> dict[str, DataSet]:
        """Every data set that comes from somewhere, by its name, that to train on first."""
        dataset = self.dataset
        found = {TRAIN: DataSet(TRAIN, dataset.train, dataset.columns, f"spec.dataset.{TRAIN}")}
        if dataset.validation is not None:
            field = f"spec.dataset.{VALIDATION}"
            found[VALIDATION] = DataSet(VALIDATION, dataset.validation, dataset.columns, field)
        for one in self.evaluation.sets:
            field = f"spec.evaluation.sets[{one.name}]"
            found[one.name] = DataSet(one.name, one, one.columns, field, one.generate)
        return found

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
            evaluation=self.evaluation,
            is_validated=self.dataset.is_validated,
            is_downloaded=self.model.is_downloaded,
        )

    def to_json(self) -> str:
        """Canonical JSON: equal configurations have equal text."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def run_config(
    job: FineTuneJob,
    locations: Locations,
    report_url: str | None,
    *,
    prepared: Mapping[str, str] = MappingProxyType({}),
    publishes: bool = False,
) -> RunConfig:
    """The RunConfig of a job whose volumes appear at `locations`, and whose data were `prepared` under these digests.

    `publishes`: it is for the process that uploads the result. To the others, spec.publish may change as it likes.
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
        model=job.spec.model,
        dataset=job.spec.dataset,
        evaluation=job.spec.evaluation,
        publish=job.spec.publish if publishes else None,
        storage=VolumeSource(claim_name=job.storage_claim, path=job.storage_path),
        prepared=dict(prepared),
        locations=locations,
        hyperparameters=job.spec.hyperparameters,
        checkpoints=job.spec.checkpoints,
        nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        gpu_memory=resources.gpu_memory_bytes,
        grace_period_seconds=job.spec.failure_policy.grace_period_seconds,
        report_url=report_url,
    )
