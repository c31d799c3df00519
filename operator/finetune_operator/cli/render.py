"""`finetune render`: what the operator would create."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from finetune_api.spec import FineTuneJob
from finetune_operator import workload
from finetune_operator.cli import files, manifests
from finetune_operator.cli.output import MachineFormat, to_json, to_yaml

# What only a cluster knows.
UID = "00000000-0000-0000-0000-000000000000"
DIGEST = "DIGEST_OF_THE_PREPARED_DATA"
INSTALLATION = workload.Installation(
    trainer_image="TRAINER_IMAGE",
    report_url="https://OPERATOR",
    report_ca="CA_CERTIFICATE\n",
)
NOTE = """\
# What the operator creates: what prepares the data, where a pod of its own does, and then the first attempt. The job's
# uid, the trainer's image, the operator's address and CA certificate and the digest of the data are known in a cluster
# only: the first is all zeros here, the others are in capitals.
"""


def render(
    arguments: files.Arguments,
    output: Annotated[
        MachineFormat, typer.Option("-o", "--output", help="How to print the objects.")
    ] = "yaml",
) -> None:
    """Print the objects that the operator would create.

    Exit code: 0 done, 1 a FineTuneJob is not valid (nothing is printed then), 2 wrong usage.
    """
    objects = [item for job in manifests.read_valid(arguments) for item in _objects(job)]
    if output == "yaml":
        typer.echo(NOTE + to_yaml(objects), nl=False)
    else:
        typer.echo(to_json({"apiVersion": "v1", "kind": "List", "items": objects}), nl=False)


def _objects(job: FineTuneJob) -> Sequence[dict[str, Any]]:
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": UID})})
    if job.spec.dataset.prepare == "Inline":
        return workload.attempt(job, 1, INSTALLATION, prepared=None)
    return (
        *workload.preparation(job, INSTALLATION),
        *workload.attempt(job, 1, INSTALLATION, prepared=DIGEST),
    )
