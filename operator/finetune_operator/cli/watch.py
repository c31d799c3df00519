"""`finetune watch`: follow a job on a cluster."""

import asyncio
import re
import sys
from typing import Annotated

import typer
from rich.console import Console

from finetune_api import names
from finetune_api.status import Phase
from finetune_operator.cli.display import Display
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.options import JobName, NamespaceOption
from finetune_operator.lifecycle import publishing
from finetune_operator.status import conditions

# What timeout(1) exits with.
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def duration(text: str) -> float:
    """A duration as kubectl reads it ('90s', '30m', '2h', or a combination such as '1h30m'), in seconds.

    Raises typer.BadParameter for anything else.
    """
    if not re.fullmatch(r"(\d+[hms])+", text):
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 30m or 1h30m")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def watch(
    name: JobName,
    namespace: NamespaceOption = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=duration, metavar="DURATION", help="Give up after this long, e.g. 90s, 30m, 1h30m."
        ),
    ] = None,
) -> None:
    """Follow a FineTuneJob on a cluster until it is over.

    That is when its result is uploaded, too, where spec.publish says so. The cluster is that of the current kubeconfig.

    Exit code: 0 it succeeded, 1 it failed or is gone, or the upload was given up, 2 wrong usage, 124 the timeout is
    over, 130 Ctrl-C. Leaving does nothing to the job.
    """
    # The Kubernetes client takes longer to import than the other commands take to run.
    from finetune_operator.cli.following import follow

    try:
        with Display(Console(highlight=False)) as display:
            status = asyncio.run(follow(name, namespace, timeout, display))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except TimeoutError:
        typer.echo(f"{names.SINGULAR}/{name} is still underway after the timeout", err=True)
        sys.exit(EXIT_TIMEOUT)
    if status.phase is not Phase.SUCCEEDED:
        ready = conditions.find(status.conditions, conditions.READY)
        raise CommandError(ready.message if ready else f"{names.SINGULAR}/{name} failed")
    if publishing.has_failed(status):
        published = conditions.find(status.conditions, conditions.PUBLISHED)
        raise CommandError(f"it is trained, and not uploaded: {published.message if published else ''}")
