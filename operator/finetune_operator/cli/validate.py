"""`finetune validate`: the rules of the API server, without one."""

import sys
from typing import Annotated

import typer

from finetune_api import names
from finetune_operator.cli import manifests
from finetune_operator.cli.errors import CommandError


def validate(
    files: Annotated[list[typer.FileText], typer.Argument(metavar="FILE...", encoding="utf-8")],
) -> None:
    """Check every FineTuneJob in the YAML files (- is the standard input).

    Exit code: 0 all are valid, 1 some are not, 2 wrong usage.
    """
    found = manifests.read(files)
    for note in found.skipped:
        typer.echo(note, err=True)
    for problem in found.problems:
        typer.echo(str(problem), err=True)
    if found.problems:
        sys.exit(1)
    if not found.jobs:
        raise CommandError(f"there is no {names.KIND} in {', '.join(file.name for file in files)}")
    for job in found.jobs:
        typer.echo(f"{names.SINGULAR}/{job.metadata.name} is valid")
