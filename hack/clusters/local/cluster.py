"""A local cluster: one node, in namespaces of its own on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clusters import binaries
from clusters.cluster import kubectl
from clusters.console import ClusterError, say, step
from clusters.local import control_plane
from clusters.local.containerd import Containerd
from clusters.local.images import load_image, load_pause_image
from clusters.local.isolation import NODE_IP, Isolation
from clusters.local.layout import Layout
from clusters.local.node import HEALTH_URLS, Node, objects
from clusters.packages import OF_A_NODE, require_packages
from clusters.paths import cluster_directory
from clusters.ports import free_ports
from clusters.probe import wait_until
from clusters.processes import Supervisor
from clusters.record import RECORD_FILE, Record
from clusters.volumes import create_volume

_COMPONENTS = (
    "kubelet",
    "kube-proxy",
    "network-policies",
    "coredns",
    "scheduler",
    "forwarder",
    *control_plane.COMPONENTS,
)


class LocalCluster:
    """The cluster NAME as Kubernetes from source: control plane, one node, DNS, Services, images, volumes."""

    kind = "local"

    def __init__(self, name: str) -> None:
        self._name = name
        self._directory = cluster_directory(name)
        self._isolation = Isolation(name, self._directory)
        self._layout = Layout(self._directory, address=NODE_IP)
        self._node = Node(self._layout, self._isolation)
        self._containerd = Containerd(self._isolation)
        self._outside = Supervisor(self._directory)
        self._inside = Supervisor(self._directory, prefix=self._isolation.enter)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; it leads to a port of this machine's loopback."""
        return self._layout.kubeconfig

    def up(self) -> None:
        """Start what does not run, and wait until all of it works.

        Raises:
            ClusterError: something is missing on this machine, or a component failed.
        """
        require_packages(OF_A_NODE, "a local cluster")
        paths = binaries.ensure(binaries.LOCAL)
        known_port = self._admin_port()
        port = known_port or free_ports(1)[0]
        Record(self.kind, {"admin_port": port}).save(self._directory)
        self._inside.forget_ended()
        with step("control plane"):
            self._isolation.create()
            identities = (*control_plane.IDENTITIES, *self._node.identities)
            control_plane.prepare(self._layout, identities, admin_port=port)
            self._outside.start("forwarder", self._forwarder(port))
            control_plane.run(self._layout, self._inside, paths, admin_port=port)
        with step("container runtime"):
            self._start_containerd(paths["pause"], new_cluster=known_port is None)
        with step("node"):
            self._start_node(paths)
            kubectl(self.kubeconfig, "apply", "--server-side", "--filename=-", stdin=objects())
            wait_until(f"node {self._node.name} is ready", self._node_is_ready, self._inside.check_all)
            wait_until("DNS and Services work", self._is_healthy, self._inside.check_all)

    def down(self) -> None:
        """End all processes, remove everything but the store of images."""
        # Nothing else is kept, so only containerd is given the time to end in good order.
        self._inside.stop(_COMPONENTS, grace=0)
        self._isolation.kill_pods()
        if self._inside.running("containerd"):
            try:
                self._containerd.forget_containers()
            except ClusterError as error:
                say(f"{error}; the next start will try again")
        self._inside.stop(["containerd"], grace=10)
        self._isolation.remove()
        for entry in self._directory.iterdir():
            if entry.is_dir() and entry != self._containerd.store:
                shutil.rmtree(entry)
            elif entry.is_file() and entry.name != RECORD_FILE:
                entry.unlink()
        # Last, so that a `down` which is interrupted can be repeated.
        (self._directory / RECORD_FILE).unlink()

    def is_up(self) -> bool:
        """Whether every component runs and the node is ready."""
        running = all(self._inside.running(name) for name in (*_COMPONENTS, "containerd"))
        return running and self._node_is_ready() and self._is_healthy()

    def describe(self) -> list[str]:
        """One line for each component, and one for the node."""
        lines = [self._inside.describe(name) for name in (*reversed(_COMPONENTS), "containerd")]
        return [*lines, f"node {self._node.name} is {'ready' if self._node_is_ready() else 'NOT ready'}"]

    def load_images(self, images: Sequence[str]) -> None:
        """Copy images of buildah's or Docker's store into containerd, as far as they are not there."""
        for image in images:
            load_image(self._containerd, image)

    def volume(self, namespace: str, claim: str, size: str) -> Path:
        """Make a claim over a folder in the cluster's own; `down` removes it."""
        folder = self._directory / "volumes" / namespace / claim
        return create_volume(self.kubeconfig, folder, folder, namespace, claim, size)

    def _admin_port(self) -> int | None:
        record = Record.load(self._directory)
        return record.details["admin_port"] if record else None

    def _forwarder(self, port: int) -> list[str | Path]:
        program = Path(__file__).with_name("forwarder.py")
        ports = (f"--port={port}", f"--target-port={self._layout.api_port}")
        return [sys.executable, program, f"--namespace={self._isolation.network}", *ports]

    def _start_containerd(self, pause: Path, *, new_cluster: bool) -> None:
        self._containerd.configure()
        self._inside.start("containerd", self._containerd.command)
        wait_until("containerd is ready", self._containerd.answers, self._inside.check_all)
        if new_cluster:
            # There may be some of an earlier one, whose containerd could not be asked when it was taken down.
            self._containerd.forget_containers()
        load_pause_image(self._containerd, pause)

    def _start_node(self, paths: Mapping[str, Path]) -> None:
        self._node.configure()
        self._inside.start("kubelet", self._node.kubelet(paths["kubelet"]))
        self._inside.start("kube-proxy", self._node.kube_proxy(paths["kube-proxy"]))
        enforcer = self._node.network_policies
        enforcer.divert()
        self._inside.start("network-policies", enforcer.controller(paths["network-policies"]))
        self._inside.start("coredns", self._node.coredns(paths["coredns"]))
        self._inside.start("scheduler", self._node.scheduler(paths["kube-scheduler"]))

    def _node_is_ready(self) -> bool:
        port = self._admin_port()
        if port is None or not self._layout.pki.directory.exists():
            return False
        body = control_plane.admin_probe(self._layout, port).get(f"/api/v1/nodes/{self._node.name}")
        conditions = json.loads(body)["status"].get("conditions", []) if body else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _is_healthy(self) -> bool:
        ask = "import sys, urllib.request as r; [r.urlopen(url, timeout=5) for url in sys.argv[1:]]"
        command = [*self._isolation.enter, sys.executable, "-c", ask, *HEALTH_URLS]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
