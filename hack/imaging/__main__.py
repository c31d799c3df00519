"""The command `hack/images`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from clusters.console import ClusterError
from clusters.paths import locked
from imaging import base
from imaging.content import IMAGES
from imaging.engines import Buildah, find_engine

_TARGET = click.Choice(list(IMAGES))


@click.group()
def cli() -> None:
    """Build the images of the operator and the trainer, each named by a digest of what goes into it."""


@cli.command()
@click.argument("targets", nargs=-1, type=_TARGET)
def build(targets: tuple[str, ...]) -> None:
    """Build the given images, or both, and print their full names; quick for one that is there already."""
    engine = find_engine()
    with locked(_lock(), "another process is building images: waiting for it"):
        for image in IMAGES.values():
            if targets and image.target not in targets:
                continue
            reference = image.reference()
            if not engine.has(reference):
                engine.build(image.target, reference)
                engine.prune(image.repository, reference)
            click.echo(reference)


@cli.command()
@click.argument("target", type=_TARGET)
def tag(target: str) -> None:
    """Print the full name that an image of this checkout has, or will have once it is built."""
    click.echo(IMAGES[target].reference())


@cli.command("base")
def make_base() -> None:
    """Make the base image that buildah builds on, if it is not there, and print its name."""
    if not isinstance(engine := find_engine(), Buildah):
        raise ClusterError("the Docker engine fetches the official Python image: no other base is needed")
    with locked(_lock(), "another process is building images: waiting for it"):
        if not engine.has(base.REFERENCE):
            base.make()
    click.echo(base.REFERENCE)


def _lock() -> Path:
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "images.lock"
    )


if __name__ == "__main__":
    try:
        cli()
    except ClusterError as error:
        sys.exit(f"error: {error}")
