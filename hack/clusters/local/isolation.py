"""What keeps a local cluster apart from the machine it runs on, and lets it be removed without a trace.

Its processes share a network namespace (every cluster has the same addresses and ports), a mount namespace (the
kubelet's and the containers' mounts vanish with it; the folders that a node's programs insist on are the cluster's
own there) and, for the pods, a cgroup.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from clusters.processes import kill_all
from clusters.shell import output

NODE_IP = "10.88.8.1"
_BRIDGE = "node0"
# Named namespaces are files: here those of mounts, as /run/netns has those of networks.
_RUN = Path("/run/finetune-operator")
# What the machine was like before the first cluster came. The last one to go puts it back.
_BEFORE = _RUN / "before"
_MOUNT_POINTS, _SYSCTLS = _BEFORE / "mount-points", _BEFORE / "sysctls.json"
_CGROUPS = Path("/sys/fs/cgroup")
# Written down in the kubelet, containerd and CNI, whatever their configuration says.
_PRIVATE_DIRECTORIES = tuple(
    map(
        Path,
        (
            "/var/lib/kubelet",
            "/var/lib/cni",
            "/var/log/pods",
            "/var/log/containers",
            "/run/containerd",
            "/run/nri",
        ),
    )
)
# The kubelet sets these for the whole machine: they are put back afterwards.
_KUBELET_SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


@dataclass(frozen=True)
class Isolation:
    """The namespaces and the cgroup of the cluster NAME; `directory` is its folder."""

    name: str
    directory: Path

    @property
    def network(self) -> Path:
        """The file that stands for the network namespace."""
        return Path("/run/netns") / f"ftj-{self.name}"

    @property
    def mounts(self) -> Path:
        """The file that stands for the mount namespace."""
        return _RUN / f"{self.name}.mnt"

    @property
    def containerd_socket(self) -> Path:
        """Seen from inside and outside; here because the path of a socket must be short."""
        return _RUN / f"{self.name}.sock"

    @property
    def cgroup(self) -> str:
        """The cgroup below which the kubelet makes those of the pods."""
        return f"/ftj-{self.name}"

    @property
    def enter(self) -> tuple[str, ...]:
        """The start of a command line that is to run inside.

        Not `ip netns exec`: that mounts a fresh /sys, in which there are no cgroups.
        """
        return ("nsenter", f"--net={self.network}", f"--mount={self.mounts}", "--")

    def create(self) -> None:
        """Make what is not there yet."""
        self._create_network()
        self._create_mounts()
        self._create_cgroups()
        _save_sysctls()

    def pod_processes(self) -> set[int]:
        """The ids of all processes of all pods, as this machine knows them."""
        return {
            int(pid)
            for cgroup in self._cgroups()
            for folder, _, _ in os.walk(cgroup)
            for pid in _read(Path(folder) / "cgroup.procs").split()
        }

    def kill_pods(self) -> None:
        """End every process of every pod."""
        kill_all(self.pod_processes)

    def remove(self) -> None:
        """End every process inside and remove everything; nothing need be there."""
        kill_all(lambda: self.pod_processes() | self._inside())
        for cgroup in self._cgroups():
            for folder, _, _ in os.walk(cgroup, topdown=False):
                Path(folder).rmdir()
        _unmount(self.mounts)
        for file in _RUN.glob(f"{self.name}.*"):
            file.unlink()
        if self.network.exists():
            output("ip", "netns", "delete", self.network.name)
        shutil.rmtree(self._node_directory, ignore_errors=True)
        # A folder that goes takes with it what is mounted upon it in any namespace: those of other clusters, too.
        if _RUN.exists() and set(_RUN.iterdir()) <= {_BEFORE}:
            _restore_sysctls()
            _remove_mount_points()
            shutil.rmtree(_BEFORE, ignore_errors=True)
            _unmount(_RUN)
            _RUN.rmdir()

    def _create_network(self) -> None:
        if not self.network.exists():
            output("ip", "netns", "add", self.network.name)
        inside = ("ip", "-netns", self.network.name)
        if _BRIDGE not in output(*inside, "-brief", "link"):
            # An empty bridge does what a device of the kind `dummy` would do, and every kernel has it.
            output(*inside, "link", "add", _BRIDGE, "type", "bridge")
        output(*inside, "link", "set", "lo", "up")
        output(*inside, "link", "set", _BRIDGE, "up")
        output(*inside, "address", "replace", f"{NODE_IP}/24", "dev", _BRIDGE)
        # Services' addresses need a route before kube-proxy can rewrite them.
        output(*inside, "route", "replace", "default", "dev", _BRIDGE)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        output("nsenter", f"--net={self.network}", "sh", "-c", forward)

    def _create_mounts(self) -> None:
        _RUN.mkdir(exist_ok=True)
        if not _is_mounted(_RUN):
            # A mount namespace can only be pinned in a mount that is not shared with others.
            output("mount", "--bind", _RUN, _RUN)
            output("mount", "--make-private", _RUN)
        _BEFORE.mkdir(exist_ok=True)
        if not _is_mounted(self.mounts):
            self.mounts.touch()
            output("unshare", f"--mount={self.mounts}", "--propagation=slave", "true")
        for target in _PRIVATE_DIRECTORIES:
            source = self._node_directory / str(target).strip("/").replace("/", "-")
            source.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                with _MOUNT_POINTS.open("a") as file:
                    file.write(f"{target}\n")
                target.mkdir(parents=True)
            here = f"mountpoint -q {target} || mount --bind {source} {target}"
            output(*self.enter, "sh", "-c", here)

    def _create_cgroups(self) -> None:
        if (_CGROUPS / "cgroup.controllers").exists():  # cgroup v2: controllers are handed down one by one
            controllers = (_CGROUPS / "cgroup.controllers").read_text().split()
            (_CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
            (_CGROUPS / self.cgroup.strip("/")).mkdir(exist_ok=True)
            return
        for hierarchy in _hierarchies():
            cgroup = hierarchy / self.cgroup.strip("/")
            cgroup.mkdir(exist_ok=True)
            # A new cpuset is empty, and nothing can run in it.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (hierarchy / name).exists():
                    (cgroup / name).write_text((hierarchy / name).read_text())

    def _cgroups(self) -> list[Path]:
        cgroups = [hierarchy / self.cgroup.strip("/") for hierarchy in _hierarchies()]
        return [cgroup for cgroup in cgroups if cgroup.exists()]

    def _inside(self) -> set[int]:
        if not _is_mounted(self.mounts):
            return set()
        namespace = self.mounts.stat()
        return {
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if _same_file(process / "ns" / "mnt", namespace)
        }

    @property
    def _node_directory(self) -> Path:
        return self.directory / "node"


def _remove_mount_points() -> None:
    """Remove the folders of this machine that were made to be mounted upon, and are still empty."""
    for line in _read(_MOUNT_POINTS).splitlines():
        target = Path(line)
        if target.exists() and not any(target.iterdir()):
            target.rmdir()


def _save_sysctls() -> None:
    if not _SYSCTLS.exists():
        values = {name: (Path("/proc/sys") / name).read_text() for name in _KUBELET_SYSCTLS}
        _SYSCTLS.write_text(json.dumps(values))


def _restore_sysctls() -> None:
    for name, value in json.loads(_read(_SYSCTLS) or "{}").items():
        (Path("/proc/sys") / name).write_text(value)


def _hierarchies() -> list[Path]:
    """The roots of all cgroup hierarchies: one for each group of controllers with v1, a single one with v2."""
    fields = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted({Path(target) for _, target, kind, *_ in fields if kind in ("cgroup", "cgroup2")})


def _is_mounted(target: Path) -> bool:
    """Whether something is mounted there; os.path.ismount does not see a folder bound to itself."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(target) for line in mounts)


def _unmount(target: Path) -> None:
    while _is_mounted(target):
        output("umount", target)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _same_file(file: Path, other: os.stat_result) -> bool:
    try:
        return os.path.samestat(file.stat(), other)
    except OSError:
        return False  # the process has ended
