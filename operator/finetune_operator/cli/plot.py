"""`finetune plot`: how training went, as curves."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune_api import names
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.options import NamespaceOption
from finetune_operator.cli.plotting import files, image, series
from finetune_operator.cli.plotting.panels import panels
from finetune_operator.cli.plotting.series import Course
from finetune_operator.cli.runs import on_this_machine


def _image(path: Path | None) -> Path | None:
    if path is not None and path.suffix not in image.SUFFIXES:
        raise typer.BadParameter(f"{path} does not end in one of {', '.join(image.SUFFIXES)}")
    return path


def plot(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|DIR|FILE",
            help=f"A job on the cluster, the directory of a run, or its {names.METRICS_FILE}. Several are compared.",
        ),
    ],
    namespace: NamespaceOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            callback=_image,
            help="Write an image (.png or .svg) instead of drawing in the terminal.",
        ),
    ] = None,
    log_scale: Annotated[bool, typer.Option("--log", help="Loss on a logarithmic scale.")] = False,
) -> None:
    """Draw loss, learning rate and throughput of one or several runs.

    A run's directory has every step. Of a job on the cluster the status has up to 64 points, each for several steps.
    With -n, names are those of jobs, even if there is a file of that name.

    Exit code: 0 drawn, 1 there is nothing to draw, or it cannot be read or written, 2 wrong usage.
    """
    courses = _distinct([_course(run, namespace) for run in runs])
    drawn = panels(courses)
    if output is not None:
        image.write(output, drawn, log_scale=log_scale)
        typer.echo(f"wrote {output}", err=True)
        return
    # Takes as long to import as all else together.
    from finetune_operator.cli.plotting import terminal

    terminal.draw(Console(highlight=False), drawn, log_scale=log_scale)


def _course(run: str, namespace: str | None) -> Course:
    if (path := on_this_machine(run, namespace, or_file=True)) is not None:
        return files.read(path)
    from finetune_operator.cli.cluster import status_of
    from finetune_operator.cli.surroundings import find_job

    curve = status_of(asyncio.run(find_job(run, namespace))).curve
    course = series.Course(run) if curve is None else series.of_curve(run, curve)
    if course.is_empty:
        raise CommandError(f"{names.SINGULAR}/{run} has not reported an optimizer step yet")
    return course


def _distinct(courses: list[Course]) -> list[Course]:
    """Runs of one name, of directories in different places, say, with a number each."""
    taken = [course.name for course in courses]
    return [
        replace(course, name=f"{course.name} ({number})") if taken.count(course.name) > 1 else course
        for number, course in enumerate(courses, start=1)
    ]
