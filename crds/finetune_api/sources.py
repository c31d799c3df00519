"""Where models, data and results lie, and how data are read."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.model import Rule, SpecModel
from finetune_api.scalars import SUBDOMAIN, ClaimName, VolumePath
from finetune_api.secrets import ObjectKey, SecretKeyReference, SecretReference

HubRepo = Annotated[
    str,
    Field(
        max_length=193,
        pattern=r"^[a-zA-Z0-9][-._a-zA-Z0-9]*/[a-zA-Z0-9][-._a-zA-Z0-9]*$",
        examples=["Qwen/Qwen2.5-1.5B-Instruct"],
    ),
]
_REVISION = r"^[-._/a-zA-Z0-9]+$"
# Spelt out what is no letter of a uri: what \s is, two readers of regular expressions see differently.
_URI = r"^(s3|gs|az)://[^\x00-\x20\x7f?#]+/[^\x00-\x20\x7f?#]+$"

ConfigMapName = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$")]


def exactly_one(*fields: str) -> Rule:
    """One of these fields is stated, and no other."""
    stated = ", ".join(f"has(self.{field})" for field in fields)
    attributes = [re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field) for field in fields]
    return Rule(
        cel=f"[{stated}].filter(stated, stated).size() == 1",
        message=f"exactly one of {', '.join(fields[:-1])} and {fields[-1]} is needed: set one, and remove the others",
        holds=lambda source: sum(getattr(source, name) is not None for name in attributes) == 1,
    )


class VolumeSource(SpecModel):
    """A path on a PersistentVolumeClaim of the job's namespace."""

    claim_name: ClaimName
    """Name of the PersistentVolumeClaim."""
    path: VolumePath
    """Path inside the volume, relative to its root."""

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'"{self.path}" on claim "{self.claim_name}"'


class HubSource(SpecModel):
    """A repository of the Hugging Face Hub, or of a mirror that the administrator has set."""

    repo: HubRepo
    """Owner and name."""
    revision: Annotated[str, Field(min_length=1, max_length=255, pattern=_REVISION)] = "main"
    """Commit, branch or tag. What it stands for when the job begins is recorded, and stays, in status.inputs."""
    token_secret_ref: SecretKeyReference | None = None
    """Token for a repository that is not public."""

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'Hugging Face repository "{self.repo}" at "{self.revision}"'


class ImageSource(SpecModel):
    """An OCI image or artifact whose files are the model, mounted as a volume where the cluster can do that."""

    reference: Annotated[str, Field(min_length=1, max_length=1024, pattern="^[!-~]+$")]
    """Image as its registry has it. A digest (name@sha256:…) is the only one that cannot change."""
    path: VolumePath = "."
    """Directory inside of it."""


class ModelSource(SpecModel):
    """Where the base model comes from: exactly one of volume, huggingFace and image."""

    volume: VolumeSource | None = None
    """A directory in Hugging Face format: config.json, safetensors and the tokenizer with its chat template."""
    hugging_face: HubSource | None = None
    """A repository in the same format. It is downloaded to the storage claim once, for all jobs that store there."""
    image: ImageSource | None = None
    """The same directory in an image."""

    rules = (exactly_one("volume", "huggingFace", "image"),)

    @property
    def is_downloaded(self) -> bool:
        """Whether it comes over the network, in the preparation."""
        return self.hugging_face is not None

    @property
    def label(self) -> str:
        """Its name, for people; may tell its size."""
        if self.volume is not None:
            return self.volume.path
        if self.hugging_face is not None:
            return self.hugging_face.repo
        assert self.image is not None
        # A digest tells people nothing.
        name = self.image.reference.partition("@")[0]
        return name if self.image.path == "." else f"{name}/{self.image.path}"

    def __str__(self) -> str:
        """It in the words of the spec."""
        if self.volume is not None:
            return str(self.volume)
        if self.hugging_face is not None:
            return str(self.hugging_face)
        assert self.image is not None
        return f'"{self.image.path}" in image "{self.image.reference}"'


# What the name of a file of data may end in: it tells how to read it.
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_TELLS_FORMAT = rf"(?i)({'|'.join(map(re.escape, DATA_SUFFIXES))})$"


def _tells_format(field: str, attribute: str) -> Rule:
    return Rule(
        cel=f"self.{field}.matches(r'{_TELLS_FORMAT}')",
        message=f"{field} must end in .jsonl, .json, .parquet or .csv, which tells how to read the file: "
        f"rename or convert it, and set its new {field}",
        holds=lambda source: re.search(_TELLS_FORMAT, getattr(source, attribute)) is not None,
    )


class DataFile(VolumeSource):
    """A file on a PersistentVolumeClaim of the job's namespace."""

    rules = (_tells_format("path", "path"),)


class HubData(HubSource):
    """Files of a data set of the Hugging Face Hub."""

    path: VolumePath
    """File in the repository, or several that are read one after the other: data/train-*.parquet."""

    rules = (_tells_format("path", "path"),)

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'"{self.path}" in {super().__str__()}'


class ObjectStore(SpecModel):
    """An object, or all below a prefix, in S3, Google Cloud Storage or Azure Blob Storage."""

    uri: Annotated[str, Field(max_length=1024, pattern=_URI, examples=["s3://bucket/data/train.jsonl"])]
    """s3://bucket/key, gs://bucket/key or az://container/key."""
    credentials_secret_ref: SecretReference | None = None
    """Secret with what the store's own client reads from its environment; see docs/sources.md. Without it the pod's
    own identity is used, if it has one."""

    @property
    def protocol(self) -> str:
        """s3, gs or az."""
        return self.uri.partition("://")[0]

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'"{self.uri}"'


