"""The system packages that a local cluster stands on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping

from clusters.console import ClusterError, say

# Debian's and Ubuntu's names; each with a program that only this package brings.
_PROGRAMS: Mapping[str, str] = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",  # the CNI plug-ins call it
    "nftables": "nft",  # kube-proxy calls it
    "conntrack": "conntrack",
    "iproute2": "ip",
    "skopeo": "skopeo",  # reads images out of the store of buildah or Docker
    # Not of the cluster itself, but of the images that run in it.
    "buildah": "buildah",
    "netavark": "/usr/lib/podman/netavark",  # buildah ends without it, though it is told to use the host's network
    "debootstrap": "debootstrap",
}


def missing_packages(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Names of the packages whose program is not there."""
    return [package for package, program in _PROGRAMS.items() if which(program) is None]


def require_packages() -> None:
    """Install what is missing, as root on Debian and its kin.

    Raises:
        ClusterError: something is missing and can not be installed here; the message has the command that does.
    """
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"a local cluster needs {', '.join(missing)}. On Debian and Ubuntu, as root: {' '.join(command)}"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "--quiet"], command):
        say(f"missing: {', '.join(missing)}; running {' '.join(step)}")
        # apt-get's own output goes where our news goes: standard output is for results.
        if subprocess.run(step, env=environment, stdout=2, check=False).returncode != 0:
            raise ClusterError(f"{' '.join(step)} failed, see above")
    if missing := missing_packages():
        raise ClusterError(f"still missing after their installation: {', '.join(missing)}")
