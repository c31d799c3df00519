"""The verdict on a gang's end."""

from typing import Any

import pytest

from finetune_api.failure import CAUSES, ExitCode, PodEnd, Recovery, cause_of, judge


def end(code: int | None, **arguments: Any) -> PodEnd:
    return PodEnd(pod=arguments.pop("pod", "demo-1-0"), exit_code=code, **arguments)


@pytest.mark.parametrize("code", [c for c in ExitCode if c is not ExitCode.SUCCESS])
def test_every_exit_code_has_a_cause(code: ExitCode) -> None:
    assert CAUSES[code].reason


def test_an_exit_code_that_is_not_ours_is_a_plain_error() -> None:
    assert cause_of(42).reason == "Error"
    assert cause_of(42).recovery is Recovery.RESTART


def test_the_trainer_s_own_words_come_first() -> None:
    verdict = judge([end(65, message="line 3: no messages")])
    assert verdict.message == "demo-1-0: line 3: no messages"
    assert (verdict.reason, verdict.recovery) == ("InvalidData", Recovery.FAIL)


def test_advice_follows_an_end_that_a_knob_could_prevent() -> None:
    verdict = judge([end(79, message="loss is nan at step 7")])
    assert "step 7. Lower spec.hyperparameters.learningRate" in verdict.message


@pytest.mark.parametrize("consequence", [200, 1, 143, None])
def test_the_culprit_is_found_among_those_that_it_brought_down(consequence: int | None) -> None:
    culprit = end(78, pod="demo-1-1", message="no such file", node="node-b")
    for gang in ([culprit, end(consequence)], [end(consequence), culprit]):
        verdict = judge(gang)
        assert verdict.reason == "InvalidConfiguration"
        assert verdict.node == "node-b"


def test_a_killed_pod_explains_its_peer_s_error_and_time_out() -> None:
    assert judge([end(200), end(1), end(137, pod="demo-1-1")]).reason == "Killed"


def test_the_memory_limit_is_told_apart_from_a_kill_and_not_tried_again() -> None:
    verdict = judge([end(137, oom_killed=True), end(200)])
    assert (verdict.reason, verdict.recovery) == ("OOMKilled", Recovery.FAIL)
    assert "spec.resources.requests.memory" in verdict.message


def test_a_disruption_explains_everything_and_costs_nothing() -> None:
    verdict = judge([end(1), end(137, oom_killed=True), end(143, disruption="preempted by team-b/big")])
    assert (verdict.reason, verdict.recovery) == ("Disrupted", Recovery.RESUME)
    assert "preempted by team-b/big" in verdict.message


