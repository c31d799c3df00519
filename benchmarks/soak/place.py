"""The local cluster of the soak, and its namespace: what is asked of them, and what is told to them."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from urllib3.exceptions import HTTPError

from cluster.kube import (
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Kube,
    RefusedError,
)
from clusters.choice import current_cluster
from clusters.local.containerd import Containerd
from clusters.local.isolation import Isolation
from clusters.paths import cluster_directory
from clusters.processes import Supervisor
from deploy import NAMESPACE as OPERATOR_NAMESPACE
from deploy import RELEASE, deploy, run
from finetune_api import names

T = TypeVar("T")
Wire = dict[str, Any]

NAME = "soak"
NAMESPACE = "soak"
_PATIENCE_SECONDS = 120
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
# What the operator makes for a job, and what comes of that.
CHILDREN = {
    "pods": PODS,
    "jobs": JOBS,
    "configmaps": CONFIGMAPS,
    "services": SERVICES,
    "networkpolicies": NETWORK_POLICIES,
}


class Place:
    """The cluster while it is up, with the operator in it and three claims."""

    def __init__(self) -> None:
        self.directory = cluster_directory(NAME)
        self.isolation = Isolation(NAME, self.directory)
        self.processes = Supervisor(self.directory)
        self.containerd = Containerd(self.isolation)
        self.kube = Kube(current_cluster(NAME).kubeconfig)
        self.models, self.data, self.runs = (
            Path(run("hack/cluster", "volume", "--name", NAME, f"{NAMESPACE}/{claim}").splitlines()[-1])
            for claim in ("models", "data", "runs")
        )
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        self.kube.request("PATCH", f"/api/v1/namespaces/{NAMESPACE}", label, "application/merge-patch+json")

    def all(self, template: str, namespace: str = NAMESPACE, **query: str) -> list[Wire]:
        """All objects of one kind."""
        found: list[Wire] = self.ask("GET", template.format(namespace=namespace), **query)["items"]
        return found

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Wire:
        """One request; raises RefusedError.

        It is asked again while the API server, or a webhook that it asks, is on its way back.
        """
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"

        def once() -> Wire:
            return self.kube.request(method, path, body, content, **query)

        return _patiently(once)

    def job_path(self, name: str = "") -> str:
        """The path of a FineTuneJob, or of all."""
        return FINETUNEJOBS.format(namespace=NAMESPACE) + (name and f"/{name}")

    def children(self, job: str) -> dict[str, list[Wire]]:
        """What there is of a job besides itself, by kind."""
        selector = f"{names.LABEL_JOB}={job}"
        return {kind: self.all(template, labelSelector=selector) for kind, template in CHILDREN.items()}

    def events(self, job: str) -> list[Wire]:
        """What was told of a job, for as long as the API server keeps it."""
        return [event for event in self.all(EVENTS) if event["regarding"].get("name") == job]

    def operator_pod(self) -> Wire | None:
        """The operator's pod; None while there is none that runs."""
        selector = f"app.kubernetes.io/instance={RELEASE}"
        pods = self.all(PODS, OPERATOR_NAMESPACE, labelSelector=selector)
        return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)

    def processes_of(self, pod: Wire, *words: bytes) -> list[int]:
        """The processes of a pod whose command lines have all these words, by this machine's ids."""
        uid = pod["metadata"]["uid"]
        return [
            pid
            for pid in sorted(self.isolation.pod_processes())
            if uid in _read(pid, "cgroup").decode().replace("_", "-")
            and set(words) <= set(_read(pid, "cmdline").split(bytes(1)))
        ]

    def operator_process(self) -> int | None:
        """The operator's process; None while there is none."""
        pod = self.operator_pod()
        # The pause process of the pod is no Python.
        found = [pid for pid in self.processes_of(pod) if b"python" in _read(pid, "cmdline")] if pod else []
        return found[0] if found else None

    def repair(self) -> None:
        """Start again what has been killed of the cluster's own parts, and wait until it works."""
        subprocess.run(
            ["hack/cluster", "up", "--name", NAME],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        )


def up() -> Place:
    """Bring the cluster up, with the operator of this checkout in it."""
    deploy(NAME)
    return Place()


def down() -> None:
    """Remove it, volumes included."""
    run("hack/cluster", "down", "--name", NAME)


def _patiently(once: Callable[[], T]) -> T:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return once()
        except HTTPError:
            if time.monotonic() > deadline:
                raise
        except RefusedError as error:
            if (error.status < 500 and error.status != 429) or time.monotonic() > deadline:
                raise
        time.sleep(1)


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


__all__ = ["CHILDREN", "LEASES", "NAMESPACE", "Place", "RefusedError", "Wire", "down", "up"]
