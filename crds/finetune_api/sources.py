"""Where models, data and results lie, and how data are read."""

import re
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import Rule, SpecModel
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


# What the name of a file of data may end in: it tells how to read it.
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_TELLS_FORMAT = rf"(?i)({'|'.join(map(re.escape, DATA_SUFFIXES))})$"


class DataSource(SpecModel):
    """Where a data set comes from."""

    volume: VolumeSource
    """A file whose name ends in .jsonl, .json, .parquet or .csv."""

    rules = (
        Rule(
            cel=f"self.volume.path.matches(r'{_TELLS_FORMAT}')",
            message="volume.path must end in .jsonl, .json, .parquet or .csv, which tells how to read the file: "
            "rename or convert it, and set its new path",
            holds=lambda source: re.search(_TELLS_FORMAT, source.volume.path) is not None,
        ),
    )


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
    """The data to train on."""

    train: DataSource
    """Training data. Loss is taken on what the assistant says."""
    columns: Columns = Columns()
    """Names of columns where they are not the usual ones."""
    invalid_rows: Literal["Fail", "Drop"] = "Fail"
    """What becomes of a job whose data have rows that cannot be trained on. Drop leaves such rows out, and counts them.
    """
    prepare: Literal["Job", "Inline"] = "Job"
    """Job: a pod without GPUs prepares the data before any other is made. Inline: the training pods do."""


class Storage(SpecModel):
    """Where checkpoints, logs and the trained model are written; prepared data lie beside the job's directory."""

    claim_name: ClaimName
    """PersistentVolumeClaim to write to; ReadWriteMany when there is more than one node."""
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