@pytest.mark.parametrize(
    ("evidence", "reason", "recovery"),
    [
        # What the cluster does to a pod.
        (end(143, disruption="drained"), "Disrupted", Recovery.RESUME),
        (end(143, reason="Preempting", words="to admit a critical pod"), "Disrupted", Recovery.RESUME),
        (end(137, reason="Terminated", words="imminent node shutdown"), "Disrupted", Recovery.RESUME),
        (end(None, reason="NodeShutdown"), "Disrupted", Recovery.RESUME),
        (end(None, reason="NodeLost"), "Disrupted", Recovery.RESUME),
        (end(143, reason="DeadlineExceeded"), "Disrupted", Recovery.RESUME),
        # A shortage that the pod may have caused itself; and a limit of its own.
        (end(137, reason="Evicted", disruption="low on memory"), "Evicted", Recovery.RESTART),
        (end(137, reason="Evicted", words='EmptyDir volume "shm"'), "LimitExceeded", Recovery.FAIL),
        (end(137, oom_killed=True, reason="OOMKilled"), "OOMKilled", Recovery.FAIL),
        # What only the trainer knows.
        (end(65), "InvalidData", Recovery.FAIL),
        (end(71), "OutOfMemory", Recovery.FAIL),
        (end(74), "StorageFull", Recovery.FAIL),
        (end(76), "UntrustedFile", Recovery.FAIL),
        (end(77), "AccessDenied", Recovery.FAIL),
        (end(78), "InvalidConfiguration", Recovery.FAIL),
        (end(79), "LossNotFinite", Recovery.FAIL),
        (end(75), "TokenBudgetHalved", Recovery.RESUME),
        (end(200), "CollectiveTimeout", Recovery.RESTART),
        (end(201), "GpuError", Recovery.RESTART),
        (end(1), "Error", Recovery.RESTART),
        # What can be told by how the container ended.
        (end(143), "Terminated", Recovery.RESUME),
        (end(137), "Killed", Recovery.RESTART),
        (end(137, reason="Error"), "Killed", Recovery.RESTART),
        (end(137, asked_to_go=True), "Terminated", Recovery.RESUME),
        (end(137, asked_to_go=True, reported=True), "Killed", Recovery.RESTART),
        (end(137, reason="ContainerStatusUnknown"), "ContainerLost", Recovery.RESTART),
        (end(255, reason="Unknown"), "ContainerLost", Recovery.RESTART),
        (end(128, reason="StartError", words="exec: no such file"), "StartError", Recovery.RESTART),
        (end(None, reason="OutOfcpu", words="Pod was rejected"), "PodRejected", Recovery.RESTART),
        (end(None), "PodVanished", Recovery.RESTART),
    ],
    ids=lambda value: getattr(value, "reason", None) or str(getattr(value, "exit_code", value)),
)
def test_the_table(evidence: PodEnd, reason: str, recovery: Recovery) -> None:
    verdict = judge([evidence])
    assert (verdict.reason, verdict.recovery) == (reason, recovery)
    for words in (evidence.disruption, evidence.words):
        assert words is None or words in verdict.message


def test_a_pod_that_outlived_its_grace_period_explains_nothing() -> None:
    """It was asked to go because of the one that failed before, and did not hear it."""
    deaf = end(137, pod="demo-1-1", asked_to_go=True)
    assert judge([deaf, end(1)]).reason == "Error"


def test_a_pod_whose_process_was_killed_explains_the_others_though_it_was_asked_to_go_by_then() -> None:
    """Its peers had ended of it before its own container had, and it was taken away for that."""
    told = end(137, pod="demo-1-1", asked_to_go=True, reported=True, message="rank 1 was ended by SIGKILL")
    verdict = judge([end(200), told])
    assert (verdict.reason, verdict.message) == ("Killed", "demo-1-1: rank 1 was ended by SIGKILL")


def test_a_killed_pod_tells_more_than_an_error() -> None:
    assert judge([end(137), end(1)]).reason == "Killed"


def test_of_ends_that_tell_equally_much_the_first_counts() -> None:
    first, second = end(201, node="node-a"), end(201, pod="demo-1-1", node="node-b")
    assert judge([first, second]).node == "node-a"
    assert judge([second, first]).node == "node-b"


def test_what_is_known_of_this_job_replaces_general_advice() -> None:
    advice = {"StorageFull": "Enlarge claim runs."}
    assert judge([end(74, message="full")], advice=advice).message == "demo-1-0: full. Enlarge claim runs."


def test_a_trainer_that_names_a_field_has_advised_already() -> None:
    said = "one sample does not fit. Lower spec.hyperparameters.maxSeqLen to 2048"
    assert judge([end(71, message=said)]).message == f"demo-1-0: {said}"


def test_the_end_of_the_log_is_the_culprit_s() -> None:
    verdict = judge([end(200, log="timed out"), end(1, pod="demo-1-1", log="KeyError")])
    assert (verdict.reason, verdict.log) == ("Error", "KeyError")


def test_pods_that_are_gone_are_started_again() -> None:
    assert judge([]).recovery is Recovery.RESTART
    assert judge([end(None)]).reason == "PodVanished"
