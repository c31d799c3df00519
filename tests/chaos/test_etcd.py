"""The API server and its store die in the middle of a job's life, and the past is forgotten."""

from collections.abc import Callable, Iterator

import pytest

from chaos.conftest import MakeOperator
from chaos.faults import Answer, Rule, asks
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


Meanwhile = Callable[[], None]


def kill_the_api_server(plane: ControlPlane, meanwhile: Meanwhile) -> None:
    """With all that it had in memory."""
    plane.restart("apiserver", meanwhile=meanwhile)


def kill_etcd(plane: ControlPlane, meanwhile: Meanwhile) -> None:
    """The API server answers nobody until it finds it again, but watches stay open."""
    plane.restart("etcd", meanwhile=meanwhile)


def kill_both(plane: ControlPlane, meanwhile: Meanwhile) -> None:
    """As when the machine dies that both are on."""
    plane.restart("apiserver", "etcd", meanwhile=meanwhile)


def forget_the_past(plane: ControlPlane, meanwhile: Meanwhile) -> None:
    """The versions that watches had come to are gone."""

    def forget() -> None:
        plane.compact()
        meanwhile()

    plane.restart("apiserver", meanwhile=forget)


def asked_in_vain(operator: ChaosOperator) -> Meanwhile:
    """Returns what waits until the operator has looked at a job for nothing: it is kept from looking until then.

    A disaster that is over before anybody needs the API server is none.
    """
    operator.proxy.add(Rule(asks("GET", "finetunejobs"), Answer.busy(1), times=None))
    told = len(operator.log.read_text())

    def wait() -> None:
        operator.proxy.heal()

        def tries_again() -> bool:
            lines = operator.log.read_text()[told:].splitlines()
            return any("next try in" in line and "a fault of the test" not in line for line in lines)

        eventually(tries_again, seconds=PATIENCE)

    return wait


@pytest.mark.parametrize("disaster", [kill_the_api_server, kill_etcd, kill_both, forget_the_past])
def test_jobs_go_on(
    control_plane: ControlPlane,
    namespace: Namespace,
    make_operator: MakeOperator,
    disaster: Callable[[ControlPlane, Meanwhile], None],
) -> None:
    operator = make_operator(request_timeout_seconds=2.0)
    operator.start()
    namespace.submit(dataset=INLINE)
    # The controller manager may not have come back yet from the disaster before.
    first = eventually(namespace.pods, seconds=PATIENCE)
    namespace.in_phase("Starting")
    meanwhile = asked_in_vain(operator)
    for pod in first:
        namespace.end_pod(pod, 1)
    disaster(control_plane, meanwhile)
    second = eventually(lambda: namespace.pods(attempt=2), seconds=PATIENCE)
    namespace.in_phase("Starting", seconds=PATIENCE)
    meanwhile = asked_in_vain(operator)
    for pod in second:
        namespace.end_pod(pod, 0)
    disaster(control_plane, meanwhile)
    status = namespace.in_phase("Succeeded", seconds=PATIENCE)
    attempts = [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]]
    assert attempts == [(1, "Error", True), (2, "Completed", False)]
    assert [job["metadata"]["name"] for job in namespace.all(JOBS)] == ["demo-2"]
    # The same process, with watches that bring what happens now.
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    assert len(operator.proxies) == 1
    assert operator.alive
    assert operator.get("/healthz")[0] == 200
