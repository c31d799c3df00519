"""The cluster's programs: pinned versions, one place for each, built anew when the recipe changes."""

import os
import re
import shutil
from pathlib import Path

import pytest

from clusters import binaries, golang, packages
from clusters.binaries import BINARIES, Binary
from clusters.console import ClusterError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Go keeps its compiled standard library below the same folder: that one is to be shared, it takes a while to make.
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(xdg_cache() / "go-build"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def xdg_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def test_versions_are_those_of_go_mod() -> None:
    kubernetes = {BINARIES[name].version for name in ("kube-apiserver", "kubelet", "kubectl")}
    assert len(kubernetes) == 1
    assert kubernetes.pop().startswith("v1.34.")
    assert BINARIES["pause"].version == "v1"
    for binary in BINARIES.values():
        assert binary.path.parent.name == f"{binary.name}-{binary.version}"


def test_kubernetes_is_told_its_version() -> None:
    flags = BINARIES["kubelet"].linker_flags
    assert f"version.gitVersion={BINARIES['kubelet'].version}" in flags
    assert "version.gitMinor=34" in flags
    assert "version.gitVersion" not in BINARIES["etcd"].linker_flags


# All but Kubernetes itself, which has a version of its own.
CLIENTS = ("coredns", "helm", "kstatus", "kueue", "network-policies", "prometheus")


@pytest.mark.parametrize(
    "module",
    [
        *(
            f"k8s.io/{name}"
            for name in ("api", "apimachinery", "client-go", "kube-openapi", "klog/v2", "utils")
        ),
        *(f"golang.org/x/{name}" for name in ("net", "oauth2", "sys", "term", "text", "time")),
        "google.golang.org/protobuf",
        "sigs.k8s.io/structured-merge-diff/v6",
        "go.yaml.in/yaml/v2",
    ],
)
def test_clients_of_the_api_are_made_of_the_same_so_that_it_is_compiled_once(module: str) -> None:
    recipes = "".join((binaries._MODULES / name / "go.mod").read_text() for name in CLIENTS)
    assert len(set(re.findall(rf"^\s*{re.escape(module)} (v\S+)", recipes, re.MULTILINE))) == 1


@pytest.mark.parametrize(
    ("text", "version"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go 1.25.0", (1, 25)), ("go 1.9", (1, 9))],
)
def test_go_versions(text: str, version: tuple[int, int]) -> None:
    assert golang.parse_version(text) == version


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of one line, in place of the real ones."""
    folder = tmp_path / "go" / "hello"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module hello\n\ngo 1.24.0\n")
    (folder / "main.go").write_text('package main\n\nfunc main() { println("one") }\n')
    monkeypatch.setattr(binaries, "_MODULES", folder.parent)
    use(monkeypatch)
    return folder


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the recipe again, as the next command would."""
    monkeypatch.setattr(binaries, "BINARIES", {"hello": Binary("hello", "hello", ".", None)})


@pytest.mark.skipif(golang.find_go((1, 24)) is None, reason="there is no way to a Go toolchain")
def test_a_program_is_built_once_and_again_when_its_recipe_changes(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = binaries.ensure(["hello"])["hello"]
    first = path.stat()
    use(monkeypatch)
    assert binaries.ensure(["hello"])["hello"].stat() == first

    (recipe / "main.go").write_text('package main\n\nfunc main() { println("two") }\n')
    use(monkeypatch)
    assert binaries.ensure(["hello"])["hello"].stat().st_mtime_ns > first.st_mtime_ns


@pytest.mark.skipif(golang.find_go((1, 24)) is None, reason="there is no way to a Go toolchain")
def test_a_failed_build_leaves_no_program(recipe: Path) -> None:
    (recipe / "main.go").write_text("package main\n\nfunc main() { no }\n")
    with pytest.raises(ClusterError, match="building hello v1 failed"):
        binaries.ensure(["hello"])
    assert not binaries.BINARIES["hello"].is_current()


def test_without_go_and_uv(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Go 1.24 or newer is needed to build hello" in (binaries.build_obstacle(["hello"]) or "")
    with pytest.raises(ClusterError, match=r"Go 1.24 or newer"):
        binaries.ensure(["hello"])


def test_an_old_go_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    uv = tmp_path / "uv"
    uv.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert golang.find_go((1, 19)) == [str(old)]
    assert (golang.find_go((1, 24)) or [])[:3] == [str(uv), "tool", "run"]


def test_packages_are_known_by_their_programs() -> None:
    wanted = packages.OF_A_NODE
    assert packages.missing_packages(wanted, lambda p: None if p == "nft" else p) == ["nftables"]
    assert packages.missing_packages(wanted, lambda p: p) == []


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "runc" else program)
    monkeypatch.setattr(packages.missing_packages, "__defaults__", (shutil.which,))
    with pytest.raises(
        ClusterError, match=r"a cluster needs runc\b.*apt-get install --yes --no-install-recommends runc$"
    ):
        packages.require_packages(packages.OF_A_NODE, "a cluster")
