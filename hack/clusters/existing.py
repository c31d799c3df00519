"""A cluster that is somebody's: whatever the current kubeconfig context leads to, once its owner has agreed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from clusters import binaries, kubeconfig
from clusters.cluster import api_answers, kubectl
from clusters.console import ClusterError, say
from clusters.paths import cluster_directory
from clusters.record import Record
from clusters.shell import output


class ExistingCluster:
    """The cluster of the context that was current at `up`; a later change of the context changes nothing."""

    kind = "existing"

    def __init__(self, name: str, agree: Callable[[str], bool]) -> None:
        """`agree` is asked before anything is done to the cluster."""
        self._directory = cluster_directory(name)
        self._agree = agree

    @property
    def kubeconfig(self) -> Path:
        """A copy of the one context that was agreed upon."""
        return self._directory / "kubeconfig"

    def up(self) -> None:
        """Ask whether the current context may be used, and remember it.

        Raises:
            ClusterError: there is no current context, it was declined, or its API server does not answer.
        """
        if Record.load(self._directory) is None:
            path = binaries.ensure(["kubectl"])["kubectl"]
            config: dict[str, Any] = yaml.safe_load(
                output(path, "config", "view", "--minify", "--flatten", "--raw", "--output=yaml")
            )
            context = config["current-context"]
            server = config["clusters"][0]["cluster"]["server"]
            if not self._agree(f"install into the cluster of context {context!r}, {server}?"):
                raise ClusterError(
                    f"context {context!r} was not agreed to; choose another with kubectl config use-context"
                )
            self._directory.mkdir(parents=True, exist_ok=True)
            kubeconfig.write(self.kubeconfig, config)
            Record(self.kind, {"context": context, "server": server}).save(self._directory)
        kubectl(self.kubeconfig, "get", "--raw", "/readyz")

    def down(self) -> None:
        """Forget the cluster, which itself is left as it is."""
        say("the cluster is not ours: it is only forgotten, with everything in it left as it is")
        shutil.rmtree(self._directory)

    def is_up(self) -> bool:
        """Whether its API server answers."""
        return api_answers(self.kubeconfig)

    def describe(self) -> list[str]:
        """The context and its server."""
        record = Record.load(self._directory)
        details = record.details if record else {}
        return [f"context {details.get('context')}, {details.get('server')}"]

    def load_images(self, images: Sequence[str]) -> None:
        """Refuse."""
        raise ClusterError(
            f"images can not be put into somebody's cluster: push {', '.join(images)} to a registry that it reads"
        )

    def volume(self, namespace: str, claim: str, size: str) -> Path:
        """Refuse."""
        raise ClusterError(
            f"folders of this machine are not in somebody's cluster: create the claim {claim} "
            f"({size}, ReadWriteMany) in namespace {namespace} with a storage class of its own, and fill it there"
        )


def ask(question: str) -> bool:
    """Ask the person at the terminal.

    Raises:
        ClusterError: nobody is there.
    """
    if not sys.stdin.isatty():
        raise ClusterError(f"{question} Nobody is there to ask: say so with `hack/cluster up --yes`")
    return click.confirm(question, err=True)
