"""`finetune checkpoints`: what a run has left, and what each of it is good for."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from finetune_operator.cli.keeping import directory
from finetune_operator.cli.keeping.shelf import Shelf, of_status
from finetune_operator.cli.options import NamespaceOption
from finetune_operator.cli.output import OutputOption, write
from finetune_operator.cli.runs import on_this_machine


def checkpoints(
    run: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="A job on the cluster, or the directory of a run.")
    ],
    namespace: NamespaceOption = None,
    output: OutputOption = "text",
) -> None:
    """List a run's checkpoints and its result.

    Marked are the one with the lowest validation loss, the one that a restart would go on from, and the result. Paths
    are those on the storage claim. With -n, the name is that of a job, even if there is a directory of that name.

    Exit code: 0 listed, 1 there is no such run, or it cannot be read, 2 wrong usage.
    """
    found = _shelf(run, namespace)
    if output != "text":
        write(found.document(), output)
    elif found.checkpoints or found.results:
        for line in found.table(datetime.now(UTC)):
            typer.echo(line)
    else:
        typer.echo("no checkpoint is complete yet", err=True)


def _shelf(run: str, namespace: str | None) -> Shelf:
    if (path := on_this_machine(run, namespace)) is not None:
        return directory.read(path)
    from finetune_operator.cli.cluster import status_of
    from finetune_operator.cli.surroundings import find_job

    return of_status(status_of(asyncio.run(find_job(run, namespace))))
