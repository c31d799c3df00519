"""Which kind of cluster a machine gets, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from clusters import binaries
from clusters.cluster import Cluster
from clusters.console import ClusterError
from clusters.existing import ExistingCluster
from clusters.kind import KindCluster
from clusters.local.cluster import LocalCluster
from clusters.local.standing import StandingControlPlane
from clusters.paths import cluster_directory
from clusters.record import Record

DEFAULT_NAME = "dev"
_REQUESTS = ("auto", "kind", "local", "existing")


@dataclass(frozen=True)
class Machine:
    """What the choice depends on: each field says what stands in the way of a kind, or None."""

    docker_obstacle: str | None
    kind_obstacle: str | None
    local_obstacle: str | None


@dataclass(frozen=True)
class Choice:
    """A kind of cluster, and the reason for it in words that follow `because`."""

    kind: str
    why: str


def decide(request: str, machine: Machine) -> Choice:
    """The kind for a cluster that is to be made anew.

    Raises:
        ClusterError: the machine can not have what was requested, or (`auto`) any.
    """
    for_kind = machine.docker_obstacle or machine.kind_obstacle
    obstacles = {"kind": for_kind, "local": machine.local_obstacle, "existing": None}
    if request != "auto":
        if obstacle := obstacles[request]:
            raise ClusterError(f"CLUSTER={request} is not possible here: {obstacle}")
        return Choice(request, f"CLUSTER={request} was given")
    if for_kind is None:
        return Choice("kind", "a Docker engine answers")
    if machine.local_obstacle is None:
        return Choice("local", f"{for_kind}, but we are root on Linux")
    raise ClusterError(
        f"no cluster can be made on this machine: kind is not possible ({for_kind}), "
        f"nor is local ({machine.local_obstacle}). CLUSTER=existing uses the cluster of your kubeconfig."
    )


def requested() -> str:
    """The value of the environment variable CLUSTER.

    Raises:
        ClusterError: it is none of those that make a cluster.
    """
    request = os.environ.get("CLUSTER") or "auto"
    if request == "none":
        raise ClusterError(
            "CLUSTER=none was given, and this is all about clusters; `finetune run` works without one"
        )
    if request not in _REQUESTS:
        raise ClusterError(f"CLUSTER={request} is not known: it is {', '.join(_REQUESTS)} or none")
    return request


def inspect_machine() -> Machine:
    """Look at this machine."""
    kind_obstacle = None if shutil.which("kind") else binaries.build_obstacle(["kind"])
    return Machine(_docker_obstacle(), kind_obstacle, _local_obstacle())


def current_cluster(name: str) -> Cluster:
    """The cluster NAME that has been brought up.

    Raises:
        ClusterError: there is none.
    """
    record = Record.load(cluster_directory(name))
    if record is None:
        raise ClusterError(f"there is no cluster {name}: bring it up with `hack/cluster up`")
    return _cluster(record.kind, name, agree=lambda _: False)


def choose_cluster(name: str, *, control_plane: bool, agree: Callable[[str], bool]) -> tuple[Cluster, str]:
    """The cluster NAME, of the kind it has or is to get, and the reason why it is of that kind.

    Raises:
        ClusterError: it is of another kind than requested, or the requested one is not possible.
    """
    request = requested()
    if control_plane and request not in ("auto", "local"):
        raise ClusterError(f"--control-plane makes a local cluster, but CLUSTER={request} was given")
    record = Record.load(cluster_directory(name))
    if record is None:
        choice = (
            Choice("control-plane", "it was asked for")
            if control_plane
            else decide(request, inspect_machine())
        )
        return _cluster(choice.kind, name, agree), choice.why
    wanted = "control-plane" if control_plane else record.kind if request == "auto" else request
    if wanted != record.kind or (record.kind == "control-plane" and not control_plane):
        raise ClusterError(
            f"the cluster {name} is up and of the kind {record.kind}: take it down first (`hack/cluster down`), "
            "or give the other one another --name"
        )
    return _cluster(record.kind, name, agree), "there is one already"


def is_up(name: str = DEFAULT_NAME) -> bool:
    """Whether the cluster NAME was brought up, and not taken down since."""
    return Record.load(cluster_directory(name)) is not None


def cluster_obstacle() -> str | None:
    """Why `hack/cluster up` can not work on this machine; None when it can."""
    try:
        request = requested()
        if not is_up():
            decide(request, inspect_machine())
    except ClusterError as error:
        return str(error)
    return None


def control_plane_obstacle() -> str | None:
    """Why a control plane for tests can not be started on this machine; None when it can."""
    if sys.platform != "linux":
        return "it needs Linux"
    return binaries.build_obstacle(binaries.CONTROL_PLANE)


def _cluster(kind: str, name: str, agree: Callable[[str], bool]) -> Cluster:
    match kind:
        case "kind":
            return KindCluster(name)
        case "local":
            return LocalCluster(name)
        case "control-plane":
            return StandingControlPlane(name)
        case "existing":
            return ExistingCluster(name, agree)
    raise ClusterError(f"{cluster_directory(name)} is of a kind that is not known: {kind}")


def _docker_obstacle() -> str | None:
    if not shutil.which("docker"):
        return "docker is not installed"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answered = subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        answered = False
    return None if answered else "no Docker engine answers"


def _local_obstacle() -> str | None:
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root"
    try:
        # Root in a container without privileges may not, and everything else would be in vain.
        subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "it needs to make namespaces, and may not here: is this a container without privileges?"
    return binaries.build_obstacle(binaries.LOCAL)
