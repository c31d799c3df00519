"""The API server and its store die in the middle of a job's life, and the past is forgotten."""

from collections.abc import Callable, Iterator

import pytest

from chaos.operators import ChaosOperator
from cluster.kube import JOBS, Kube, Namespace, eventually
from clusters.local import ControlPlane
from world import INLINE

WATCHES = 3
PATIENCE = 180.0


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """One of this module's own: others would not outlive it."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="module")
def kube(control_plane: ControlPlane) -> Kube:
    """Its API server."""
    kube = Kube(control_plane.kubeconfig)
    kube.install_crd()
    return kube


def kill_the_api_server(plane: ControlPlane) -> None:
    """With all that it had in memory."""
    plane.restart("apiserver")


def kill_etcd(plane: ControlPlane) -> None:
    """The API server has to find it again."""
    plane.restart("etcd")


def kill_both(plane: ControlPlane) -> None:
    """As when the machine dies that both are on."""
    plane.restart("apiserver", "etcd")


def forget_the_past(plane: ControlPlane) -> None:
    """The versions that watches had come to are gone."""
    plane.restart("apiserver", meanwhile=plane.compact)


@pytest.mark.parametrize("disaster", [kill_the_api_server, kill_etcd, kill_both, forget_the_past])
def test_jobs_go_on(
    control_plane: ControlPlane,
    namespace: Namespace,
    operator: ChaosOperator,
    disaster: Callable[[ControlPlane], None],
) -> None:
    operator.start()
    namespace.submit(dataset=INLINE)
    first = namespace.pods()
    namespace.in_phase("Starting")
    disaster(control_plane)
    for pod in first:
        namespace.end_pod(pod, 1)
    second = eventually(lambda: namespace.pods(attempt=2), seconds=PATIENCE)
    disaster(control_plane)
    for pod in second:
        namespace.end_pod(pod, 0)
    status = namespace.in_phase("Succeeded", seconds=PATIENCE)
    attempts = [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]]
    assert attempts == [(1, "Error", True), (2, "Completed", False)]
    assert [job["metadata"]["name"] for job in namespace.all(JOBS)] == ["demo-2"]
    # The same process, with watches that bring what happens now.
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    assert len(operator.proxies) == 1
    assert operator.alive
    assert operator.get("/healthz")[0] == 200
