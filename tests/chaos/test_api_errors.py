"""The API server refuses, hangs and goes away, at every kind of request; nothing is lost, and nobody is flooded."""

import os
import re
import time
from collections.abc import Callable

import pytest

from chaos.conftest import MakeOperator
from chaos.faults import Answer, Asked, Cut, Fault, Hang, Rule, asks
from cluster.kube import FINETUNEJOBS, JOBS, Namespace, RefusedError, eventually
from world import INLINE

# Every kind of request in the life of a job that fails once.
KINDS = (
    ("GET", "finetunejobs"),
    ("GET", "jobs"),
    ("GET", "pods"),
    ("GET", "services"),
    ("GET", "configmaps"),
    ("GET", "networkpolicies"),
    ("PATCH", "services"),
    ("PATCH", "configmaps"),
    ("PATCH", "networkpolicies"),
    ("PATCH", "jobs"),
    ("PATCH", "finetunejobs/status"),
    ("DELETE", "jobs"),
    ("POST", "events"),
)
REQUEST_TIMEOUT_SECONDS = 2.0
# Back-offs grow with its length: after a minute it takes half a minute more until a job goes on. `make chaos` has that.
OUTAGE_SECONDS = float(os.environ.get("CHAOS_OUTAGE_SECONDS", "6"))
PATIENCE = 180.0


def about(job: str, kind: tuple[str, str]) -> Callable[[Asked], bool]:
    """Requests of this kind for the sake of one job."""
    of_kind = asks(*kind)
    name = re.compile(rf'\b{job}\b|"{job}"')

    def matches(asked: Asked) -> bool:
        told = (asked.name, asked.query.get("labelSelector"), asked.body.decode())
        return of_kind(asked) and any(name.search(text) for text in told if text)

    return matches


def ended_well(namespace: Namespace, job: str) -> None:
    """Its first gang failed, which counted once, and the second one succeeded."""
    status = namespace.in_phase("Succeeded", job, seconds=PATIENCE)
    attempts = [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]]
    assert attempts == [(1, "Error", True), (2, "Completed", False)]
    assert status["restarts"] == 1
    own = namespace.all(JOBS, labelSelector=f"finetune.dev/job={job}")
    assert [found["metadata"]["name"] for found in own] == [f"{job}-2"]


def pods_of(namespace: Namespace, job: str, attempt: int) -> list[str]:
    """The pods of an attempt, which may be long in coming."""
    return eventually(lambda: namespace.pods(job, attempt=attempt), seconds=PATIENCE)


def fail(namespace: Namespace, pods: list[str]) -> None:
    """Have pods fail; when the first has, the operator may be quicker to have the others removed."""
    for pod in pods:
        try:
            namespace.end_pod(pod, 1)
        except RefusedError as error:
            if error.status != 404:
                raise


@pytest.mark.parametrize(
    "fault",
    [Answer(409), Answer(500), Answer(503), Answer.busy(1), Hang(), Cut(), Cut(after=True)],
    ids=["409", "500", "503", "429", "hang", "cut before", "cut after"],
)
def test_every_kind_of_request_may_fail(
    namespace: Namespace, make_operator: MakeOperator, fault: Fault
) -> None:
    operator = make_operator(request_timeout_seconds=REQUEST_TIMEOUT_SECONDS)
    # Each job has one kind of request that fails twice, so that none waits long.
    jobs = {f"job{number}": kind for number, kind in enumerate(KINDS)}
    operator.start(*(Rule(about(job, kind), fault, times=2) for job, kind in jobs.items()))
    for job in jobs:
        namespace.submit(job, dataset=INLINE)
    for job in jobs:
        fail(namespace, pods_of(namespace, job, 1))
    for job in jobs:
        for pod in pods_of(namespace, job, 2):
            namespace.end_pod(pod, 0)
    for job in jobs:
        ended_well(namespace, job)
    failed = {(r.asked.method, r.asked.resource) for r in operator.requests if r.fault is not None}
    assert failed == set(KINDS)
    eventually(lambda: operator.get("/healthz")[0] == 200, seconds=PATIENCE)


def test_who_is_told_to_come_later_comes_later(namespace: Namespace, make_operator: MakeOperator) -> None:
    operator = make_operator()
    seconds = 3
    operator.start(Rule(asks("PATCH", "jobs"), Answer.busy(seconds)))
    namespace.submit(dataset=INLINE)
    eventually(lambda: [r for r in operator.proxy.requests if r.fault is not None], seconds=PATIENCE)
    # Something happens to it meanwhile.
    namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"touched": "yes"}}})
    namespace.pods()
    [refused] = [r.asked.time for r in operator.proxy.requests if r.fault is not None]
    asked = [r.asked for r in operator.proxy.requests if r.asked.time > refused and not r.asked.is_watch]
    # Events of what was done before may still be told.
    about_it = [one.time for one in asked if one.resource != "events" and "limit" not in one.query]
    assert min(about_it) - refused >= seconds


@pytest.mark.parametrize("moment", ["start", "run", "end"])
@pytest.mark.parametrize("fault", [Cut(), Answer(503)], ids=["unreachable", "503"])
def test_jobs_outlive_an_outage(
    namespace: Namespace, make_operator: MakeOperator, fault: Fault, moment: str
) -> None:
    # Watches are open again only some time after a long outage, as long as it takes kopf to try again.
    operator = make_operator(tolerance_seconds=max(5.0, OUTAGE_SECONDS))
    operator.start()

    def outage() -> None:
        since, begin = len(operator.proxy.requests), time.monotonic()
        time.sleep(OUTAGE_SECONDS)
        # It lives, and says what it finds.
        assert operator.get("/healthz")[0] == 200
        failed = r'finetune_api_requests_total\{code="(none|503)"'
        eventually(lambda: re.search(failed, operator.get("/metrics")[1]), seconds=PATIENCE)
        # Three watches, a patrol and one job, most of which wait longer and longer. What is cut off, the HTTP client
        # itself asks once more. Who did not wait would ask hundreds of times a second.
        assert len(operator.proxy.requests) - since < 10 * (time.monotonic() - begin)

    if moment == "start":
        with operator.proxy.outage(fault):
            namespace.submit("demo", dataset=INLINE)
            outage()
    else:
        namespace.submit("demo", dataset=INLINE)
    pods = pods_of(namespace, "demo", 1)
    namespace.in_phase("Starting", seconds=PATIENCE)
    if moment == "run":
        with operator.proxy.outage(fault):
            fail(namespace, pods)
            outage()
    else:
        fail(namespace, pods)
    pods = pods_of(namespace, "demo", 2)
    if moment == "end":
        with operator.proxy.outage(fault):
            for pod in pods:
                namespace.end_pod(pod, 0)
            outage()
    else:
        for pod in pods:
            namespace.end_pod(pod, 0)
    ended_well(namespace, "demo")
    assert operator.alive
    # Nobody is restarted for it.
    assert operator.get("/healthz")[0] == 200
    assert len(operator.proxies) == 1
