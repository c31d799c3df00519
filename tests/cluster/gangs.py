"""The pods of a gang, on a node that is played by the test."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.kube import PODS, Namespace
from cluster.operators import Operator
from finetune_api.report import Stage
from world import OUTPUT, checkpoint, report


@contextmanager
def node(namespace: Namespace) -> Iterator[str]:
    """A node: pods on one end when their kubelet says so, and not before."""
    name = f"node-{namespace.name}"
    namespace.kube.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    yield name
    namespace.kube.request("DELETE", f"/api/v1/nodes/{name}")


def training(
    namespace: Namespace,
    operator: Operator,
    node: str,
    name: str = "demo",
    *,
    attempt: int = 1,
    count: int = 2,
    step: int = 3,
) -> list[str]:
    """The pods of a job's gang, on a node, training."""
    pods = namespace.pods(name, attempt=attempt, count=count)
    for pod in pods:
        binding = {"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}}
        namespace.kube.request("POST", namespace.path(PODS, pod) + "/binding", binding)
    namespace.run_pods(pods)
    post(namespace, operator, pods[0], name, attempt=attempt, step=step)
    namespace.in_phase("Running", name)
    return pods


def post(
    namespace: Namespace, operator: Operator, pod: str, name: str = "demo", *, attempt: int = 1, step: int
) -> None:
    """The gang tells of a step, and that its state is saved."""
    saved = [checkpoint(step, "resume")]
    told = report(attempt, step, step, checkpoints=saved)
    assert operator.post(namespace.name, name, told, token=namespace.token(pod))[0] == 200


def end(namespace: Namespace, pod: str, exit_code: int) -> None:
    """The container ends, and the kubelet removes the pod."""
    namespace.end_pod(pod, exit_code)
    namespace.delete(PODS, pod, gracePeriodSeconds=0)


def finish(namespace: Namespace, pods: list[str], name: str = "demo", *, attempt: int = 1) -> None:
    """The whole gang comes to its end."""
    last = report(attempt, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
    for rank, pod in enumerate(pods):
        namespace.end_pod(pod, 0, last.to_termination_message() if rank == 0 else "")
    namespace.in_phase("Succeeded", name)
