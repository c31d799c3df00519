"""Nodes that are nothing but objects, and pods on them that run at once and do nothing: kwok, as a process.

Pods of one's own need a scheduler besides; kwok plays the kubelets alone. A pod that is deleted is gone at once, and
none ever ends by itself.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import yaml

from clusters import binaries
from clusters.addons import charts
from clusters.addons.running import Running
from clusters.cluster import kubectl
from clusters.console import ClusterError
from clusters.probe import wait_until
from clusters.processes import DIE_WITH_PARENT, Supervisor

_NAME = "kwok"
# Of those that come with it: nothing in it ends a pod that belongs to a Job.
_STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-delete.yaml",
)
# kwok makes up addresses of pods from a network of its own; this one has room for all of a large cluster's.
_NETWORK = "10.128.0.0/9"


class Kwok(Running):
    """Ready nodes with plenty of room, whose pods run as soon as they are scheduled, while the context lasts.

    with ControlPlane() as plane, Kwok(plane.kubeconfig, nodes=20):
        ...
    """

    def __init__(self, kubeconfig: Path, *, nodes: int) -> None:
        """`kubeconfig` is the administrator's, as whom kwok works."""
        self._kubeconfig = kubeconfig
        self._names = [f"kwok-{number}" for number in range(nodes)]
        self._directory = Path(tempfile.mkdtemp(prefix="kwok-"))
        self._supervisor = Supervisor(self._directory, prefix=DIE_WITH_PARENT)

    def check(self) -> None:
        """Raise ClusterError if it has ended: pods would stay as they are."""
        self._supervisor.check_all()

    def _start(self) -> None:
        # Its stages come with it.
        program = binaries.ensure([_NAME])[_NAME]
        stages = binaries.BINARIES[_NAME].manifests_path / "stage"
        config = self._directory / "kwok.yaml"
        # With stages of one's own, kwok does not need to be told of them by the API server.
        config.write_text("---\n".join((stages / file).read_text() for file in _STAGES))
        self._supervisor.start(
            _NAME,
            [
                program,
                f"--kubeconfig={self._kubeconfig}",
                f"--config={config}",
                "--manage-all-nodes=true",
                f"--cidr={_NETWORK}",
                "--node-ip=127.0.0.1",
                "--node-lease-duration-seconds=40",
            ],
        )
        found = [_node(name) for name in self._names]
        kubectl(self._kubeconfig, "create", "--filename=-", stdin=charts.as_list(found))
        try:
            wait_until("kwok's nodes take pods", self._take_pods, self._supervisor.check_all)
        except ClusterError as error:
            raise ClusterError(f"{error}; {self._supervisor.log_tail(_NAME)}") from error

    def _take_pods(self) -> bool:
        """Whether all are ready, and the taint is gone with which the API server makes every node."""
        nodes = yaml.safe_load(kubectl(self._kubeconfig, "get", "nodes", *self._names, "--output=json"))
        return all("phase" in node["status"] and not node["spec"].get("taints") for node in nodes["items"])

    def _stop(self) -> None:
        self._supervisor.stop([_NAME], grace=0)
        shutil.rmtree(self._directory)


def _node(name: str) -> charts.Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": (room := _room()), "capacity": room},
    }


def _room() -> charts.Manifest:
    return {"cpu": "10k", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": "10k"}
