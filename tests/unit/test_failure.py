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


def test_pods_that_are_gone_are_started_again() -> None:
    assert judge([]).recovery is Recovery.RESTART
    assert judge([end(None)]).reason == "PodVanished"
