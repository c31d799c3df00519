"""Folders of this machine in the place of PersistentVolumeClaims."""

from collections.abc import Iterable
from pathlib import Path

from finetune_api.evaluation import TRAIN
from finetune_api.runconfig import Locations
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.errors import CommandError


def folders(job: FineTuneJob, mappings: Iterable[str]) -> dict[str, Path]:
    """The folder of every claim that the job names, from NAME=DIR mappings.

    The folder that results are written to is made when it is missing. Raises CommandError for a mapping that
    is no such thing, is missing, or that the job has no use for; the message has the options to add.
    """
    needed = _needed(job)
    found: dict[str, Path] = {}
    for mapping in mappings:
        claim, equals, folder = mapping.partition("=")
        if not (claim and equals and folder):
            raise CommandError(f"--claim {mapping}: write --claim NAME=DIR, e.g. {_options(needed)}")
        if claim not in needed:
            raise CommandError(f"--claim {mapping}: the job names no claim {claim}. {_needs(needed)}")
        if claim in found:
            raise CommandError(f"--claim {claim} is there twice: {found[claim]} and {folder}")
        found[claim] = Path(folder).expanduser().absolute()
    if missing := [claim for claim in needed if claim not in found]:
        raise CommandError(f"{_needs(needed)}\nAdd: {_options(missing)}")
    found[job.spec.storage.claim_name].mkdir(parents=True, exist_ok=True)
    for claim, path in found.items():
        if not path.is_dir():
            raise CommandError(f"--claim {claim}={path}: there is no such folder")
    return found


def locations(job: FineTuneJob, found: dict[str, Path]) -> Locations:
    """Where the trainer's processes find and leave things."""
    model = job.spec.model.volume
    assert model is not None
    return Locations(
        model=str(found[model.claim_name] / model.path),
        data={
            name: [str(found[source.volume.claim_name] / source.volume.path)]
            for name, source in job.spec.data_sources.items()
            if source.volume is not None
        },
        storage=str(found[job.spec.storage.claim_name] / job.storage_path),
    )


def _needed(job: FineTuneJob) -> dict[str, list[str]]:
    """The claims of a job, and what each is for."""
    uses: dict[str, list[str]] = {}
    model = job.spec.model.volume
    if model is not None:
        uses.setdefault(model.claim_name, []).append("the base model")
    for name, source in job.spec.data_sources.items():
        if source.volume is not None:
            use = "the training data" if name == TRAIN else f"the {name} data"
            uses.setdefault(source.volume.claim_name, []).append(use)
    uses.setdefault(job.spec.storage.claim_name, []).append("the results")
    return uses


def _needs(needed: dict[str, list[str]]) -> str:
    uses = ", ".join(f"{claim} ({' and '.join(uses)})" for claim, uses in needed.items())
    return f"On this machine folders stand in for claims. The job names {uses}."


def _options(claims: Iterable[str]) -> str:
    return " ".join(f"--claim {claim}=DIR" for claim in claims)
