"""The system packages that a local cluster, and building images without Docker, stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping

from clusters.console import ClusterError, say

# Debian's and Ubuntu's names; each with a program that only this package brings.
OF_A_NODE: Mapping[str, str] = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",  # the CNI plug-ins call it
    "nftables": "nft",  # kube-proxy calls it
    "conntrack": "conntrack",
    "iproute2": "ip",
    "skopeo": "skopeo",  # reads images out of the store of buildah or Docker
}
OF_IMAGES: Mapping[str, str] = {
    "buildah": "buildah",
    "netavark": "/usr/lib/podman/netavark",  # buildah ends without it, though it is told to use the host's network
    "debootstrap": "debootstrap",
}


def missing_packages(
    wanted: Mapping[str, str], which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """Names of the packages whose program is not there."""
    return [package for package, program in wanted.items() if which(program) is None]


def require_packages(wanted: Mapping[str, str], purpose: str) -> None:
    """Install what is missing, as root on Debian and its kin. `purpose` is who needs it, for the message.

    Raises:
        ClusterError: something is missing and can not be installed here; the message has the command that does.
    """
    missing = missing_packages(wanted)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"{purpose} needs {', '.join(missing)}. On Debian and Ubuntu, as root: {' '.join(command)}"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "--quiet"], command):
        say(f"missing: {', '.join(missing)}; running {' '.join(step)}")
        # apt-get's own output goes where our news goes: standard output is for results.
        if subprocess.run(step, env=environment, stdout=2, check=False).returncode != 0:
            raise ClusterError(f"{' '.join(step)} failed, see above")
    if missing := missing_packages(wanted):
        raise ClusterError(f"still missing after their installation: {', '.join(missing)}")
