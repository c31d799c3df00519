"""Suspending, resuming and cleaning up on a real API server; the tests play the kubelet."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import gangs
from cluster.gangs import end, post, training
from cluster.kube import (
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Namespace,
    RefusedError,
    eventually,
)
from cluster.operators import Operator
from finetune_api.report import Stage
from world import INLINE, OUTPUT, report

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def node(namespace: Namespace) -> Iterator[str]:
    """A node: pods on one end when their kubelet says so, and not before."""
    with gangs.node(namespace) as name:
        yield name


def edit(namespace: Namespace, **spec: Any) -> None:
    namespace.patch(FINETUNEJOBS, "demo", {"spec": spec})


def test_a_gang_saves_and_goes_and_comes_again_in_another_size(
    namespace: Namespace, operator: Operator, node: str
) -> None:
    namespace.submit(dataset=INLINE)
    pods = training(namespace, operator, node)
    edit(namespace, suspend=True)
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in namespace.all(PODS)))
    status = namespace.status()
    assert status["phase"] == "Running"
    assert (status["attempts"][0]["reason"], status["attempts"][0]["counted"]) == ("Suspended", False)
    assert namespace.condition("Progressing")["message"] == "saving the state; 2 pods are ending"
    with pytest.raises(RefusedError, match="may change while the job is suspended"):
        edit(namespace, resources={"nodes": 3})

    # What is saved within the grace period is told, though the attempt has its end.
    post(namespace, operator, pods[0], step=4)
    eventually(lambda: namespace.status()["attempts"][0]["lastStep"] == 4)
    end(namespace, pods[1], 143)
    eventually(lambda: "1 pod is ending" in namespace.condition("Progressing")["message"])
    assert namespace.condition("Suspended")["status"] == "False"
    end(namespace, pods[0], 143)
    status = namespace.in_phase("Suspended")
    assert namespace.condition("Suspended")["status"] == "True"
    assert (namespace.all(PODS), namespace.all(JOBS)) == ([], [])
    assert [c["step"] for c in status["checkpoints"]] == [4]

    # Events come last.
    eventually(lambda: namespace.events()[-1] == "Suspended")
    before = operator.writes()
    time.sleep(1)
    assert operator.writes() == before, "a suspended job is left alone"
    edit(namespace, resources={"nodes": 3})
    edit(namespace, suspend=False)
    training(namespace, operator, node, attempt=2, count=3)
    status = namespace.status()
    assert status["suspendedSeconds"] >= 1
    assert status["restarts"] == 0
    told = [reason for reason in namespace.events() if reason != "CheckpointSaved"]
    assert told == ["Accepted", "Suspending", "Suspended", "Resumed", "Started"]
    configs = namespace.all(CONFIGMAPS, labelSelector="finetune.dev/job=demo")
    assert len(configs) == 2, "each configuration has a ConfigMap of its own"


def test_an_operator_that_dies_on_the_way_finds_what_is_to_do(
    namespace: Namespace, operator: Operator, node: str
) -> None:
    namespace.submit(dataset=INLINE)
    pods = training(namespace, operator, node)
    operator.kill()
    try:
        edit(namespace, suspend=True)
    finally:
        operator.start()
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in namespace.all(PODS)))
    operator.kill()
    try:
        for pod in pods:
            end(namespace, pod, 143)
    finally:
        operator.start()
    status = namespace.in_phase("Suspended")
    assert [attempt["reason"] for attempt in status["attempts"]] == ["Suspended"]
    assert namespace.all(JOBS) == []


def test_made_suspended_it_may_be_corrected_and_begins_when_it_is_let(namespace: Namespace) -> None:
    namespace.submit(suspend=True, dataset=INLINE)
    status = namespace.in_phase("Suspended")
    assert "startTime" not in status
    assert namespace.belongings() == []
    edit(namespace, hyperparameters={"learningRate": 1e-4}, resources={"nodes": 1})
    eventually(lambda: namespace.status()["plan"]["learningRate"] == 1e-4)
    edit(namespace, suspend=False)
    namespace.pods(count=1)
    assert "suspendedSeconds" not in namespace.status()


def test_a_preparation_goes_and_comes_again(namespace: Namespace) -> None:
    namespace.submit()
    namespace.pods(count=1, attempt=0)
    edit(namespace, suspend=True)
    namespace.in_phase("Suspended")
    assert (namespace.all(PODS), namespace.all(JOBS)) == ([], [])
    edit(namespace, suspend=False)
    namespace.pods(count=1, attempt=0)
    namespace.in_phase("Preparing")


# The time to live


def finished(namespace: Namespace, **spec: Any) -> None:
    namespace.begin(**spec)
    pods = namespace.pods()
    namespace.run_pods(pods)
    last = report(1, 9, step=36, stage=Stage.FINISHED, output=OUTPUT)
    namespace.end_pod(pods[0], 0, last.to_termination_message())
    namespace.end_pod(pods[1], 0)
    namespace.in_phase("Succeeded")


def test_after_its_time_to_live_only_the_job_itself_and_what_is_others_is_left(
    namespace: Namespace, operator: Operator
) -> None:
    finished(namespace)
    labelled = {"metadata": {"name": "mine", "labels": {"finetune.dev/job": "demo"}}}
    namespace.create(CONFIGMAPS, labelled)
    before = namespace.status()
    time.sleep(1)
    assert len(namespace.belongings()) == 10, "2 Jobs, 3 pods, a Service, a NetworkPolicy, and 3 ConfigMaps"
    edit(namespace, ttlSecondsAfterFinished=3)
    eventually(lambda: "cleanupTime" in namespace.status())
    assert namespace.belongings() == ["configmaps/mine"]
    changed = {"cleanupTime", "observedGeneration", "conditions"}
    kept = {key: value for key, value in namespace.status().items() if key not in changed}
    assert kept == {key: value for key, value in before.items() if key not in changed}
    eventually(lambda: namespace.events()[-1] == "CleanedUp")
    writes = operator.writes()
    time.sleep(3)
    assert operator.writes() == writes


def test_at_once_means_after_the_end_is_on_record(namespace: Namespace) -> None:
    namespace.begin(ttlSecondsAfterFinished=0)
    namespace.end_pod(namespace.pods()[0], 65)
    status = namespace.in_phase("Failed")
    assert status["attempts"][0]["reason"] == "InvalidData"
    eventually(lambda: not namespace.belongings())
    assert namespace.job()["metadata"]["name"] == "demo"


# What pods need


def test_what_somebody_deletes_under_pods_that_start_is_made_again(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.submit(dataset=INLINE)
    namespace.pods()

    def needed() -> dict[str, str]:
        """Names and uids."""
        return {
            found["metadata"]["name"] + template: found["metadata"]["uid"]
            for template in (SERVICES, CONFIGMAPS, NETWORK_POLICIES)
            for found in namespace.all(template, labelSelector="finetune.dev/job=demo")
        }

    before, writes = needed(), operator.writes()
    assert len(before) == 3
    for template in (SERVICES, CONFIGMAPS, NETWORK_POLICIES):
        [lost] = namespace.all(template, labelSelector="finetune.dev/job=demo")
        namespace.delete(template, lost["metadata"]["name"])
    eventually(lambda: set(needed()) == set(before), seconds=60)
    assert not set(needed().values()) & set(before.values())
    eventually(lambda: namespace.events()[-3:] == ["Recreated"] * 3)
    spent = {key: count - writes.get(key, 0) for key, count in operator.writes().items()}
    assert {key: count for key, count in spent.items() if count and key != "patch finetunejobs"} == {
        "patch configmaps": 1,
        "patch services": 1,
        "patch networkpolicies": 1,
        "post events": 3,
    }
