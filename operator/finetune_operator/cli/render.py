"""`finetune render`: what the operator would create."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from finetune_api.plan import study
from finetune_api.spec import FineTuneJob
from finetune_operator import steps, workload
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
# What the operator creates: what prepares the data, where a pod of its own does, then the first attempt, and in the end
# what merges the adapter, where that is wanted. The job's uid, the trainer's image, the operator's address and CA
# certificate and the digest of the data are known in a cluster only: the first is all zeros here, the others are in
# capitals.
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
    beforehand = job.spec.dataset.prepare == "Job"
    prepared = dict.fromkeys(job.spec.data_sources, DIGEST) if beforehand else {}
    objects = list(workload.preparation(job, INSTALLATION)) if beforehand else []
    objects += workload.attempt(job, 1, INSTALLATION, prepared=prepared)
    if steps.merges(job):
        memory = study(job.spec).plan.merge_memory
        merging = workload.merging(job, INSTALLATION, prepared=prepared, memory=memory)
        # Its ConfigMap is the gang's.
        objects += [item for item in merging if item not in objects]
    return objects
