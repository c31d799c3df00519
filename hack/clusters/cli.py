"""The command line of `hack/cluster`. News go to standard error; standard output has what was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar

import click

from clusters import binaries, choice
from clusters.console import ClusterError, say
from clusters.existing import ask
from clusters.paths import clusters_directory, locked
from clusters.volumes import parse_claim

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _name(command: _Command) -> _Command:
    option = click.option("--name", default=choice.DEFAULT_NAME, show_default=True, help="Which cluster.")
    return option(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The development cluster. CLUSTER=kind, local or existing chooses its kind; left alone, what is possible."""


@cli.command()
@_name
@click.option("--control-plane", is_flag=True, help="API server and controllers alone: no node, no root.")
@click.option("--yes", is_flag=True, help="Agree to the current kubeconfig context (CLUSTER=existing).")
def up(name: str, control_plane: bool, yes: bool) -> None:
    """Bring the cluster up, or repair it; quick when all of it runs."""
    with _lock(name):
        agree = (lambda _: True) if yes else ask
        cluster, why = choice.choose_cluster(name, control_plane=control_plane, agree=agree)
        if cluster.is_up():
            say(f"cluster {name} ({cluster.kind}) is up")
            return
        say(f"cluster {name}: {cluster.kind}, because {why}")
        cluster.up()
    say(f"cluster {name} is up. Look around: hack/cluster kubectl get pods --all-namespaces")


@cli.command()
@_name
def down(name: str) -> None:
    """Take the cluster down and remove it, volumes included; a local one keeps its images, which are slow to load."""
    with _lock(name):
        if not choice.is_up(name):
            say(f"there is no cluster {name}")
            return
        choice.current_cluster(name).down()
    say(f"cluster {name} is gone")


@cli.command()
@_name
def status(name: str) -> None:
    """Say what runs. Exit code 0 when all of it works, else 1."""
    cluster = choice.current_cluster(name)
    works = cluster.is_up()
    click.echo(
        f"cluster {name} ({cluster.kind}) {'works' if works else 'does NOT work: hack/cluster up repairs it'}"
    )
    for line in cluster.describe():
        click.echo(f"  {line}")
    click.echo(f"  kubeconfig: {cluster.kubeconfig}")
    sys.exit(0 if works else 1)


@cli.command()
@_name
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
def load_image(name: str, images: tuple[str, ...]) -> None:
    """Make images of this machine available to pods, under the names given."""
    with _lock(name):
        choice.current_cluster(name).load_images(images)


@cli.command()
@_name
@click.argument("claim", metavar="NAMESPACE/CLAIM")
@click.option(
    "--size", default="10Gi", show_default=True, help="What the claim asks for; nothing enforces it."
)
def volume(name: str, claim: str, size: str) -> None:
    """Make a claim that is a folder of this machine, and print that folder."""
    namespace, claim_name = parse_claim(claim)
    click.echo(choice.current_cluster(name).volume(namespace, claim_name, size))


@cli.command()
@_name
def kubeconfig(name: str) -> None:
    """Print the path of the administrator's kubeconfig."""
    click.echo(choice.current_cluster(name).kubeconfig)


@cli.command()
@click.option("--control-plane", is_flag=True, help="Only what a control plane needs.")
@click.option("--tests", is_flag=True, help="Also what tests run beside a control plane.")
def build(control_plane: bool, tests: bool) -> None:
    """Build the programs of a local cluster, as far as they are not in the cache, and print where they are."""
    names = binaries.CONTROL_PLANE if control_plane else binaries.LOCAL
    for path in binaries.ensure((*names, *(binaries.OF_TESTS if tests else ()))).values():
        click.echo(path)


# Everything after the first word that is not an option belongs to the program.
_PASS_ON: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False},
    "add_help_option": False,
}


@cli.command(**_PASS_ON)
@_name
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run the kubectl that belongs to the cluster."""
    _become("kubectl", name, arguments)


@cli.command(**_PASS_ON)
@_name
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def helm(name: str, arguments: tuple[str, ...]) -> None:
    """Run Helm on the cluster."""
    _become("helm", name, arguments)


def _become(program: str, name: str, arguments: tuple[str, ...]) -> NoReturn:
    cluster = choice.current_cluster(name)
    path = binaries.ensure([program])[program]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    os.execve(path, [program, *arguments], environment)


def _lock(name: str) -> AbstractContextManager[None]:
    waiting = f"another command is at work on cluster {name}: waiting for it"
    return locked(clusters_directory() / f".{name}.lock", waiting)


def main() -> None:
    """Run the command line; an error that its reader can act on is one message, not a traceback."""
    try:
        cli(prog_name="hack/cluster")
    except ClusterError as error:
        sys.exit(f"hack/cluster: {error}")
