"""What every kind of development cluster can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clusters import binaries
from clusters.console import ClusterError
from clusters.shell import output


class Cluster(Protocol):
    """One development cluster, whether or not it is up."""

    @property
    def kind(self) -> str:
        """Of which kind it is, as its record says."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    def up(self) -> None:
        """Start it, or what of it does not run; quick when all does."""

    def down(self) -> None:
        """Remove it, as far as it is ours."""

    def is_up(self) -> bool:
        """Whether all of it works."""

    def describe(self) -> list[str]:
        """Lines that say what there is and how it does."""

    def load_images(self, images: Sequence[str]) -> None:
        """Make images of this machine available to pods under the very names given."""

    def volume(self, namespace: str, claim: str, size: str) -> Path:
        """Make a claim (ReadWriteMany) that is a folder of this machine, and return that folder."""


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run the cached kubectl and return what it printed."""
    path = binaries.ensure(["kubectl"])["kubectl"]
    return output(path, *arguments, stdin=stdin, environment={**os.environ, "KUBECONFIG": str(kubeconfig)})


def api_answers(kubeconfig: Path) -> bool:
    """Whether the API server that the kubeconfig leads to is ready."""
    if not kubeconfig.exists():
        return False
    try:
        kubectl(kubeconfig, "get", "--raw", "/readyz", "--request-timeout=5s")
    except ClusterError:
        return False
    return True
