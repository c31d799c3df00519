"""Watches break in every way that they can, and jobs go on; what a silent one does not tell, the patrol finds."""

import json
import time

import pytest

from chaos.conftest import MakeOperator
from chaos.faults import GONE, Answer, Asked, Rule, Wire, asks, error_event, watches
from chaos.operators import ChaosOperator
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Namespace, eventually
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


def is_patrol(asked: Asked) -> bool:
    """Whether it is of the lists that the operator compares with what the watches have told."""
    return asks("GET", "pods")(asked) and asked.query.get("resourceVersion") == "0"


def replaced(namespace: Namespace) -> None:
    """The job is deleted, all that was its goes, and another one has its name."""
    namespace.delete(FINETUNEJOBS, "demo")
    eventually(lambda: not namespace.belongings(), seconds=PATIENCE)
    namespace.submit(dataset=INLINE)


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
        # Once all lists have come: /healthz is asked between two of them, too.
        eventually(lambda: "has stopped" in operator.log.read_text(), seconds=PATIENCE)


def test_who_is_over_is_not_read_when_the_operator_starts_and_is_heard_when_changed(
    namespace: Namespace, make_operator: MakeOperator
) -> None:
    operator = make_operator(patrol_seconds=RARELY)
    operator.start()
    pods = trains(namespace)
    goes_on(namespace, pods)
    operator.stop()
    operator.start()
    known = 'finetune_jobs{phase="Succeeded"} 1.0'
    eventually(lambda: known in operator.get("/metrics")[1], seconds=PATIENCE)
    # Nor do its pods matter any more, until somebody changes the job.
    namespace.delete(PODS, pods[0])
    time.sleep(1)
    assert not [r for r in operator.proxy.requests if asks("GET", "finetunejobs")(r.asked) and r.asked.name]
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"ttlSecondsAfterFinished": 0}})
    eventually(lambda: not namespace.belongings(), seconds=PATIENCE)


def test_what_goes_between_two_lists_is_forgotten(namespace: Namespace, make_operator: MakeOperator) -> None:
    """A watch that begins anew with a list does not tell the end of what is not in it."""
    operator = make_operator(patrol_seconds=1)
    operator.start()
    trains(namespace)
    namespace.in_phase("Starting", seconds=PATIENCE)
    eventually(lambda: operator.proxy.open_watches() == WATCHES, seconds=PATIENCE)
    operator.proxy.let_through(lambda resource, event: False)
    replaced(namespace)
    operator.proxy.heal()
    operator.proxy.end_watches(last=GONE)
    goes_on(namespace, eventually(namespace.pods, seconds=PATIENCE))
    # Since then, lists have come for longer than a watch may be late.
    begun = time.monotonic()

    def looked() -> bool:
        rounds = [r.asked.time for r in list(operator.proxy.requests) if is_patrol(r.asked)]
        rounds = [when for when in rounds if when > begun]
        return bool(rounds) and rounds[-1] - rounds[0] > operator.tuning.tolerance_seconds + 2

    eventually(looked, seconds=PATIENCE)
    eventually(lambda: operator.get("/healthz")[0] == 200, seconds=20)


def test_who_is_replaced_in_silence_is_found(namespace: Namespace, operator: ChaosOperator) -> None:
    """Watches live, and tell neither the end of the one nor the beginning of the other."""
    operator.start()
    trains(namespace)
    namespace.in_phase("Starting", seconds=PATIENCE)
    operator.proxy.let_through(lambda resource, event: event["type"] == "MODIFIED")
    replaced(namespace)
    goes_on(namespace, eventually(namespace.pods, seconds=PATIENCE))


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
    namespace.submit("ghost", dataset=INLINE)
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
    namespace.delete(FINETUNEJOBS, "ghost")
    operator.start()
    pods = namespace.pods()
    namespace.in_phase("Starting", seconds=PATIENCE)
    [gang] = namespace.all(JOBS)
    operator.kill()
    # The job as it was before it had a status, and nothing that belongs to it; and one that is gone.
    old = [Rule(asks("GET", resource), answer) for resource, answer in lists.items()]
    operator.start(*old)
    time.sleep(2)
    assert [job["metadata"]["uid"] for job in namespace.all(JOBS)] == [gang["metadata"]["uid"]]
    assert namespace.belongings("ghost") == []
    assert [attempt["number"] for attempt in namespace.status()["attempts"]] == [1]
    goes_on(namespace, pods)
