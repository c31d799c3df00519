"""The three systems: what a job is to each, when it is over, and the processes that see to it."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.operator.client import APPLY, Client
from cluster.operators import Operator
from clusters.addons.kubeflow import Kubeflow
from finetune_operator.objects import workload
from world import INLINE, INSTALLATION, manifest, submitted

Wire = dict[str, Any]

FLOOR, OURS, KUBEFLOW = "floor", "ours", "kubeflow"
SYSTEMS = (FLOOR, OURS, KUBEFLOW)
LABELS = {FLOOR: "bare Indexed Jobs", OURS: "FineTuneJobs", KUBEFLOW: "Kubeflow TrainJobs"}

_RUNTIME = "benchmark"
_TRAINER_API = "trainer.kubeflow.org/v1alpha1"


@dataclass(frozen=True)
class System:
    """How jobs are made there."""

    name: str
    path: str
    """Of its jobs, with {namespace}."""
    container: str
    """Its pods' only one."""

    def job(self, name: str, nodes: int) -> Wire:
        """A job of so many nodes; all systems' pods are the same but for names and labels."""
        if self.name == OURS:
            return _finetunejob(name, nodes)
        if self.name == FLOOR:
            gang = _gang(name, nodes)
            return {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name},
                "spec": gang["spec"],
            }
        return {
            "apiVersion": _TRAINER_API,
            "kind": "TrainJob",
            "metadata": {"name": name},
            "spec": {"runtimeRef": {"name": _RUNTIME}, "trainer": {"numNodes": nodes}},
        }

    def is_over(self, wire: Wire) -> bool:
        """Whether a job has come to its good end, as its own status tells."""
        status = wire.get("status", {})
        if self.name == OURS:
            return bool(status.get("phase") == "Succeeded")
        return any(c["type"] == "Complete" and c["status"] == "True" for c in status.get("conditions", []))

    @contextmanager
    def running(
        self, kubeconfig: Path, directory: Path, *, requests_per_second: int | None
    ) -> Iterator[Sequence[int]]:
        """Its controllers, as processes; gives their ids. They end with the context: each turn has fresh ones."""
        if self.name == FLOOR:
            yield []
        elif self.name == OURS:
            directory.mkdir(parents=True, exist_ok=True)
            operator = _Process(kubeconfig, directory)
            operator.start()
            try:
                yield [operator.pid]
            finally:
                operator.stop()
        else:
            with Kubeflow(kubeconfig, requests_per_second=requests_per_second) as kubeflow:
                path = f"/apis/{_TRAINER_API}/clustertrainingruntimes/{_RUNTIME}?fieldManager=benchmark"
                Client(kubeconfig).request("PATCH", path, _runtime(), APPLY)
                yield kubeflow.pids


BY_NAME = {
    FLOOR: System(FLOOR, "/apis/batch/v1/namespaces/{namespace}/jobs", "trainer"),
    OURS: System(OURS, "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs", "trainer"),
    KUBEFLOW: System(KUBEFLOW, f"/apis/{_TRAINER_API}/namespaces/{{namespace}}/trainjobs", "node"),
}


class _Process(Operator):
    """The operator, whose process is known by its id."""

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = super()._spawn()
        assert isinstance(process, subprocess.Popen)
        self.pid = process.pid
        return process


def _finetunejob(name: str, nodes: int) -> Wire:
    # Its data are prepared by the gang itself: so what it makes first is the gang's Job, as with the others.
    resources = {"nodes": nodes, "gpusPerNode": 0}
    return manifest(name, dataset=INLINE, resources=resources)


def _gang(name: str, nodes: int) -> Wire:
    """The Job that the operator would make."""
    subject = submitted(dataset=INLINE, resources={"nodes": nodes, "gpusPerNode": 0})
    assert subject.job is not None
    job = subject.job.model_copy(update={"metadata": subject.job.metadata.model_copy(update={"name": name})})
    return deepcopy(workload.attempt(job, 1, INSTALLATION, prepared={})[-1])


def _runtime() -> Wire:
    """A runtime whose pods are those of the operator. Of its Jobs, JobSet and Trainer say the rest."""
    pod = _gang("job", 2)["spec"]["template"]["spec"]
    pod["containers"][0]["name"] = BY_NAME[KUBEFLOW].container
    # JobSet has a headless Service of its own, and a subdomain by the name of the job.
    pod.pop("subdomain", None)
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    }
    return {
        "apiVersion": _TRAINER_API,
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": _RUNTIME},
        "spec": {"mlPolicy": {"numNodes": 1}, "template": {"spec": {"replicatedJobs": [node]}}},
    }
