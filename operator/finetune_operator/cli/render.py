"""`finetune render`: what the operator would create, or the manifest that repeats a run."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from finetune_api.defaults import Defaults
from finetune_api.plan import study
from finetune_api.spec import FineTuneJob
from finetune_operator import tenancy
from finetune_operator.cli import files, manifests
from finetune_operator.cli.from_run import manifest
from finetune_operator.cli.output import MachineFormat, to_json, to_yaml
from finetune_operator.lifecycle import steps
from finetune_operator.objects import workload

# What only a cluster knows.
UID = "00000000-0000-0000-0000-000000000000"
DIGEST = "DIGEST_OF_THE_PREPARED_DATA"
CLAIM = "default-claim"
INSTALLATION = workload.Installation(
    trainer_image="TRAINER_IMAGE",
    report_url="https://OPERATOR",
    report_ca="CA_CERTIFICATE\n",
)
NOTE = """\
# What the operator creates: what prepares the data, where a pod of its own does, then the first attempt, and in the end
# what merges the adapter and what uploads the result, where that is wanted. The job's uid, the trainer's image, the
# operator's address and CA certificate and the digest of the data are known in a cluster only: the first is all zeros
# here, the others are in capitals. So are the defaults of its administrator; results go to default-claim where the
# job names no claim.
"""


def render(
    arguments: files.OptionalArguments = None,
    output: Annotated[
        MachineFormat, typer.Option("-o", "--output", help="How to print the objects.")
    ] = "yaml",
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from-run",
            metavar="DIR|NAME",
            help="In the place of FILE: print the FineTuneJob that repeats a run, which left its result in this "
            "directory, or is a job of this name on the cluster of the current kubeconfig.",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--namespace",
            help="With --from-run NAME: namespace of the job; that of the kubeconfig's context if left out.",
        ),
    ] = None,
) -> None:
    """Print what the operator would create, or what repeats a run.

    Exit code: 0 done, 1 a FineTuneJob is not valid, or there is no such run (nothing is printed then), 2 wrong usage.
    """
    if from_run is not None:
        if arguments:
            raise typer.BadParameter("--from-run takes the place of FILE: name one of them")
        typer.echo(manifest(from_run, namespace, output), nl=False)
        return
    if not arguments:
        raise typer.BadParameter("name FILE, or --from-run")
    if namespace is not None:
        raise typer.BadParameter(
            "-n goes with --from-run NAME; the namespace of a file's job stands in the file"
        )
    objects = [item for job in manifests.read_valid(arguments) for item in _objects(job)]
    if output == "yaml":
        typer.echo(NOTE + to_yaml(objects), nl=False)
    else:
        typer.echo(to_json({"apiVersion": "v1", "kind": "List", "items": objects}), nl=False)


def _objects(job: FineTuneJob) -> Sequence[dict[str, Any]]:
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": UID})})
    job = tenancy.filled(job, Defaults(storage_claim_name=CLAIM))
    beforehand = job.spec.dataset.prepare == "Job"
    prepared = dict.fromkeys(job.spec.data_sources, DIGEST) if beforehand else {}
    objects = list(workload.preparation(job, INSTALLATION)) if beforehand else []
    objects += workload.attempt(job, 1, INSTALLATION, prepared=prepared)
    if steps.merges(job):
        memory = study(job.spec).plan.merge_memory
        merging = workload.merging(job, INSTALLATION, prepared=prepared, memory=memory)
        # Its ConfigMap is the gang's.
        objects += [item for item in merging if item["kind"] != "ConfigMap"]
    if job.spec.publish is not None:
        objects += workload.publishing(job, INSTALLATION)
    return objects
