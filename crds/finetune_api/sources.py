"""Where models, data and results lie."""

from finetune_api.model import SpecModel
from finetune_api.scalars import ClaimName, VolumePath


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


class Storage(SpecModel):
    """Where prepared data, checkpoints, logs and the trained model are written."""

    claim_name: ClaimName
    """PersistentVolumeClaim to write to; ReadWriteMany when there is more than one node."""
    path: VolumePath | None = None
    """Directory for this job inside the volume; the job's name if left out. One job, one directory."""
