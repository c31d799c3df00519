"""Watches break in every way that they can, and jobs go on; what a silent one does not tell, the patrol finds."""

import json
import time

import pytest

from chaos.conftest import MakeOperator
from chaos.faults import GONE, Answer, Rule, Wire, asks, error_event, watches
from chaos.operators import ChaosOperator
from cluster.kube import JOBS, Namespace, eventually
from world import INLINE

WATCHES = 3
# Lists take their time where the machine is busy, and come the more rarely.
PATIENCE = 90.0
# So rarely that no patrol finds out what a watch should have told.
RARELY = 300.0


def trains(namespace: Namespace) -> list[str]:
    """The pods of a job that starts at once."""
    namespace.submit(dataset=INLINE)
    return eventually(namespace.pods, seconds=PATIENCE)


def goes_on(namespace: Namespace, pods: list[str]) -> None:
    """The gang ends: whoever sees that has been told."""
    for pod in pods:
        namespace.end_pod(pod, 0)
    namespace.in_phase("Succeeded", seconds=PATIENCE)
    assert [job["metadata"]["name"] for job in namespace.all(JOBS)] == ["demo-1"]


@pytest.mark.parametrize(
    "last",
    [None, GONE],
    ids=["cut", "410"],
)
def test_a_watch_that_ends_is_opened_again(
    namespace: Namespace, make_operator: MakeOperator, last: Wire | None
) -> None:
    operator = make_operator(patrol_seconds=RARELY)
    operator.start()
    pods = trains(namespace)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    operator.proxy.end_watches(last=last)
    # What happens meanwhile comes with the next list.
    goes_on(namespace, pods)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    assert operator.get("/healthz")[0] == 200


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_watch_that_is_refused_is_asked_for_again(
    namespace: Namespace, make_operator: MakeOperator, status: int
) -> None:
    operator = make_operator(patrol_seconds=RARELY)
    operator.start()
    pods = trains(namespace)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    operator.proxy.add(Rule(watches(), Answer(status), times=WATCHES))
    operator.proxy.end_watches()
    goes_on(namespace, pods)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)


@pytest.mark.parametrize("kept", [(), ("BOOKMARK",), ("MODIFIED",)], ids=["nothing", "bookmarks", "changes"])
def test_what_watches_do_not_tell_the_patrol_finds(
    namespace: Namespace, operator: ChaosOperator, kept: tuple[str, ...]
) -> None:
    operator.start()
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    operator.proxy.let_through(lambda resource, event: event["type"] in kept)
    pods = trains(namespace)
    goes_on(namespace, pods)
    if "MODIFIED" not in kept:
        # And it says so, for the kubelet to start the operator again.
        eventually(lambda: operator.get("/healthz")[0] == 503, seconds=PATIENCE)
        assert "has stopped" in operator.log.read_text()


@pytest.mark.parametrize("broken", [error_event(500, "InternalError"), Answer(410)], ids=["500", "410"])
def test_an_operator_whose_watch_is_given_up_gives_up(
    namespace: Namespace, operator: ChaosOperator, broken: Wire | Answer
) -> None:
    """An error that is not said to pass: kopf opens no watch again, so the process ends, to be started again."""
    operator.start()
    pods = trains(namespace)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    if isinstance(broken, Answer):
        operator.proxy.add(Rule(watches("pods"), broken))
        operator.proxy.end_watches("pods")
    else:
        operator.proxy.end_watches("pods", last=broken)
    eventually(lambda: not operator.alive, seconds=PATIENCE)
    assert operator.status == 1
    assert "the operator failed" in operator.log.read_text()
    operator.start()
    goes_on(namespace, pods)


def test_an_old_list_starts_nothing_twice(namespace: Namespace, operator: ChaosOperator) -> None:
    namespace.submit(dataset=INLINE)
    lists = {
        resource: Answer(
            200,
            json.dumps(
                namespace.kube.request("GET", f"{path}/namespaces/{namespace.name}/{resource}")
            ).encode(),
        )
        for resource, path in (
            ("finetunejobs", "/apis/finetune.dev/v1alpha1"),
            ("jobs", "/apis/batch/v1"),
            ("pods", "/api/v1"),
        )
    }
    operator.start()
    pods = namespace.pods()
    namespace.in_phase("Starting", seconds=PATIENCE)
    [gang] = namespace.all(JOBS)
    operator.kill()
    # The job as it was before it had a status, and nothing that belongs to it.
    old = [Rule(asks("GET", resource), answer) for resource, answer in lists.items()]
    operator.start(*old)
    time.sleep(2)
    assert namespace.all(JOBS)[0]["metadata"]["uid"] == gang["metadata"]["uid"]
    assert [attempt["number"] for attempt in namespace.status()["attempts"]] == [1]
    goes_on(namespace, pods)
