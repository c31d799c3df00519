"""The control plane that the other tests of this tier stand on does what they take for granted."""

import json
import subprocess
from pathlib import Path
from typing import Any

from clusters.binaries import BINARIES
from clusters.local import ControlPlane

JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "pair"},
    "spec": {
        "completions": 2,
        "parallelism": 2,
        "completionMode": "Indexed",
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "main", "image": "registry.invalid/none"}],
            }
        },
    },
}


def kubectl(plane: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    command = [str(BINARIES["kubectl"].path), f"--kubeconfig={plane.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def processes_below(directory: Path) -> list[str]:
    """Command lines of all processes that were given a path below `directory`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{directory}/" in words:
            found.append(words.replace("\0", " "))
    return found


def test_it_reports_the_pinned_version(control_plane: ControlPlane) -> None:
    version: dict[str, Any] = json.loads(kubectl(control_plane, "get", "--raw", "/version"))
    assert version["gitVersion"] == BINARIES["kube-apiserver"].version
    assert (version["major"], version["minor"]) == ("1", "34")


def test_controllers_work(control_plane: ControlPlane) -> None:
    kubectl(control_plane, "create", "namespace", "jobs")
    kubectl(control_plane, "--namespace=jobs", "apply", "--filename=-", stdin=json.dumps(JOB))
    kubectl(
        control_plane,
        "--namespace=jobs",
        "wait",
        "--for=jsonpath={.status.active}=2",
        "job/pair",
        "--timeout=30s",
    )
    pods = json.loads(kubectl(control_plane, "--namespace=jobs", "get", "pods", "--output=json"))["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Pending", "Pending"]

    # Owned objects go with their owner: the garbage collector runs.
    kubectl(control_plane, "--namespace=jobs", "delete", "job/pair", "--cascade=background")
    kubectl(control_plane, "--namespace=jobs", "wait", "--for=delete", "pod", "--all", "--timeout=30s")


def test_several_run_side_by_side_and_leave_nothing(control_plane: ControlPlane) -> None:
    with ControlPlane() as other:
        directory = other.kubeconfig.parent
        kubectl(other, "create", "configmap", "here")
        assert "here" not in kubectl(control_plane, "get", "configmaps", "--output=name")
        assert len(processes_below(directory)) == 3
    assert not directory.exists()
    assert processes_below(directory) == []
