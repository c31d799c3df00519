"""The cluster's programs: built from pinned Go modules, kept by version in the user's cache.

A program is current when the fingerprint beside it is that of the checked-in recipe (its go.mod, go.sum, sources
and flags), so an interrupted build is simply taken up again, and a changed pin is built anew. Go's own build cache
keeps what an interrupted compilation had finished.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clusters.console import ClusterError, say, step
from clusters.golang import Version, find_go, go_environment, parse_version
from clusters.paths import binaries_directory, locked
from clusters.shell import output

_MODULES = Path(__file__).parent / "go"


@dataclass(frozen=True)
class Binary:
    """One program: the folder under go/ that holds its go.mod, the package to compile, the module it comes from.

    A program of our own has no module: it is known by the fingerprint of its source alone.
    """

    name: str
    folder: str
    package: str
    module: str | None
    manifests: str | None = None
    """Folder of the module that is kept beside the program: what its API needs in a cluster."""
    tags: str = ""
    """Build tags, which tell the program's sources what to leave out."""

    @cached_property
    def version(self) -> str:
        """The version that go.mod requires, such as v1.34.4; v1 for a program of our own."""
        if self.module is None:
            return "v1"
        required = re.search(rf"^(?:require)?\s*{re.escape(self.module)} (v\S+)", self._go_mod, re.MULTILINE)
        if required is None:
            raise ClusterError(f"{self.folder}/go.mod does not require {self.module}")
        return required[1]

    @property
    def needed_go(self) -> Version:
        """The oldest Go that go.mod allows."""
        return parse_version(next(line for line in self._go_mod.splitlines() if line.startswith("go ")))

    @property
    def path(self) -> Path:
        """Where the program is, or will be once it has been built."""
        return binaries_directory() / f"{self.name}-{self.version}" / self.name

    @property
    def manifests_path(self) -> Path:
        """Where the manifests are, once the program has been built."""
        return self.path.parent / "manifests"

    @property
    def linker_flags(self) -> str:
        """No debug information; Kubernetes' programs are told their version, which their API reports."""
        flags = ["-s", "-w"]
        if self.module == _KUBERNETES:
            major, minor = self.version.removeprefix("v").split(".")[:2]
            values = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor}
            flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
        return " ".join(flags)

    def is_current(self) -> bool:
        """Whether the program in the cache was built from exactly the checked-in recipe."""
        try:
            return self.path.exists() and self._fingerprint_file.read_text() == self._fingerprint
        except FileNotFoundError:
            return False

    def build(self, go: list[str]) -> None:
        """Compile the program into its place.

        Raises:
            ClusterError: the compiler failed; its output has been shown.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        command = [
            *go,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-tags",
            self.tags,
            "-ldflags",
            self.linker_flags,
        ]
        try:
            subprocess.run(
                [*command, "-o", str(partial), self.package],
                cwd=_MODULES / self.folder,
                env=go_environment(os.environ),
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise ClusterError(f"building {self.name} {self.version} failed, see above") from error
        if self.manifests is not None:
            self._copy_manifests(go)
        partial.replace(self.path)
        # Last, because it is what says that the program is whole.
        self._fingerprint_file.write_text(self._fingerprint)

    def _copy_manifests(self, go: list[str]) -> None:
        """Go's cache of modules has them now, but may be emptied at any time."""
        find = [*go, "-C", str(_MODULES / self.folder), "list", "-m", "-f", "{{.Dir}}", str(self.module)]
        source = Path(output(*find, environment=go_environment(os.environ)).strip()) / str(self.manifests)
        shutil.rmtree(self.manifests_path, ignore_errors=True)
        # Not copytree: it would copy that the cache is read-only, too.
        for file in (found for found in source.rglob("*") if found.is_file()):
            target = self.manifests_path / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

    @cached_property
    def _go_mod(self) -> str:
        return (_MODULES / self.folder / "go.mod").read_text()

    @property
    def _fingerprint_file(self) -> Path:
        return self.path.parent / "recipe.sha256"

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.package}\n{self.linker_flags}\n".encode())
        if self.tags:
            digest.update(f"{self.tags}\n".encode())
        if self.manifests is not None:
            digest.update(f"{self.manifests}\n".encode())
        for file in sorted((_MODULES / self.folder).iterdir()):
            digest.update(file.name.encode() + b"\n" + file.read_bytes())
        return digest.hexdigest()


