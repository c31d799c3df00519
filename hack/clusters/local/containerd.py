"""The container runtime of a local cluster: its configuration, and the image store behind it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clusters.console import ClusterError
from clusters.local.isolation import Isolation
from clusters.probe import wait_until
from clusters.shell import output

PAUSE_IMAGE = "localhost/pause:v1"
POD_CIDR = "10.88.7.0/24"
_NAMESPACE = "k8s.io"  # containerd's own division; the kubelet's images and containers live in this one


@dataclass(frozen=True)
class Containerd:
    """The containerd of the cluster that lives in `isolation`."""

    isolation: Isolation

    @property
    def store(self) -> Path:
        """Images and their unpacked layers: the one thing kept over `down`, for it takes minutes to fill."""
        return self.isolation.directory / "containerd"

    @property
    def staging(self) -> Path:
        """For an image on its way here, of which there is one at a time."""
        return self.isolation.directory / "image"

    @property
    def command(self) -> list[str | Path]:
        """The command line that starts it."""
        return ["containerd", f"--config={self._config_file}"]

    def configure(self) -> None:
        """Write the configuration of containerd and of the pods' network."""
        cni = self.isolation.directory / "cni"
        cni.mkdir(exist_ok=True)
        (cni / "10-bridge.conflist").write_text(json.dumps(_pod_network(), indent=2))
        self._config_file.write_text(_config(self.store, self.isolation.containerd_socket, cni))

    def answers(self) -> bool:
        """Whether it serves."""
        command = self._ctr("version")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own command-line client and return what it printed."""
        return output(*self._ctr(*arguments))

    def image_digests(self) -> dict[str, str]:
        """The manifest's digest of every image, by the image's full reference."""
        lines = self.ctr("images", "list").splitlines()[1:]
        return {fields[0]: fields[2] for fields in map(str.split, lines)}

    def content(self, digest: str) -> dict[str, Any]:
        """A manifest or configuration from the content store."""
        value: dict[str, Any] = json.loads(self.ctr("content", "get", digest))
        return value

    def snapshots(self) -> set[str]:
        """The chain ids of all unpacked layers."""
        return {line.split()[0] for line in self.ctr("snapshots", "list").splitlines()[1:]}

    def import_archive(self, write: Callable[[IO[bytes]], None]) -> None:
        """Import the archive that `write` writes, and unpack what of its layers is not unpacked yet.

        Raises:
            ClusterError: containerd refused it.
        """
        command = self._ctr("images", "import", "-")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
            assert process.stdin is not None
            try:
                write(process.stdin)
            except BrokenPipeError:
                pass  # it ended early, and what it said is worth more than this
            except BaseException:
                process.kill()  # at the end of its input it would take a half for the whole
                raise
            said = process.communicate()[0].decode(errors="replace")
        if process.returncode != 0:
            raise ClusterError(f"containerd refused the image: {said.strip()}")

    def discard(self, digests: Sequence[str]) -> None:
        """Drop layers' archives, which are of no use any more once unpacked."""
        if digests:
            self.ctr("content", "delete", *digests)

    def make_snapshot(self, chain_id: str, below: str | None, fill: Callable[[Path], None]) -> None:
        """Make the unpacked layer of that name upon `below`, out of what `fill` puts into a folder.

        It is kept until `release` has been called, whether or not an image needs it.
        """
        active = f"filling-{chain_id}"
        subprocess.run(
            self._ctr("snapshots", "remove", active), capture_output=True, check=False
        )  # one cut short
        [mount] = json.loads(
            self.ctr("snapshots", "prepare", "--mounts", active, *([below] if below else []))
        )
        upper = [option for option in mount["Options"] if option.startswith("upperdir=")]
        fill(Path(upper[0].removeprefix("upperdir=") if upper else mount["Source"]))
        self.ctr("snapshots", "commit", chain_id, active)

    def release(self, chain_id: str) -> None:
        """Keep an unpacked layer only as long as an image needs it."""
        self.ctr("snapshots", "label", chain_id, "containerd.io/gc.root=")

    def forget_containers(self) -> None:
        """Remove what is known of the containers of pods that have been killed, and their writable layers.

        Raises:
            ClusterError: containerd does not let go of them.
        """
        self._delete_all("tasks", "--force")
        self._delete_all("containers")

    def _delete_all(self, what: str, *flags: str) -> None:
        def none_left() -> bool:
            left = self.ctr(what, "list", "--quiet").split()
            # containerd itself cleans up after a killed pod: one that has just gone makes this fail, and is no loss.
            subprocess.run(self._ctr(what, "delete", *flags, *left), capture_output=True, check=False)
            return not left

        wait_until(f"containerd has no {what} left", none_left, seconds=20)

    @property
    def _config_file(self) -> Path:
        return self.isolation.directory / "containerd.toml"

    def _ctr(self, *arguments: str) -> list[str]:
        socket = str(self.isolation.containerd_socket)
        return ["ctr", "--address", socket, "--namespace", _NAMESPACE, *arguments]


def _config(store: Path, socket: Path, cni: Path) -> str:
    return f"""\
version = 2
root = "{store}"
state = "/run/containerd"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # In some virtual machines root may not lower oom_score_adj, and runc fails instead of going on without.
  restrict_oom_score_adj = true
  # The pods' network namespaces then go with the cluster's mount namespace.
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"""


def _pod_network() -> dict[str, Any]:
    ranges = [[{"subnet": POD_CIDR}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }
