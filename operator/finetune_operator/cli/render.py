"""`finetune render`: what the operator would create."""

from typing import Annotated

import typer

from finetune_operator import workload
from finetune_operator.cli import manifests
from finetune_operator.cli.output import to_yaml

# What only a cluster knows.
UID = "00000000-0000-0000-0000-000000000000"
INSTALLATION = workload.Installation(
    trainer_image="TRAINER_IMAGE",
    report_url="https://OPERATOR",
    report_ca="CA_CERTIFICATE\n",
)
NOTE = """\
# What the operator creates for attempt 1 of this job. The job's uid, the trainer's image, and the operator's address
# and CA certificate are known in a cluster only: the first is all zeros here, the others are in capitals.
"""


def render(file: Annotated[typer.FileText, typer.Argument(metavar="FILE", encoding="utf-8")]) -> None:
    """Print the objects that the operator would create for the FineTuneJob in FILE (- is the standard input)."""
    job = manifests.read_one(file)
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": UID})})
    objects = workload.manifests(job, 1, INSTALLATION)
    typer.echo(NOTE + to_yaml(objects), nl=False)