class StoredData(ObjectStore):
    """Objects that are data."""

    rules = (_tells_format("uri", "uri"),)


class ConfigMapSource(SpecModel):
    """A key of a ConfigMap of the job's namespace."""

    name: ConfigMapName
    """Name of the ConfigMap."""
    key: ObjectKey
    """Key whose value is the file."""

    rules = (_tells_format("key", "key"),)

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'"{self.key}" of ConfigMap "{self.name}"'


class DataSource(SpecModel):
    """Where a data set comes from: exactly one of volume, huggingFace, objectStore and configMap.

    The name of the file ends in .jsonl, .json, .parquet or .csv.
    """

    volume: DataFile | None = None
    """A file on a claim."""
    hugging_face: HubData | None = None
    """Files of a repository, downloaded to the storage claim."""
    object_store: StoredData | None = None
    """Objects, downloaded to the storage claim. The uri may have *, for several that are read one after the other."""
    config_map: ConfigMapSource | None = None
    """A few rows that are kept with the job."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("volume", "huggingFace", "objectStore", "configMap"),)

    @property
    def is_downloaded(self) -> bool:
        """Whether it comes over the network, in the preparation."""
        return self.hugging_face is not None or self.object_store is not None

    def __str__(self) -> str:
        """It in the words of the spec."""
        one = self.volume or self.hugging_face or self.object_store or self.config_map
        return str(one)


Column = Annotated[str, Field(min_length=1, max_length=128)]


class Columns(SpecModel):
    """Under which names the data keep what is trained on. What is left out has the name of its field here.

    A row is a conversation (messages, tools), a prompt with its completion, or an instruction with its output.
    """

    messages: Column | None = None
    """A list of messages with role and content."""
    tools: Column | None = None
    """What the assistant may call, as a list of JSON schemas, or as JSON text of one."""
    prompt: Column | None = None
    """What the user says; or the messages before the completion."""
    completion: Column | None = None
    """What the assistant answers; or the messages that follow the prompt."""
    instruction: Column | None = None
    """Alpaca: what the user asks for."""
    input: Column | None = None
    """Alpaca: what the instruction is about; may be empty."""
    output: Column | None = None
    """Alpaca: what the assistant answers."""
    system: Column | None = None
    """System message of a prompt or of an instruction."""

    rules = (
        Rule(
            cel="[has(self.messages) || has(self.tools), has(self.prompt) || has(self.completion), "
            "has(self.instruction) || has(self.input) || has(self.output)].filter(named, named).size() <= 1",
            message="columns name one shape of rows: messages and tools, or prompt and completion, or instruction, "
            "input and output: remove the others",
            holds=lambda columns: (
                sum(
                    any(getattr(columns, name) is not None for name in shape)
                    for shape in (
                        ("messages", "tools"),
                        ("prompt", "completion"),
                        ("instruction", "input", "output"),
                    )
                )
                <= 1
            ),
        ),
        Rule(
            cel="!has(self.system) || !(has(self.messages) || has(self.tools))",
            message="columns.system goes with a prompt or an instruction; messages have a role system: remove it",
            holds=lambda columns: (
                columns.system is None or (columns.messages is None and columns.tools is None)
            ),
        ),
    )


class Dataset(SpecModel):
    """The data to train on, and those to tell by whether training helps."""

    train: DataSource
    """Training data. Loss is taken on what the assistant says."""
    validation: DataSource | None = None
    """Data of the same kind that are not trained on. Their loss tells when to stop."""
    validation_split: Annotated[float, Field(gt=0, lt=1)] | None = None
    """In the place of such data: the share of the training data that is held back. Equal samples stay together, and
    the same hyperparameters.seed holds the same samples back."""
    columns: Columns = Columns()
    """Names of columns where they are not the usual ones."""
    invalid_rows: Literal["Fail", "Drop"] = "Fail"
    """What becomes of a job whose data have rows that cannot be trained on. Drop leaves such rows out, and counts them.
    """
    prepare: Literal["Job", "Inline"] = "Job"
    """Job: a pod without GPUs prepares the data before any other is made. Inline: the training pods do."""

    rules = (
        Rule(
            cel="!has(self.validation) || !has(self.validationSplit)",
            message="validation and validationSplit exclude one another: remove one of them",
            holds=lambda dataset: dataset.validation is None or dataset.validation_split is None,
        ),
    )

    @property
    def is_validated(self) -> bool:
        """Whether some data tell how well training generalises."""
        return self.validation is not None or self.validation_split is not None


class Storage(SpecModel):
    """Where checkpoints, logs and the trained model are written; prepared data lie beside the job's directory."""

    claim_name: ClaimName | None = None
    """PersistentVolumeClaim to write to; ReadWriteMany when there is more than one node. Required where the
    administrator has set no default."""
    path: VolumePath | None = None
    """Directory for this job inside the volume; the job's name if left out. One job, one directory."""

    rules = (
        Rule(
            cel="!has(self.path) || self.path.split('/').exists(part, part != '' && part != '.')",
            message="path must be a directory inside the volume and not the volume's root, where what jobs share lies: "
            "set another, or remove it",
            holds=lambda storage: (
                storage.path is None or any(part not in ("", ".") for part in storage.path.split("/"))
            ),
        ),
    )
