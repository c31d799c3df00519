"""What the inputs of a run are, as its storage has it: found out once, and then the same for every process and attempt.

Of what is downloaded, the operator knows no more than where all downloads lie. What a revision or an address stood for
when the run began, and where the files of that are, is here.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import ValidationError

from finetune_api import names
from finetune_api.evaluation import MODEL
from finetune_api.inputs import Input
from finetune_api.model import ApiModel
from finetune_api.runconfig import RunConfig
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidConfigurationError, described


class StoredObject(ApiModel):
    """An object of a store, as it was when the run began."""

    path: str
    """Bucket and key."""
    version: str
    """What changes with its content: the store's ETag or generation."""
    bytes: int
    file: str
    """Where it is kept, below the directory of downloads."""


class Recorded(ApiModel):
    """One input. What is not known before a download is complete is absent until then."""

    name: str
    """As in finetune_api.inputs.Input."""
    origin: str
    """In the words of the spec. Of another origin, nothing that is said here holds."""
    revision: str | None = None
    """Commit of its repository."""
    objects: list[StoredObject] = []
    """What an address of an object store stood for."""
    files: list[str] = []
    """Files of a data set, or the directory of a model, below the directory of downloads."""
    digest: str | None = None
    """As in finetune_api.inputs.Input; once it is there, so are the files."""
    bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything is there."""
        return self.digest is not None


class Record(ApiModel):
    """All of them."""

    uid: str
    """The run whose they are."""
    inputs: list[Recorded] = []

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """What this run has written down; nothing, if it has not.

        Raises InvalidConfigurationError for a file that it cannot have written, OSError where it cannot be read.
        """
        file = _file(config)
        try:
            record = cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return cls(uid=config.uid)
        except ValidationError as error:
            where = described(config.storage, file.parent)
            raise InvalidConfigurationError(
                f"spec.storage: {names.INPUTS_FILE} in {where} is damaged: {error}. "
                "Restore it, or train anew with another spec.storage.path"
            ) from None
        # Another run's directory is refused by who claims the storage.
        return record if record.uid == config.uid else cls(uid=config.uid)

    def find(self, name: str, origin: str) -> Recorded | None:
        """The input of this name, if it still comes from there."""
        return next((one for one in self.inputs if (one.name, one.origin) == (name, origin)), None)

    def replaced(self, one: Recorded) -> Self:
        """The record with another word on one input."""
        others = [other for other in self.inputs if other.name != one.name]
        return self.model_copy(update={"inputs": [*others, one]})

    def keep(self, config: RunConfig) -> None:
        """Write it down; it outlasts a loss of power."""
        file = _file(config)
        commit.replace_file(
            file, self.model_dump_json(by_alias=True, exclude_none=True, indent=1), durable=True
        )
        commit.flush(file.parent)

    def told(self, config: RunConfig) -> list[Input]:
        """What is complete, as Reports tell it, in the order of the spec."""
        found = (self.find(name, origin) for name, origin in origins(config).items())
        return [_told(config, one) for one in found if one is not None and one.is_complete]


def origins(config: RunConfig) -> dict[str, str]:
    """Where every input comes from, in the words of the spec, by its name: the model first, then the data."""
    return {MODEL: str(config.model)} | {name: str(data.source) for name, data in config.data_sets.items()}


def located(config: RunConfig) -> RunConfig:
    """The RunConfig with the paths of what was downloaded, as far as it is there.

    Raises InvalidConfigurationError or OSError as Record.of does.
    """
    wanted = downloaded(config)
    if not wanted:
        return config
    record = Record.of(config)
    places = {
        name: [str(Path(config.locations.downloads) / file) for file in one.files]
        for name, origin in origins(config).items()
        if name in wanted and (one := record.find(name, origin)) is not None and one.is_complete
    }
    changes: dict[str, object] = {
        "data": config.locations.data | {name: files for name, files in places.items() if name != MODEL}
    }
    if MODEL in places:
        [changes["model"]] = places[MODEL]
    return config.model_copy(update={"locations": config.locations.model_copy(update=changes)})


def missing(config: RunConfig) -> set[str]:
    """Names of inputs that are to be downloaded, and of which `located` has found nothing."""
    downloads = config.locations.downloads
    return {
        name
        for name in downloaded(config)
        if downloads in ([config.locations.model] if name == MODEL else config.locations.data[name])
    }


def downloaded(config: RunConfig) -> set[str]:
    """Names of inputs that come over the network."""
    data = {name for name, one in config.data_sets.items() if one.source.is_downloaded}
    return data | ({MODEL} if config.model.is_downloaded else set())


def _file(config: RunConfig) -> Path:
    return Path(config.locations.storage) / names.INPUTS_FILE


def _told(config: RunConfig, one: Recorded) -> Input:
    assert one.digest is not None
    return Input(
        name=one.name,
        origin=one.origin,
        revision=one.revision,
        digest=one.digest,
        bytes=one.bytes,
        path=_on_claim(config, one.files),
    )


def _on_claim(config: RunConfig, files: Sequence[str]) -> str | None:
    """Where downloaded files lie on the storage claim: the one, or the directory that has all of them."""
    if not files:
        return None
    beside = PurePosixPath(config.storage.path).parent
    return str(beside / names.DOWNLOADS_DIR / os.path.commonpath(files))
