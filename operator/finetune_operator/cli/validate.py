"""`finetune validate`: the rules of the API server, without one."""

import sys
from typing import IO

import click

from finetune_api import names
from finetune_operator.cli import manifests


@click.command()
@click.argument("files", metavar="FILE...", type=click.File(encoding="utf-8"), nargs=-1, required=True)
def validate(files: tuple[IO[str], ...]) -> None:
    """Check every FineTuneJob in the YAML files (- is the standard input).

    Exit code: 0 all are valid, 1 some are not, 2 wrong usage.
    """
    found = manifests.read(files)
    for note in found.skipped:
        click.echo(note, err=True)
    for problem in found.problems:
        click.echo(str(problem), err=True)
    if found.problems:
        sys.exit(1)
    if not found.jobs:
        raise click.ClickException(f"there is no {names.KIND} in {', '.join(file.name for file in files)}")
    for job in found.jobs:
        click.echo(f"{names.SINGULAR}/{job.metadata.name} is valid")
