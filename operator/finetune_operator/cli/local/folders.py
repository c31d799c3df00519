"""Folders of this machine in the place of PersistentVolumeClaims, ConfigMaps and images."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.evaluation import TRAIN
from finetune_api.runconfig import Locations
from finetune_api.sources import DataSource, ModelSource
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.errors import CommandError


@dataclass(frozen=True)
class Kind:
    """What a folder may stand in for."""

    option: str
    called: str
    """In messages; claims, of which every job has one, go without it in a list."""
    key: str = "NAME"
    """What the option takes before the folder."""


CLAIM = Kind("--claim", "claim")
CONFIG_MAP = Kind("--config-map", "ConfigMap")
IMAGE = Kind("--image", "image", "REFERENCE")

# What a folder stands in for: its kind, and its name.
Named = tuple[Kind, str]


def folders(job: FineTuneJob, mappings: Mapping[Kind, Iterable[str]]) -> dict[Named, Path]:
    """The folder of every claim, ConfigMap and image that the job names, from NAME=DIR mappings.

    The folder that results are written to is made when it is missing. Raises CommandError for a mapping that
    is no such thing, is missing, or that the job has no use for; the message has the options to add.
    """
    needed = _needed(job)
    found: dict[Named, Path] = {}
    for kind, stated in mappings.items():
        for mapping in stated:
            name, equals, folder = mapping.partition("=")
            if not (name and equals and folder):
                example = _options(needed, kind) or f"{kind.option} {kind.key}=DIR"
                raise CommandError(
                    f"{kind.option} {mapping}: write {kind.option} {kind.key}=DIR, e.g. {example}"
                )
            if (kind, name) not in needed:
                raise CommandError(
                    f"{kind.option} {mapping}: the job names no {kind.called} {name}. {_needs(needed)}"
                )
            if (kind, name) in found:
                raise CommandError(f"{kind.option} {name} is there twice: {found[kind, name]} and {folder}")
            found[kind, name] = _path(kind, name, folder)
    if missing := [named for named in needed if named not in found]:
        raise CommandError(f"{_needs(needed)}\nAdd: {_options(missing)}")
    results = found[CLAIM, job.storage_claim]
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"{CLAIM.option} {job.storage_claim}={results}: the folder cannot be made: {error.strerror}"
        ) from error
    for (kind, name), path in found.items():
        # Unlike pathlib's, it is also of paths that may not be looked at.
        if not os.path.isdir(path):
            raise CommandError(f"{kind.option} {name}={path}: there is no such folder")
    return found


def locations(job: FineTuneJob, found: Mapping[Named, Path]) -> Locations:
    """Where the trainer's processes find and leave things; what is downloaded lies beside the results."""
    storage = found[CLAIM, job.storage_claim] / job.storage_path
    places = Locations(model="", data={}, storage=str(storage))
    sources = job.spec.data_sources
    return places.model_copy(
        update={
            "model": _place(job.spec.model, found) or places.downloads,
            "data": {name: [_place(source, found) or places.downloads] for name, source in sources.items()},
        }
    )


def _path(kind: Kind, name: str, folder: str) -> Path:
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise CommandError(f"{kind.option} {name}={folder}: there is no such home directory") from error


def _place(source: ModelSource | DataSource, found: Mapping[Named, Path]) -> str | None:
    """Where a source lies; None if it is downloaded."""
    if (named := _named(source)) is None:
        return None
    return str(found[named] / _inside(source))


def _named(source: ModelSource | DataSource) -> Named | None:
    if source.volume is not None:
        return CLAIM, source.volume.claim_name
    if isinstance(source, ModelSource):
        return None if source.image is None else (IMAGE, source.image.reference)
    return None if source.config_map is None else (CONFIG_MAP, source.config_map.name)


def _inside(source: ModelSource | DataSource) -> str:
    if source.volume is not None:
        return source.volume.path
    if isinstance(source, ModelSource):
        assert source.image is not None
        return source.image.path
    assert source.config_map is not None
    return source.config_map.key


def _needed(job: FineTuneJob) -> dict[Named, list[str]]:
    """What folders have to stand in for, and what each is for."""
    uses: dict[Named, list[str]] = {}
    sources: dict[str, ModelSource | DataSource] = {"the base model": job.spec.model}
    for name, data in job.spec.data_sources.items():
        sources["the training data" if name == TRAIN else f"the {name} data"] = data
    for use, source in sources.items():
        if (named := _named(source)) is not None:
            uses.setdefault(named, []).append(use)
    uses.setdefault((CLAIM, job.storage_claim), []).append("the results")
    return uses


def _needs(needed: Mapping[Named, list[str]]) -> str:
    kinds = {kind.called for kind, _ in needed}
    stand_in = "claims" if kinds == {CLAIM.called} else "claims, ConfigMaps and images"
    uses = ", ".join(
        f"{name if kind is CLAIM else f'{kind.called} {name}'} ({' and '.join(uses)})"
        for (kind, name), uses in needed.items()
    )
    return f"On this machine folders stand in for {stand_in}. The job names {uses}."


def _options(named: Iterable[Named], only: Kind | None = None) -> str:
    return " ".join(f"{kind.option} {name}=DIR" for kind, name in named if only in (None, kind))
