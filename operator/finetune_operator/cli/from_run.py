"""The manifest that repeats a run: the one beside its result, or one that is made of the job on a cluster."""

import asyncio
from pathlib import Path

import yaml

from finetune_api import names, reproduce
from finetune_api.reproduce import UnsettledError
from finetune_operator import validation
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kubectl_yaml import KubectlLoader
from finetune_operator.cli.output import MachineFormat, to_json, to_yaml
from finetune_operator.cli.runs import on_this_machine


def manifest(run: str, namespace: str | None, form: MachineFormat) -> str:
    """The manifest of a run: of a directory, unless a namespace is named or there is none; then of a job.

    Raises CommandError.
    """
    directory = on_this_machine(run, namespace)
    return _of_job(run, namespace, form) if directory is None else _beside(directory, form)


def _beside(directory: Path, form: MachineFormat) -> str:
    """The one that was written with a result, in its directory or in that of the job."""
    for file in (directory / names.MANIFEST_FILE, directory / names.OUTPUT_DIR / names.MANIFEST_FILE):
        try:
            text = file.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        if form == "yaml":
            return text
        try:
            return to_json(yaml.load(text, KubectlLoader))
        except yaml.YAMLError as error:
            raise CommandError(f"{file} is not valid YAML any more: {error}") from error
    raise CommandError(
        f"there is no {names.MANIFEST_FILE} in {directory}, nor in {names.OUTPUT_DIR} below it: it is written with the "
        "result, when training is complete. Name the directory of a result or of its job, or a job on a cluster"
    )


def _of_job(name: str, namespace: str | None, form: MachineFormat) -> str:
    # The Kubernetes client takes longer to import than the other commands take to run.
    from finetune_operator.cli.cluster import status_of
    from finetune_operator.cli.surroundings import find_job

    found = asyncio.run(find_job(name, namespace))
    job, problems = validation.read(found)
    if job is None:
        raise CommandError(f"{names.SINGULAR}/{name} is not valid: {'; '.join(problems)}")
    try:
        repetition = reproduce.of_job(job, status_of(found))
    except UnsettledError as error:
        raise CommandError(f"{names.SINGULAR}/{name} cannot be repeated: {error}") from error
    if form == "json":
        return to_json(repetition.job)
    return f"{repetition.comment}\n{to_yaml([repetition.job])}"
