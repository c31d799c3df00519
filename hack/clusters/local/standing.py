"""A control plane that stays up between two commands (`hack/cluster up --control-plane`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from clusters import binaries
from clusters.console import ClusterError, step
from clusters.local import control_plane
from clusters.local.layout import Layout
from clusters.paths import cluster_directory
from clusters.processes import Supervisor
from clusters.record import Record

_NO_NODE = "this is a control plane alone: it has no node that could {}"


class StandingControlPlane:
    """The cluster NAME without nodes: etcd, API server and controller manager, on loopback, without root."""

    kind = "control-plane"

    def __init__(self, name: str) -> None:
        self._directory = cluster_directory(name)
        self._supervisor = Supervisor(self._directory)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._directory / "kubeconfig"

    def up(self) -> None:
        """Start what does not run, and wait until all of it works."""
        paths = binaries.ensure(binaries.CONTROL_PLANE)
        layout = self._layout() or Layout.on_loopback(self._directory)
        Record(self.kind, {"ports": layout.ports}).save(self._directory)
        self._supervisor.forget_ended()
        with step("control plane"):
            control_plane.prepare(layout, control_plane.IDENTITIES, admin_port=layout.api_port)
            control_plane.run(layout, self._supervisor, paths, admin_port=layout.api_port)

    def down(self) -> None:
        """End the processes and remove everything."""
        self._supervisor.stop(control_plane.COMPONENTS, grace=0)
        shutil.rmtree(self._directory)

    def is_up(self) -> bool:
        """Whether every component runs and the API server is ready."""
        layout = self._layout()
        if layout is None or not all(map(self._supervisor.running, control_plane.COMPONENTS)):
            return False
        return control_plane.admin_probe(layout, layout.api_port).answers("/readyz")

    def describe(self) -> list[str]:
        """One line for each component."""
        return [self._supervisor.describe(name) for name in reversed(control_plane.COMPONENTS)]

    def load_images(self, images: Sequence[str]) -> None:
        """Refuse."""
        raise ClusterError(_NO_NODE.format("run an image"))

    def volume(self, namespace: str, claim: str, size: str) -> Path:
        """Refuse."""
        raise ClusterError(_NO_NODE.format("mount a volume"))

    def _layout(self) -> Layout | None:
        record = Record.load(self._directory)
        return Layout(self._directory, **record.details["ports"]) if record else None
