"""The real scheduler, and nodes that are nothing but what the API server knows of them."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.kube import MERGE, PODS, Kube, Namespace, eventually
from clusters import binaries
from clusters.ports import free_ports
from clusters.processes import DIE_WITH_PARENT, Supervisor
from clusters.volumes import volume_objects

ZONE = "topology.kubernetes.io/zone"
_CLAIMS = "/api/v1/namespaces/{namespace}/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"
_NODES = "/api/v1/nodes"


@contextmanager
def scheduler(kubeconfig: Path, directory: Path, *options: str) -> Iterator[None]:
    """The scheduler of Kubernetes, as the administrator, with options of one's own besides."""
    supervisor = Supervisor(directory, prefix=DIE_WITH_PARENT)
    supervisor.start(
        "scheduler",
        [
            binaries.ensure(["kube-scheduler"])["kube-scheduler"],
            *(f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}",
            *options,
        ],
    )
    try:
        yield
        supervisor.check_all()
    finally:
        supervisor.stop(["scheduler"], grace=0)


@contextmanager
def nodes(kube: Kube, zones: dict[str, list[int]]) -> Iterator[None]:
    """Ready nodes, of which each zone has some: for each a number of CPUs."""
    names = [_add(kube, zone, cpu) for zone, cpus in zones.items() for cpu in cpus]
    try:
        # The API server makes every node with a taint, which a controller takes away once the node is ready.
        eventually(lambda: not any(_tainted(kube, name) for name in names))
        yield
    finally:
        for name in names:
            kube.request("DELETE", f"{_NODES}/{name}")


def bind_claims(namespace: Namespace, *claims: str) -> None:
    """Volumes for these claims, on any node: a pod without is not scheduled."""
    made = [volume_objects(Path("/nowhere"), namespace.name, claim, "1Gi")["items"] for claim in claims]
    for volume, _ in made:
        namespace.kube.request("POST", _VOLUMES, volume)
    # A claim whose volume the controller has not seen yet waits many seconds for the next look at it.
    names = [volume["metadata"]["name"] for volume, _ in made]
    eventually(lambda: all(_phase(namespace.kube, name) == "Available" for name in names))
    for _, claim in made:
        namespace.create(_CLAIMS, claim)
    eventually(lambda: all(_phase(namespace.kube, name) == "Bound" for name in names))


def zones_of(namespace: Namespace) -> list[str]:
    """The zone of each pod that has a node."""
    placed = [pod["spec"]["nodeName"] for pod in namespace.all(PODS) if "nodeName" in pod["spec"]]
    return [namespace.kube.request("GET", f"{_NODES}/{name}")["metadata"]["labels"][ZONE] for name in placed]


def _add(kube: Kube, zone: str, cpu: int) -> str:
    # Pods of an earlier test may be counted on a node of theirs for a while after it is gone.
    name = f"{zone}-{uuid.uuid4().hex[:8]}"
    labels = {ZONE: zone, "kubernetes.io/hostname": name}
    kube.request("POST", _NODES, {"metadata": {"name": name, "labels": labels}})
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    room = {"cpu": str(cpu), "memory": "64Gi", "pods": "10", "ephemeral-storage": "64Gi"}
    status = {"capacity": room, "allocatable": room, "conditions": [ready]}
    kube.request("PATCH", f"{_NODES}/{name}/status", {"status": status}, MERGE)
    return name


def _tainted(kube: Kube, name: str) -> bool:
    return bool(kube.request("GET", f"{_NODES}/{name}")["spec"].get("taints"))


def _phase(kube: Kube, volume: str) -> str | None:
    phase: str | None = kube.request("GET", f"{_VOLUMES}/{volume}").get("status", {}).get("phase")
    return phase
