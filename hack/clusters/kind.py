"""A cluster of kind: Kubernetes in Docker."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from clusters import binaries
from clusters.cluster import api_answers, kubectl
from clusters.console import ClusterError, step
from clusters.paths import cluster_directory
from clusters.record import Record
from clusters.shell import output
from clusters.volumes import create_volume

_NODE_VOLUMES = PurePosixPath("/volumes")


class KindCluster:
    """The cluster NAME in Docker containers; known to kind as ftj-NAME."""

    kind = "kind"

    def __init__(self, name: str) -> None:
        self._directory = cluster_directory(name)
        self._kind_name = f"ftj-{name}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; the user's own is left alone."""
        return self._directory / "kubeconfig"

    def up(self) -> None:
        """Create the cluster, or start the containers of one that is there."""
        Record(self.kind).save(self._directory)
        kind = ("--name", self._kind_name, "--kubeconfig", self.kubeconfig)
        if self._kind_name in self._run("get", "clusters").split():
            with step("kind cluster: starting its containers"):
                nodes = self._run("get", "nodes", "--name", self._kind_name).split()
                output("docker", "start", *nodes)
                self._run("export", "kubeconfig", *kind)
        else:
            with step("kind cluster: creating it"):
                self._volumes.mkdir(exist_ok=True)
                config = self._directory / "kind.yaml"
                config.write_text(yaml.safe_dump(render_config(self._volumes), sort_keys=False))
                self._run("create", "cluster", *kind, "--config", config)
        with step("node"):
            kubectl(self.kubeconfig, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s")

    def down(self) -> None:
        """Delete the cluster and everything kept of it."""
        if self._kind_name in self._run("get", "clusters").split():
            # Pods write as users of their own: that can only be removed by root, who is in the nodes.
            for node in self._run("get", "nodes", "--name", self._kind_name).split():
                # What is left, as where a node is broken or a pod writes meanwhile, is told below.
                with suppress(ClusterError):
                    output("docker", "start", node)
                    output("docker", "exec", node, "find", str(_NODE_VOLUMES), "-mindepth", "1", "-delete")
        self._run("delete", "cluster", "--name", self._kind_name, "--kubeconfig", self.kubeconfig)
        shutil.rmtree(self._directory)

    def is_up(self) -> bool:
        """Whether its API server answers."""
        return api_answers(self.kubeconfig)

    def describe(self) -> list[str]:
        """Its nodes."""
        return (
            kubectl(self.kubeconfig, "get", "nodes").splitlines() if self.is_up() else ["it does not answer"]
        )

    def load_images(self, images: Sequence[str]) -> None:
        """Copy images of the Docker engine into the nodes; kind leaves out those that are there."""
        with step(f"loading {', '.join(images)}"):
            self._run("load", "docker-image", *images, "--name", self._kind_name)

    def volume(self, namespace: str, claim: str, size: str) -> Path:
        """Make a claim over a folder in the cluster's own, which is mounted into the node; `down` removes it."""
        folder = PurePosixPath(namespace, claim)
        return create_volume(
            self.kubeconfig, self._volumes / folder, _NODE_VOLUMES / folder, namespace, claim, size
        )

    @property
    def _volumes(self) -> Path:
        return self._directory / "volumes"

    def _run(self, *arguments: str | Path) -> str:
        return output(kind_binary(), *arguments)


def kind_binary() -> Path:
    """The kind on PATH, else one that is built from its Go module."""
    found = shutil.which("kind")
    return Path(found) if found else binaries.ensure(["kind"])["kind"]


def render_config(volumes: Path) -> dict[str, Any]:
    """One node that sees this machine's folder `volumes`."""
    mount = {"hostPath": str(volumes), "containerPath": str(_NODE_VOLUMES)}
    return {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        "nodes": [{"role": "control-plane", "extraMounts": [mount]}],
    }
