"""Jobs in a queue of the real Kueue; the tests play the kubelet."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

import queues
from cluster import gangs
from cluster.gangs import end, finish, training
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Kube, Namespace, Wire, eventually
from cluster.operators import Operator
from clusters.addons.kueue import Kueue
from clusters.local import ControlPlane
from world import INLINE

QUOTA = {"cpu": "2", "memory": "4Gi"}
# All that there is quota for.
RESOURCES = {"nodes": 2, "gpusPerNode": 0, "requests": {"cpu": "1", "memory": "1Gi"}}
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/workloads"
QUEUE = "team"


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """A control plane of this module's own, with Kueue."""
    with ControlPlane() as plane, Kueue(plane.kubeconfig, uninstall=False):
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        yield kube


@pytest.fixture(scope="module")
def operator(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator there."""
    operator = Operator(kube.kubeconfig, tmp_path_factory.mktemp("operator"))
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()


@pytest.fixture
def team(operator: Operator, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with quota for one gang, and with jobs that may take it from others."""
    objects = [
        *queues.queue(QUEUE, **QUOTA, namespace=namespace.name),
        queues.priority("urgent", 100),
    ]
    for wire in objects:
        namespace.kube.request(
            "PATCH", _path(wire), wire, "application/apply-patch+yaml", fieldManager="administrator"
        )
    yield namespace
    # Else they would be in the way of the next test's.
    namespace.kube.request("DELETE", namespace.path(FINETUNEJOBS))
    eventually(lambda: not namespace.all(WORKLOADS))


@pytest.fixture
def node(namespace: Namespace) -> Iterator[str]:
    """A node: pods on one end when their kubelet says so, and not before."""
    with gangs.node(namespace) as name:
        yield name
        for pod in namespace.all(PODS):
            namespace.delete(PODS, pod["metadata"]["name"], gracePeriodSeconds=0)


def _path(wire: Wire) -> str:
    metadata, plural = wire["metadata"], wire["kind"].lower() + ("es" if wire["kind"].endswith("s") else "s")
    where = f"namespaces/{metadata['namespace']}/{plural}" if "namespace" in metadata else plural
    return f"/apis/{wire['apiVersion']}/{where}/{metadata['name']}"


def submit(namespace: Namespace, name: str, *, queue: str = QUEUE, **spec: Any) -> None:
    scheduling = {"queueName": queue} | spec.pop("scheduling", {})
    namespace.submit(name, **{"dataset": INLINE, "resources": RESOURCES} | spec, scheduling=scheduling)


def queued(namespace: Namespace, name: str, *, reason: str, message: str) -> Wire:
    """Wait until a job is told to be in the queue for that reason, in these words; returns its status."""

    def told() -> Wire:
        status = namespace.in_phase("Queued", name)
        ready = namespace.condition("Ready", name)
        assert (ready["status"], ready["reason"]) == ("Unknown", reason), ready
        assert message in ready["message"], ready
        return status

    return eventually(told)


def test_the_second_of_two_waits_until_the_first_ends(team: Namespace, operator: Operator, node: str) -> None:
    submit(team, "first")
    pods = training(team, operator, node, "first")
    submit(team, "second")
    status = queued(
        team,
        "second",
        reason="Pending",
        message="insufficient unused quota for cpu in flavor team, 2 more needed",
    )
    assert status["queue"]["name"] == QUEUE
    assert status["queue"]["waitingSince"] >= status["startTime"]
    assert not team.all(PODS, labelSelector="finetune.dev/job=second")

    finish(team, pods, "first")
    training(team, operator, node, "second")
    queue = team.status("second")["queue"]
    assert (queue["name"], queue.get("preemptions", 0), "waitingSince" in queue) == (QUEUE, 0, False)
    assert queue["waitedSeconds"] >= 0

    def told() -> bool:
        # Events come last: the status is there before them.
        found = [reason for reason in team.events("second") if reason != "CheckpointSaved"]
        assert found == ["Accepted", "Queued", "Admitted"]
        return True

    eventually(told)


def test_a_preempted_gang_saves_waits_and_goes_on_at_the_cost_of_nothing(
    team: Namespace, operator: Operator, node: str
) -> None:
    submit(team, "demo", failurePolicy={"maxRestarts": 0, "maxDisruptions": 0})
    pods = training(team, operator, node)
    submit(team, "important", scheduling={"workloadPriorityClassName": "urgent"})
    eventually(lambda: all("deletionTimestamp" in team.get(PODS, pod)["metadata"] for pod in pods))
    gangs.post(team, operator, pods[0], step=5)
    for pod in pods:
        end(team, pod, 143)
    queued(team, "demo", reason="Preempted", message="Preempted to accommodate a workload")
    others = training(team, operator, node, "important")
    queued(team, "demo", reason="Preempted", message="insufficient unused quota for cpu")

    finish(team, others, "important")
    again = training(team, operator, node, step=6)
    assert not set(pods) & set(again)
    status = team.status()
    [attempt] = status["attempts"]
    assert (attempt["number"], "endTime" in attempt) == (1, False)
    assert (status["restarts"], status["queue"]["preemptions"]) == (0, 1)
    assert [c["step"] for c in status["checkpoints"] if c["kind"] == "resume"] == [6]
    finish(team, again)
    eventually(lambda: team.events()[-1] == "Succeeded")
    told = [reason for reason in team.events() if reason != "CheckpointSaved"]
    assert told[-3:] == ["Preempted", "Admitted", "Succeeded"]


def test_a_large_gang_that_has_waited_for_long_has_its_whole_time_to_start(
    team: Namespace, operator: Operator, node: str
) -> None:
    """Its Job tells that it has started only when all of its pods have been made."""
    deadline = 30
    submit(team, "first")
    pods = training(team, operator, node, "first")
    large = {"nodes": 40, "gpusPerNode": 0, "requests": {"cpu": "50m", "memory": "100Mi"}}
    policy = {"startupDeadlineSeconds": deadline, "maxRestarts": 0}
    submit(team, "large", resources=large, failurePolicy=policy)
    queued(team, "large", reason="Pending", message="insufficient unused quota for cpu")
    time.sleep(deadline)
    finish(team, pods, "first")
    team.in_phase("Starting", "large")
    assert len(team.pods("large", count=40)) == 40
    [attempt] = team.status("large")["attempts"]
    assert "endTime" not in attempt


def test_a_queue_that_is_not_there_is_named(team: Namespace) -> None:
    submit(team, "demo", queue="elsewhere")
    queued(team, "demo", reason="Inadmissible", message="LocalQueue elsewhere doesn't exist")


def test_what_can_never_fit_is_told_so(team: Namespace) -> None:
    large = RESOURCES | {"nodes": 3}
    submit(team, "demo", resources=large)
    queued(team, "demo", reason="Pending", message="request (3) > maximum capacity (2)")


def test_a_priority_that_is_not_there_is_named(team: Namespace) -> None:
    submit(team, "demo", scheduling={"workloadPriorityClassName": "unheard-of"})
    queued(team, "demo", reason="Queued", message="WorkloadPriorityClass unheard-of exists")


def test_a_suspended_job_leaves_the_queue_and_comes_back(
    team: Namespace, operator: Operator, node: str
) -> None:
    submit(team, "first")
    pods = training(team, operator, node, "first")
    submit(team, "second")
    queued(team, "second", reason="Pending", message="insufficient unused quota")
    team.patch(FINETUNEJOBS, "second", {"spec": {"suspend": True}})
    team.in_phase("Suspended", "second")
    eventually(lambda: len(team.all(JOBS)) == len(team.all(WORKLOADS)) == 1)
    team.patch(FINETUNEJOBS, "second", {"spec": {"suspend": False}})
    queued(team, "second", reason="Pending", message="insufficient unused quota")

    # One that is suspended gives its quota to others.
    team.patch(FINETUNEJOBS, "first", {"spec": {"suspend": True}})
    eventually(lambda: all("deletionTimestamp" in team.get(PODS, pod)["metadata"] for pod in pods))
    for pod in pods:
        end(team, pod, 143)
    status = team.in_phase("Suspended", "first")
    assert status.get("queue", {}).get("preemptions", 0) == 0
    training(team, operator, node, "second", attempt=team.status("second")["attempts"][-1]["number"])
    team.patch(FINETUNEJOBS, "first", {"spec": {"suspend": False}})
    status = queued(team, "first", reason="Pending", message="insufficient unused quota")
    assert status["attempts"][0]["reason"] == "Suspended"
