"""`finetune run`: a FineTuneJob on this machine, without Kubernetes."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finetune_api import names
from finetune_api.scheduling import Scheduling
from finetune_api.sources import ObjectStore
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus, Output, Phase, newest_state
from finetune_api.tracking import MLFLOW_VARIABLES, WANDB_VARIABLES, Tracking
from finetune_operator.cli import files, manifests
from finetune_operator.cli.display import Display
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.local import folders, gpus, trainer
from finetune_operator.cli.local.identity import run_uid
from finetune_operator.cli.local.interrupt import Interrupt
from finetune_operator.cli.local.loop import is_over, train
from finetune_operator.cli.local.machine import Machine
from finetune_operator.cli.output import to_yaml
from finetune_operator.lifecycle import publishing
from finetune_operator.status import conditions

_TRACKING = (
    "spec.tracking names Secrets, and there are none without a cluster: the trainer logs to MLflow or Weights & Biases "
    f"if this shell has {MLFLOW_VARIABLES[0]} or {WANDB_VARIABLES[0]}"
)


_CREDENTIALS = (
    "spec names Secrets of who may download or upload, and there are none without a cluster: what this shell has is "
    "used instead (HF_TOKEN, AWS_ACCESS_KEY_ID and the like; see docs/sources.md and docs/publishing.md)"
)


def _folder(kind: folders.Kind, help: str) -> Any:
    metavar = f"{kind.key}=DIR"
    return typer.Option(kind.option, metavar=metavar, help=help, default_factory=list, show_default=False)


def run(
    file: files.Argument,
    claims: Annotated[list[str], _folder(folders.CLAIM, "The folder in the place of a claim.")],
    config_maps: Annotated[
        list[str],
        _folder(folders.CONFIG_MAP, "The folder in the place of a ConfigMap: a file for each of its keys."),
    ],
    images: Annotated[
        list[str], _folder(folders.IMAGE, "The folder in the place of an image: the files that are in it.")
    ],
) -> None:
    """Train a FineTuneJob on this machine.

    Folders stand in for its claims, ConfigMaps and images, and a process for each of its pods.

    Ctrl-C saves the state and ends; the same command goes on from there. At the end the job's status is printed as
    YAML, as it would be on a cluster.

    Exit code: 0 it succeeded, 1 it failed or cannot start, or its result is not uploaded, 2 wrong usage, 130 Ctrl-C.
    """
    job = _only_job(file)
    if job.spec.tracking != Tracking():
        typer.echo(_TRACKING, err=True)
    if _names_secrets(job):
        typer.echo(_CREDENTIALS, err=True)
    found = folders.folders(
        job, {folders.CLAIM: claims, folders.CONFIG_MAP: config_maps, folders.IMAGE: images}
    )
    devices = gpus.assign(job)
    command = _trainer()
    job = _of_this_machine(job)
    locations = folders.locations(job, found)
    with _locked(Path(locations.storage)) as lock, Interrupt() as interrupt:
        machine = Machine(job, locations, command, devices, lock)
        with Display(Console(stderr=True, highlight=False)) as display:
            status = train(job, machine, display, interrupt)
    if interrupt.signal is not None and not is_over(job, status):
        machine.clean()
        typer.echo(_farewell(status), err=True)
        sys.exit(128 + interrupt.signal)
    typer.echo(to_yaml([{"status": status.to_wire()}]), nl=False)
    if status.phase is not Phase.SUCCEEDED:
        ready = conditions.find(status.conditions, conditions.READY)
        assert ready is not None
        raise CommandError(f"{ready.message}\nWhat the nodes printed is in {machine.directory}")
    assert status.output is not None
    typer.echo(_results(status.output, Path(locations.storage)), err=True)
    if publishing.has_failed(status):
        assert status.publication is not None
        raise CommandError(
            f"It is trained, and not uploaded: {status.publication.message}. The same command tries again\n"
            f"What the nodes printed is in {machine.directory}"
        )
    machine.clean()
    if status.publication is not None:
        typer.echo(f"It is uploaded to {status.publication.target}", err=True)


def _of_this_machine(job: FineTuneJob) -> FineTuneJob:
    """The job with an identity, and without what a cluster's schedulers and queues are told: here it starts at once."""
    metadata = job.metadata.model_copy(update={"uid": run_uid(job)})
    spec = job.spec.model_copy(update={"scheduling": Scheduling()})
    return job.model_copy(update={"metadata": metadata, "spec": spec})


def _names_secrets(job: FineTuneJob) -> bool:
    """Whether it takes a Secret to download what the job names, or to upload its result."""
    sources = job.spec.data_sources.values()
    repositories = [job.spec.model.hugging_face, *(source.hugging_face for source in sources)]
    stores: list[ObjectStore | None] = [source.object_store for source in sources]
    if job.spec.publish is not None:
        if job.spec.publish.hugging_face is not None:
            return True
        stores.append(job.spec.publish.object_store)
    return any(one is not None and one.token_secret_ref is not None for one in repositories) or any(
        one is not None and one.credentials_secret_ref is not None for one in stores
    )


def _only_job(file: str) -> FineTuneJob:
    """The job of a file.

    Raises CommandError when it has several, or one that is not to be trained.
    """
    jobs = manifests.read_valid([file])
    if len(jobs) > 1:
        found = ", ".join(job.metadata.name for job in jobs)
        raise CommandError(f"{file}: one {names.KIND} is needed here; found: {found}")
    if jobs[0].spec.suspend:
        raise CommandError(
            f"{file}: spec.suspend is true, so nothing may run: set it to false, or remove it. Here, Ctrl-C suspends a "
            "run, and the same command goes on from there"
        )
    if jobs[0].spec.storage.claim_name is None:
        raise CommandError(
            f"{file}: spec.storage.claimName: is required here: what the administrator of a cluster has set for it is "
            "not known on this machine"
        )
    return jobs[0]


def _trainer() -> list[str]:
    """The trainer's command. Raises CommandError when it is not installed."""
    found = trainer.find()
    if found is None:
        raise CommandError(f"{trainer.COMMAND} is not installed here. {trainer.HINT}")
    return [found]


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Keep other runs out of a directory; yields the file descriptor that holds the lock.

    The lock lasts as long as any process has the descriptor: nodes that outlive this command keep it.
    Raises CommandError when another run holds it, or the directory is none that can be locked.
    """
    instead = f"name another folder with {folders.CLAIM.option}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise CommandError(
            f"{directory}: the folder of the results cannot be made, or not be read: {error.strerror}; {instead}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another run is underway in {directory}; wait for it, or end it") from None
        except OSError as error:
            raise CommandError(
                f"{directory}: other runs cannot be kept out, for its file system gives no lock: {error.strerror}; "
                f"{instead}"
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def _results(output: Output, storage: Path) -> str:
    told = [f"The {output.format} is in {storage / names.OUTPUT_DIR}"]
    if output.merged is not None:
        told.append(f"The merged model is in {storage / names.MERGED_DIR}")
    return "\n".join(told)


def _farewell(status: FineTuneJobStatus) -> str:
    if status.phase is Phase.SUCCEEDED:
        return "Stopped. The result is complete, and not uploaded: the same command goes on with that."
    if status.output is not None:
        return "Stopped. The adapter is complete: the same command goes on with merging it."
    saved = newest_state(status.checkpoints)
    if not saved:
        return "Stopped before anything was saved: the same command starts from the beginning."
    return f"Stopped. The state of step {saved} is saved: the same command goes on from there."
