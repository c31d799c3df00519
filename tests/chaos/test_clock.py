"""The clock of the operator's node is wrong by hours, against those of the API server and of other nodes."""

import pytest

from chaos.conftest import MakeOperator
from chaos.operators import ChaosOperator
from cluster.kube import FINETUNEJOBS, JOBS, Namespace, eventually
from finetune_api.report import Stage
from world import INLINE, OUTPUT, found, report

HOURS = 3600.0


def attempts(namespace: Namespace) -> list[tuple[int, str, bool]]:
    """Number of each, its cause, and whether it counted."""
    return [(a["number"], a["reason"], a["counted"]) for a in namespace.status()["attempts"]]


def training(namespace: Namespace, operator: ChaosOperator) -> tuple[list[str], str]:
    """The pods of the gang, which run and were heard, and the first one's token."""
    pods = namespace.pods()
    namespace.run_pods(pods)
    token = namespace.token(pods[0])
    eventually(lambda: operator.post(namespace.name, "demo", report(), token=token)[0] == 200)
    namespace.in_phase("Running")
    return pods, token


@pytest.mark.parametrize("ahead", [5 * HOURS, -5 * HOURS], ids=["ahead", "behind"])
def test_no_deadline_passes_because_of_a_wrong_clock(
    namespace: Namespace, make_operator: MakeOperator, ahead: float
) -> None:
    operator = make_operator(clock_ahead_seconds=ahead)
    operator.start()
    namespace.submit(ttlSecondsAfterFinished=3600, failurePolicy={"activeDeadlineSeconds": 3600})
    [pod] = namespace.pods(count=1, attempt=0)
    namespace.in_phase("Preparing")
    namespace.run_pods([pod])
    namespace.end_pod(pod, 0, found().to_termination_message())
    pods = namespace.pods()
    namespace.run_pods(pods)
    code, _ = operator.post(namespace.name, "demo", report(), token=namespace.token(pods[0]))
    assert code == 200
    namespace.in_phase("Running")
    for pod in pods:
        namespace.end_pod(pod, 1)
    pods = namespace.pods(attempt=2)
    last = report(2, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
    namespace.end_pod(pods[1], 0)
    namespace.end_pod(pods[0], 0, last.to_termination_message())
    namespace.in_phase("Succeeded")
    assert attempts(namespace) == [(1, "Error", True), (2, "Completed", False)]
    # It is kept for an hour, by whatever clock.
    assert sorted(job["metadata"]["name"] for job in namespace.all(JOBS)) == ["demo-2", "demo-prepare"]


@pytest.mark.parametrize(("first", "second"), [(5 * HOURS, 0.0), (-5 * HOURS, 0.0)], ids=["back", "forward"])
def test_a_clock_that_is_set_right_ends_no_gang(
    namespace: Namespace, make_operator: MakeOperator, first: float, second: float
) -> None:
    wrong, right = make_operator(clock_ahead_seconds=first), make_operator(clock_ahead_seconds=second)
    wrong.start()
    namespace.submit()
    [pod] = namespace.pods(count=1, attempt=0)
    namespace.run_pods([pod])
    namespace.in_phase("Preparing")
    wrong.stop()
    right.start()
    namespace.end_pod(pod, 0, found().to_termination_message())
    pods, token = training(namespace, right)
    right.stop()
    wrong.start()
    eventually(lambda: wrong.post(namespace.name, "demo", report(sequence=2), token=token)[0] == 200)
    wrong.stop()
    right.start()
    for pod in pods:
        namespace.end_pod(pod, 0)
    namespace.in_phase("Succeeded")
    assert attempts(namespace) == [(1, "Completed", False)]


def test_a_clock_that_jumps_ahead_while_the_operator_runs_ends_no_gang(
    namespace: Namespace, make_operator: MakeOperator
) -> None:
    """As that of a machine which was asleep: its one gang has not been heard for hours, and could not be."""
    operator = make_operator(clock_jump_seconds=5 * HOURS)
    operator.start()
    namespace.submit(dataset=INLINE)
    pods, _ = training(namespace, operator)
    operator.set_clock()
    eventually(
        lambda: operator.get("/metrics") and "it was set, or this machine slept" in operator.log.read_text()
    )
    # A change has the job looked at.
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"failurePolicy": {"maxRestarts": 7}}})
    generation = namespace.job()["metadata"]["generation"]
    eventually(lambda: namespace.status()["observedGeneration"] == generation)
    for pod in pods:
        namespace.end_pod(pod, 0)
    namespace.in_phase("Succeeded")
    assert attempts(namespace) == [(1, "Completed", False)]
