"""Two operators at once, which nobody wants and an update may bring, on the same jobs."""

import threading
import time
from collections import Counter
from collections.abc import Sequence

from chaos.changes import Change
from chaos.conftest import MakeOperator
from chaos.faults import Hold, Rule, asks
from chaos.history import recorded
from chaos.invariants import violations
from chaos.kubelet import Kubelet
from chaos.operators import ChaosOperator
from cluster.gangs import node
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Namespace, eventually
from world import INLINE, found

NAMES = ("a", "b", "c")


def at_rest(operators: list[ChaosOperator]) -> bool:
    """Whether nobody writes for longer than it takes the patrol to come by."""
    written = [len(operator.proxy.writes) for operator in operators]
    time.sleep(3)
    return written == [len(operator.proxy.writes) for operator in operators]


def made(changes: Sequence[Change]) -> list[Change]:
    """The Jobs that were made, oldest first."""
    return [change for change in changes if (change.kind, change.type) == ("Job", "ADDED")]


def test_they_do_not_get_in_each_others_way(namespace: Namespace, make_operator: MakeOperator) -> None:
    two = [make_operator(), make_operator()]
    with recorded(namespace) as history:
        for operator in two:
            operator.start()
        for name in NAMES:
            namespace.submit(name)
        for name in NAMES:
            [pod] = namespace.pods(name, count=1, attempt=0)
            namespace.end_pod(pod, 0, found().to_termination_message())
        for name in NAMES:
            for pod in namespace.pods(name):
                namespace.end_pod(pod, 1)
        for name in NAMES:
            namespace.pods(name, attempt=2)
            namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": True}})
            namespace.in_phase("Suspended", name)
            namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": False}})
        for name in NAMES:
            for pod in namespace.pods(name, attempt=3):
                namespace.end_pod(pod, 0)
        for name in NAMES:
            status = namespace.in_phase("Succeeded", name)
            attempts = [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]]
            assert attempts == [(1, "Error", True), (2, "Suspended", False), (3, "Completed", False)]
            assert status["restarts"] == 1
        # Once nothing happens any more, neither has anything to say against the other.
        eventually(lambda: at_rest(two))
        changes = history.changes
    requests = [request for operator in two for request in operator.requests]
    assert violations(changes, requests, namespace.name) == []
    gangs = Counter(change.name for change in made(changes))
    steps = ("prepare", "1", "2", "3")
    assert gangs == {f"{name}-{step}": 1 for name in NAMES for step in steps}
    for operator in two:
        assert '"level": "error"' not in operator.log.read_text()


def test_what_the_late_one_makes_of_a_job_that_is_gone_does_not_stay(
    namespace: Namespace, make_operator: MakeOperator
) -> None:
    """Both see that there is no gang. One makes it, and the other comes to make its own when the job is gone."""
    first, late = make_operator(), make_operator()
    gone = threading.Event()

    def both_are_about_to() -> bool:
        return any(isinstance(request.fault, Hold) for request in late.requests)

    for operator, until in ((first, both_are_about_to), (late, gone.is_set)):
        operator.start()
        operator.proxy.add(Rule(asks("PATCH", "jobs"), Hold(until)))
    with recorded(namespace) as history, node(namespace) as where:
        kubelet = Kubelet(namespace, where, grace_seconds=0)
        namespace.submit("demo", dataset=INLINE)
        namespace.pods("demo")
        # Pods of a node are there until their containers have ended.
        kubelet.run("demo")
        namespace.delete(FINETUNEJOBS, "demo")
        eventually(lambda: not namespace.all(JOBS))
        gone.set()
        eventually(lambda: len(made(history.changes)) == 2)
        while kubelet.reap():
            time.sleep(0.05)
        eventually(lambda: not namespace.all(PODS) and not namespace.all(JOBS))
        changes = history.changes
    [end] = [change for change in changes if (change.kind, change.type) == ("FineTuneJob", "DELETED")]
    assert end.revision < made(changes)[1].revision
    requests = [request for operator in (first, late) for request in operator.requests]
    assert violations(changes, requests, namespace.name) == []
