"""What befalls a node and not its pods. Only the node of a local cluster is at hand for that."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters.choice import DEFAULT_NAME
from clusters.local.isolation import Isolation
from clusters.local.layout import Layout
from clusters.paths import cluster_directory
from clusters.processes import Supervisor
from clusters.record import Record
from clusters.shell import output
from deploy import run


@dataclass(frozen=True)
class LocalNode:
    """The one node of the local cluster that is up."""

    directory: Path
    """The folder of the cluster."""

    @classmethod
    def find(cls) -> "LocalNode | None":
        """The node at hand; None where the cluster is of another kind."""
        directory = cluster_directory(DEFAULT_NAME)
        record = Record.load(directory)
        return cls(directory) if record is not None and record.kind == "local" else None

    @property
    def enter(self) -> tuple[str, ...]:
        """The start of a command line that is to run there."""
        return Isolation(DEFAULT_NAME, self.directory).enter

    @property
    def layout(self) -> Layout:
        """The files of its control plane, and where that listens as seen from there."""
        return Layout(self.directory)

    def stop_container_runtime(self) -> None:
        """End containerd. What runs in containers goes on; the kubelet learns nothing of it."""
        Supervisor(self.directory).stop(["containerd"], grace=10)

    def repair(self) -> None:
        """Start again what was stopped, and wait until the node works."""
        run("hack/cluster", "up")

    @contextmanager
    def small_disk(self, folder: Path, size: str) -> Iterator[Path]:
        """A disk of its own, of so many bytes, at a folder of this machine as the node's pods see it.

        The node's mounts are not this machine's: yields where the files on that disk are to be found here.
        """
        kubelet = Supervisor(self.directory).running("kubelet")
        assert kubelet is not None
        output(*self.enter, "mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", folder)
        try:
            yield Path(f"/proc/{kubelet.pid}/root{folder}")
        finally:
            # A pod that has not ended yet keeps the disk to its end.
            output(*self.enter, "umount", "--lazy", folder)
