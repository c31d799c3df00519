"""What does not start, what hangs, and what fails again and again, on a real API server; the tests play the kubelet."""

import time
from typing import Any

import pytest

from cluster.kube import CREATING, PODS, Namespace, eventually
from cluster.operators import Operator
from finetune_api.report import Report, Stage
from world import checkpoint, report

pytestmark = pytest.mark.usefixtures("operator")

BACKING_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "trainer"'}}


def training(namespace: Namespace, operator: Operator, told: Report) -> list[str]:
    """Bring an attempt of the demo job to train."""
    pods = namespace.pods(attempt=told.attempt)
    namespace.run_pods(pods)
    code, answer = operator.post(namespace.name, "demo", told, token=namespace.token(pods[0]))
    assert code == 200, answer
    namespace.in_phase("Running")
    return pods


def attempts(namespace: Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = namespace.status()["attempts"]
    return found


def test_what_does_not_start_in_time_has_failed_in_the_kubelet_s_words(namespace: Namespace) -> None:
    namespace.begin(failurePolicy={"startupDeadlineSeconds": 10, "maxRestarts": 1})
    for attempt in (1, 2):
        pods = namespace.pods(attempt=attempt)
        namespace.set_pod(pods[1], "Pending", BACKING_OFF)
    status = namespace.in_phase("Failed", seconds=60)
    words = f'{pods[1]}: ImagePullBackOff: Back-off pulling image "trainer"'
    assert words in attempts(namespace)[1]["message"]
    assert [attempt["reason"] for attempt in attempts(namespace)] == ["StartupDeadlineExceeded"] * 2
    assert status["sinceCheckpoint"] == {"step": 0, "restarts": 1, "disruptions": 0}
    stalled = namespace.condition("Stalled")
    assert stalled["reason"] == "StartupDeadlineExceeded"
    assert words in stalled["message"]
    assert "spec.failurePolicy.maxRestarts is 1" in stalled["message"]
    eventually(lambda: not namespace.all(PODS, labelSelector="finetune.dev/attempt=2"))


def test_what_only_the_events_of_a_pod_tell_is_shown_while_it_waits(namespace: Namespace) -> None:
    namespace.begin()
    pods = namespace.pods()
    for pod in pods:
        namespace.set_pod(pod, "Pending", CREATING)
    namespace.warn(pods[1], "FailedMount", 'MountVolume.SetUp failed for volume "models": not found')
    namespace.warn(pods[0], "FailedMount", 'MountVolume.SetUp failed for volume "runs": not found')
    eventually(lambda: namespace.condition("Progressing")["reason"] == "FailedMount", seconds=45)
    assert 'volume "runs": not found' in namespace.condition("Progressing")["message"]


def test_what_only_the_events_of_a_job_tell_is_shown_while_pods_are_missing(namespace: Namespace) -> None:
    quota = {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}}
    namespace.create("/api/v1/namespaces/{namespace}/resourcequotas", quota)
    namespace.begin()
    namespace.run_pods(namespace.pods(count=1))
    eventually(lambda: namespace.condition("Progressing")["reason"] == "FailedCreate", seconds=60)
    message = namespace.condition("Progressing")["message"]
    assert message.startswith("1 of 2 pods run; demo-1: FailedCreate: ")
    assert "exceeded quota: one, requested: pods=1, used: pods=1, limited: pods=1" in message


def test_a_preparation_goes_on_in_the_place_of_a_drained_pod(
    namespace: Namespace, operator: Operator
) -> None:
    """Its Job, and its first pod, are older by then than a start may take."""
    namespace.submit(failurePolicy={"startupDeadlineSeconds": 10})
    [first] = namespace.pods(count=1, attempt=0)
    namespace.run_pods([first])
    told = report(0, 1, None, stage=Stage.PREPARING, plan=None)
    assert operator.post(namespace.name, "demo", told, token=namespace.token(first))[0] == 200
    eventually(lambda: namespace.condition("Progressing")["reason"] == "Preparing")
    time.sleep(11)
    # A moment may pass without any pod: what was heard last counts then.
    again = report(0, 2, None, stage=Stage.PREPARING, plan=None)
    assert operator.post(namespace.name, "demo", again, token=namespace.token(first))[0] == 200
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    namespace.set_pod(first, "Running", {"running": {}}, conditions=[drained])
    namespace.delete(PODS, first, gracePeriodSeconds=0)

    def replaced() -> str:
        [second] = namespace.pods(count=1, attempt=0)
        assert second != first
        return second

    second = eventually(replaced, seconds=60)
    time.sleep(3)
    assert namespace.status()["phase"] == "Preparing"
    namespace.run_pods([second])
    assert operator.post(namespace.name, "demo", told, token=namespace.token(second))[0] == 200
    eventually(lambda: namespace.condition("Progressing")["reason"] == "Preparing")


def test_a_preparation_that_does_not_start_in_time_has_failed(namespace: Namespace) -> None:
    namespace.submit(failurePolicy={"startupDeadlineSeconds": 10})
    [pod] = namespace.pods(count=1, attempt=0)
    namespace.set_pod(pod, "Pending", BACKING_OFF)
    assert namespace.in_phase("Failed", seconds=30)["attempts"] == []
    assert "Back-off pulling image" in namespace.condition("Prepared")["message"]
    eventually(lambda: not namespace.all(PODS))


def test_a_gang_without_a_sign_of_life_is_started_again(namespace: Namespace, operator: Operator) -> None:
    namespace.begin(failurePolicy={"progressDeadlineSeconds": 10})
    first = training(namespace, operator, report(1, 1, step=4))
    # The deadline is reset by every sign of life, whatever it says.
    time.sleep(8)
    assert (
        operator.post(namespace.name, "demo", report(1, 2, step=4), token=namespace.token(first[0]))[0] == 200
    )
    time.sleep(8)
    assert namespace.status()["phase"] == "Running"
    second = namespace.pods(attempt=2)
    assert not set(first) & set(second)
    [hung, _] = attempts(namespace)
    assert (hung["reason"], hung["lastStep"], hung["counted"]) == ("Hung", 4, True)
    assert "progressDeadlineSeconds" in hung["message"]
    assert eventually(lambda: "Restarting" in namespace.events())


def test_a_newer_state_fills_the_budget_up_again(namespace: Namespace, operator: Operator) -> None:
    namespace.begin(failurePolicy={"maxRestarts": 1})
    for attempt, saved in ((1, 6), (2, 12), (3, 12)):
        told = report(
            attempt,
            step=saved + 1,
            resumed_from_step=saved - 6 if attempt == 2 else None,
            checkpoints=[checkpoint(saved, "resume")],
        )
        pods = training(namespace, operator, told)
        last = told.model_copy(update={"sequence": 9, "stage": Stage.FAILED})
        namespace.end_pod(pods[0], 200, last.to_termination_message())
    status = namespace.in_phase("Failed")
    assert status["restarts"] == 2
    assert status["sinceCheckpoint"] == {"step": 12, "restarts": 1, "disruptions": 0}
    assert [attempt["counted"] for attempt in attempts(namespace)] == [True, True, False]
    assert "no newer state than that of step 12" in namespace.condition("Stalled")["message"]
