"""Options that several subcommands share."""

from typing import Annotated

import typer

JobName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "-n", "--namespace", help="Namespace of the job; that of the kubeconfig's context if left out."
    ),
]
