"""`finetune logs`: what the pods of a job print, as one log."""

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.gang_logs import directory
from finetune_operator.cli.gang_logs.choice import StepName, attempt_of, called, chosen, on_volume
from finetune_operator.cli.gang_logs.lines import merged
from finetune_operator.cli.gang_logs.shown import Printer
from finetune_operator.cli.options import NamespaceOption
from finetune_operator.cli.runs import on_this_machine
from finetune_operator.cli.watch import EXIT_INTERRUPTED
from finetune_operator.lifecycle import steps

if TYPE_CHECKING:
    from finetune_operator.cli.surroundings import Surroundings, Wire


def logs(
    run: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="A job on the cluster, or the directory of a run.")
    ],
    namespace: NamespaceOption = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of this attempt; left out, what failed, or runs, or ran last.")
    ] = None,
    step: Annotated[
        StepName | None, typer.Option(help="Of a step that is no attempt, in the place of one.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Of this pod of the gang only.")] = None,
    previous: Annotated[bool, typer.Option("-p", "--previous", help="Of the attempt before that.")] = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the pods have ended.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="So many last lines of each pod.")] = None,
) -> None:
    """Print the logs of a job's pods, merged by time.

    Each line has the rank of its pod in front, where a gang has several. Of pods that are gone, the end of the log is
    shown as far as the status has it, and where all of it lies on the storage claim.

    Exit code: 0 something was shown, 1 there is no log, or it may not be read, 2 wrong usage, 130 Ctrl-C.
    """
    if attempt is not None and step is not None:
        raise typer.BadParameter("--attempt and --step exclude one another")
    if (path := on_this_machine(run, namespace)) is not None:
        if follow:
            raise typer.BadParameter("--follow is for jobs on a cluster: tail -f follows files")
        found = directory.read(path, attempt, step, rank, previous=previous, tail=tail)
        printer = Printer(_console(), pods=len(found) if rank is None else rank + 1)
        for line in merged(found):
            printer.print(line)
        return
    try:
        asyncio.run(_of_job(run, namespace, attempt, step, rank, previous=previous, follow=follow, tail=tail))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _console() -> Console:
    return Console(highlight=False)


async def _of_job(
    name: str,
    namespace: str | None,
    attempt: int | None,
    step: StepName | None,
    rank: int | None,
    *,
    previous: bool,
    follow: bool,
    tail: int | None,
) -> None:
    # The Kubernetes client takes longer to import than the other commands take to run.
    from kubernetes.aio import client

    from finetune_operator.cli.cluster import connect, status_of
    from finetune_operator.cli.gang_logs.kubelets import Kubelets
    from finetune_operator.cli.surroundings import Surroundings
    from finetune_operator.observation import reading

    namespace = await connect(namespace)
    async with client.ApiClient() as api:
        around = Surroundings(api, namespace)
        job = await around.job(name)
        number = chosen(status_of(job), attempt, step, previous=previous)
        found = [pod for wire in await around.pods(name, number) if (pod := reading.pod(wire, name))]
        pods = sorted(found, key=lambda pod: (pod.index or 0, pod.name))
        wanted = [pod for pod in pods if rank is None or (pod.index or 0) == rank]
        if not wanted:
            _tell_of_gone(job, number, rank, around, are_others_there=bool(pods))
            return
        printer = Printer(_console(), pods=max((pod.index or 0) for pod in pods) + 1)
        kubelets = Kubelets(api, namespace)
        if follow:
            await kubelets.follow(wanted, tail, printer.print, partial(typer.echo, err=True))
            return
        read = await kubelets.read(wanted, tail)
        for line in merged(read.lines):
            printer.print(line)
        for sentence in read.silent:
            typer.echo(sentence, err=True)
        if not read.lines:
            raise CommandError(f"no pod of {called(number)} has a log")


def _tell_of_gone(
    wire: "Wire", number: int, rank: int | None, around: "Surroundings", *, are_others_there: bool
) -> None:
    """Pods are gone, or cannot be seen: what else there is of their log. Raises CommandError where that is nothing."""
    from finetune_operator.observation import reading

    subject = reading.subject(wire)
    if are_others_there:
        raise CommandError(f"{called(number)} has no pod of rank {rank}")
    why = around.hidden.get("pods") or f"no pod of {called(number)} is there"
    told = attempt_of(subject.status, number)
    begun = number in steps.BY_NUMBER or told is not None
    if subject.job is not None and begun:
        why += f"; what it printed is on its storage claim, in {on_volume(subject.job, number, rank)}"
    if told is None or told.log is None:
        raise CommandError(why)
    typer.echo(f"{why}. The end of it:", err=True)
    typer.echo(told.log)