_KUBERNETES = "k8s.io/kubernetes"
_PROMETHEUS = "github.com/prometheus/prometheus"

BINARIES = {
    binary.name: binary
    for binary in (
        *(
            Binary(name, "kubernetes", f"{_KUBERNETES}/cmd/{name}", _KUBERNETES)
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        ),
        Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        Binary("coredns", "coredns", ".", "github.com/coredns/coredns"),
        Binary("helm", "helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3"),
        Binary("kind", "kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind"),
        Binary(
            "kueue",
            "kueue",
            "sigs.k8s.io/kueue/cmd/kueue",
            "sigs.k8s.io/kueue",
            manifests="charts/kueue",
        ),
        Binary(
            "jobset",
            "kubeflow",
            "sigs.k8s.io/jobset",
            "sigs.k8s.io/jobset",
            manifests="charts/jobset",
        ),
        Binary(
            "kubeflow-trainer",
            "kubeflow",
            "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
            "github.com/kubeflow/trainer/v2",
            manifests="charts/kubeflow-trainer",
        ),
        Binary("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok", manifests="kustomize"),
        Binary("network-policies", "network-policies", ".", "sigs.k8s.io/kube-network-policies"),
        Binary("pause", "pause", ".", None),
        *(
            # Tests name what is to be scraped: whoever finds that in clouds would be most of the work of compiling it.
            Binary(name, "prometheus", f"{_PROMETHEUS}/cmd/{name}", _PROMETHEUS, tags="remove_all_sd")
            for name in ("prometheus", "promtool")
        ),
        Binary("kstatus", "kstatus", ".", "github.com/fluxcd/cli-utils"),
        Binary("argocd-lua", "argocd-lua", ".", "github.com/yuin/gopher-lua"),
    )
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
LOCAL = (
    *CONTROL_PLANE,
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "network-policies",
    "coredns",
    "pause",
    "helm",
)
# What tests have beside a control plane.
OF_TESTS = ("helm", "kube-scheduler", "kueue", "prometheus", "promtool", "kstatus", "argocd-lua")


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Build those of the named programs that the cache lacks; return the path of each.

    Raises:
        ClusterError: no Go toolchain can be had, or a build failed.
    """
    wanted = [BINARIES[name] for name in names]
    if not all(binary.is_current() for binary in wanted):
        lock = binaries_directory() / "lock"
        with locked(lock, "another process is building the cluster's binaries: waiting for it"):
            missing = [binary for binary in wanted if not binary.is_current()]
            if missing:
                _build(missing)
    return {binary.name: binary.path for binary in wanted}


def build_obstacle(names: Iterable[str]) -> str | None:
    """Why the named programs can be neither found nor built on this machine; None when they can."""
    missing = [binary for name in names if not (binary := BINARIES[name]).is_current()]
    needed = max((binary.needed_go for binary in missing), default=None)
    if needed is None or find_go(needed):
        return None
    return (
        f"Go {needed[0]}.{needed[1]} or newer is needed to build {', '.join(binary.name for binary in missing)}: "
        "install it, or uv, which fetches it"
    )


def _build(missing: list[Binary]) -> None:
    if obstacle := build_obstacle(binary.name for binary in missing):
        raise ClusterError(obstacle)
    go = find_go(max(binary.needed_go for binary in missing))
    assert go is not None
    say(
        f"building into {binaries_directory()} with {' '.join(go)}: {', '.join(binary.name for binary in missing)}"
    )
    for binary in missing:
        with step(f"  {binary.name} {binary.version}"):
            binary.build(go)
