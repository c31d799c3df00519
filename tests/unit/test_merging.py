"""What is done about the merging of a FineTuneJob's adapter in each situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api import names
from finetune_api.report import Failure, Report, Stage
from finetune_api.status import Condition, Phase
from finetune_operator.lifecycle.ends import ENDING_TIME
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation.observed import Received, Taken
from finetune_operator.status import conditions
from world import ADAPTER, INLINE, INSTALLATION, MERGED, MERGES, START, World, merged, merging, report

ADAPTER_STAYS = (
    "The adapter is untouched, in demo/output on claim runs. In the trainer's image, finetune-trainer merge --model "
    "DIR --adapter DIR --output DIR merges it."
)


def condition(world: World, type_: str = conditions.READY) -> Condition:
    known = conditions.find(world.status.conditions, type_)
    assert known is not None
    return known


def trained(*, told: bool = True, **spec: Any) -> World:
    """A world whose gang has just come to a good end."""
    world = World(spec=MERGES | {"dataset": INLINE} | spec)
    world.settle()
    world.run_pods()
    world.post(report())
    world.settle()
    world.succeed(report(step=36, stage=Stage.FINISHED, output=ADAPTER) if told else None)
    return world


def started(**spec: Any) -> World:
    """A world whose merging has been created and observed."""
    world = trained(**spec)
    world.settle()
    return world


def under_way(**spec: Any) -> World:
    """A world whose adapter is being merged."""
    world = started(**spec)
    world.run_pods()
    world.post(merging())
    world.settle()
    return world


# From the end of the gang to that of the job


def test_the_end_of_training_the_adapter_and_the_phase_are_one_write() -> None:
    world = trained()
    outcome = world.turn()
    assert not outcome.apply
    assert not outcome.delete
    status = world.status
    assert (status.phase, status.output, status.completion_time) == (Phase.MERGING, ADAPTER, None)
    assert (status.attempts[-1].reason, status.attempts[-1].message) == (
        "Completed",
        "the adapter is in demo/output on claim runs",
    )
    assert {c.type: c.status for c in status.conditions} == {
        "Accepted": "True",
        "Prepared": "Unknown",
        "Progressing": "True",
        "Succeeded": "Unknown",
        "Suspended": "False",
        "Ready": "Unknown",
        "Reconciling": "True",
        "Stalled": "False",
    }
    assert [(event.reason, event.message) for event in outcome.events] == [
        ("Merging", "the adapter is in demo/output on claim runs")
    ]


def test_then_one_pod_is_made_beside_the_completed_ones_of_the_gang() -> None:
    world = trained()
    world.turn()
    outcome = world.turn()
    assert [manifest["kind"] for manifest in outcome.apply] == ["ConfigMap", "NetworkPolicy", "Job"]
    assert outcome.apply[-1]["metadata"]["name"] == "demo-merge"
    world.settle()
    assert set(world.jobs) == {"demo-1", "demo-merge"}
    assert world.status.phase is Phase.MERGING


def test_it_asks_for_the_memory_of_the_plan() -> None:
    world = trained()
    plan = report().plan
    assert plan is not None
    world.post(report(sequence=2, plan=plan.model_copy(update={"merge_memory": 12345})))
    world.turn()
    job = world.turn().apply[-1]
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == "12345"


def test_it_is_mirrored() -> None:
    world = started()
    assert condition(world).reason == "PodsPending"
    assert condition(world).message == "the adapter is about to be merged"
    world.run_pods()
    world.settle()
    assert condition(world).message == "the pod that merges the adapter runs; waiting for its first report"
    world.post(merging())
    world.settle()
    assert (world.status.phase, condition(world).reason) == (Phase.MERGING, "Merging")
    assert condition(world).message == "the adapter is being merged into the model"
    world.post(merged())
    world.now += ENDING_TIME
    world.settle()
    assert condition(world).message == "the adapter is merged; waiting for the pod to end"


def test_what_keeps_its_pod_from_running_is_told() -> None:
    world = started()
    pod = world.current_pods[0]
    world.pods[pod.name] = replace(pod, waiting=("Unschedulable", "0/3 nodes: Insufficient memory"))
    world.settle()
    assert condition(world).reason == "Unschedulable"
    assert condition(world).message.endswith("0/3 nodes: Insufficient memory")


def test_success_is_one_write_with_both_results() -> None:
    world = under_way()
    world.succeed(merged())
    outcome = world.turn()
    status = world.status
    assert (status.phase, status.output, status.completion_time) == (Phase.SUCCEEDED, MERGED, world.now)
    message = "the merged model is in demo/merged, and the adapter in demo/output, on claim runs"
    assert [(event.reason, event.message) for event in outcome.events] == [("Succeeded", message)]
    world.settle()
    assert set(world.jobs) == {"demo-1", "demo-merge"}
    assert world.gangs == ["demo-1"]


def test_what_was_posted_tells_the_output_too() -> None:
    world = under_way()
    world.post(merged())
    world.succeed(None)
    world.turn()
    assert world.status.output == MERGED


def test_an_operator_that_missed_every_word_keeps_what_is_known() -> None:
    world = under_way()
    world.succeed(None)
    world.turn()
    assert (world.status.phase, world.status.output) == (Phase.SUCCEEDED, ADAPTER)


def test_what_training_did_not_get_to_tell_the_merging_tells() -> None:
    world = trained(told=False)
    world.settle()
    assert (world.status.phase, world.status.output) == (Phase.MERGING, None)
    world.run_pods()
    world.succeed(merged())
    world.turn()
    assert (world.status.phase, world.status.output) == (Phase.SUCCEEDED, MERGED)


def test_a_job_that_does_not_merge_is_done_with_its_adapter() -> None:
    world = trained(lora={"r": 8})
    world.settle()
    assert (world.status.phase, world.status.output) == (Phase.SUCCEEDED, ADAPTER)
    assert condition(world).message == "the adapter is in demo/output on claim runs"


# Failure: the adapter is there all the same


def failure(message: str) -> Report:
    """The last words of a merging that failed."""
    told = Failure(exit_code=78, reason="InvalidConfiguration", message=message)
    return merging(9, stage=Stage.FAILED, failure=told)


def test_a_failure_for_good_leaves_the_adapter_and_says_how_to_go_on() -> None:
    world = under_way()
    world.fail_single_pod(78, failure("logits differ"), message="logits differ")
    outcome = world.turn()
    assert not outcome.delete
    status = world.status
    assert (status.phase, status.output, status.completion_time) == (Phase.FAILED, ADAPTER, world.now)
    assert condition(world, conditions.STALLED).reason == "InvalidConfiguration"
    assert "logits differ. The adapter" in condition(world).message
    assert condition(world).message.endswith(ADAPTER_STAYS)
    assert [event.reason for event in outcome.events] == ["Failed"]
    assert (status.attempts[-1].reason, status.restarts) == ("Completed", 0)
    world.settle()
    assert set(world.jobs) == {"demo-1", "demo-merge"}, "their logs are what people want now"


def test_its_job_tries_again_and_when_it_gives_up_so_does_the_job() -> None:
    world = under_way(failurePolicy={"maxRestarts": 1})
    world.fail_single_pod(1, message="connection reset")
    world.turn()
    assert (world.status.phase, condition(world).reason) == (Phase.MERGING, "Retrying")
    assert "the adapter is about to be merged once more" in condition(world).message
    world.settle()
    world.fail_single_pod(1, message="connection reset", given_up=True)
    world.settle()
    assert world.status.phase is Phase.FAILED
    assert "Its logs are in demo/logs/attempt-merge on claim runs." in condition(world).message
    assert "spec.failurePolicy.maxRestarts is 1" in condition(world).message
    assert condition(world).message.endswith(ADAPTER_STAYS)


def test_a_container_that_took_too_much_memory_is_not_tried_again() -> None:
    world = under_way()
    plan = report().plan
    assert plan is not None
    planned = plan.model_copy(update={"merge_memory": 3 * 2**30})
    world.status = world.status.model_copy(update={"plan": planned})
    world.fail_single_pod(137, oom_killed=True)
    assert not world.turn().delete, "the verdict comes first"
    assert (world.status.phase, condition(world).reason) == (Phase.FAILED, "OOMKilled")
    assert "merging takes some 3.0 GiB. The adapter" in condition(world).message
    assert "spec.resources" not in condition(world).message
    world.settle()
    assert set(world.jobs) == {"demo-1"}, "it would try again"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"failurePolicy": {"startupDeadlineSeconds": 300}}, "StartupDeadlineExceeded"),
        ({"failurePolicy": {"activeDeadlineSeconds": 300}}, "DeadlineExceeded"),
    ],
)
def test_deadlines_hold_for_it(spec: dict[str, Any], reason: str) -> None:
    world = started(**spec)
    world.now += timedelta(seconds=299)
    world.turn()
    assert world.status.phase is Phase.MERGING
    world.now += timedelta(seconds=2)
    world.settle()
    assert (world.status.phase, condition(world).reason) == (Phase.FAILED, reason)
    assert condition(world).message.endswith(ADAPTER_STAYS)
    assert (world.status.output, set(world.jobs)) == (ADAPTER, {"demo-1"})


def test_one_that_shows_no_sign_of_life_hangs() -> None:
    world = under_way(failurePolicy={"progressDeadlineSeconds": 60})
    world.now += timedelta(seconds=59)
    world.turn()
    assert world.status.phase is Phase.MERGING
    world.post(merging(2))
    world.now += timedelta(seconds=59)
    world.turn()
    assert world.status.phase is Phase.MERGING
    world.now += timedelta(seconds=1)
    world.settle()
    assert (world.status.phase, condition(world).reason) == (Phase.FAILED, "Hung")


def test_one_that_is_done_is_not_overdue() -> None:
    world = under_way(failurePolicy={"activeDeadlineSeconds": 300})
    world.succeed(merged())
    world.now += timedelta(hours=1)
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED


# Suspension


def test_suspension_gives_the_pod_back_and_resuming_merges_again_and_never_trains() -> None:
    world = under_way()
    world.edit(suspend=True)
    outcome = world.turn()
    assert [job.name for job in outcome.delete] == ["demo-merge"]
    world.settle()
    assert (world.status.phase, world.status.output) == (Phase.SUSPENDED, ADAPTER)
    assert set(world.jobs) == {"demo-1"}
    assert condition(world).message == (
        "nothing runs, and the adapter is complete; spec.suspend: false merges it"
    )
    world.now += timedelta(minutes=5)
    world.edit(suspend=False)
    outcome = world.turn()
    assert (world.status.phase, world.status.suspended_seconds) == (Phase.MERGING, 300)
    assert [event.reason for event in outcome.events] == ["Resumed"]
    world.settle()
    assert world.created == ["demo-1", "demo-merge", "demo-merge"]
    world.run_pods()
    world.succeed(merged())
    world.settle()
    assert (world.status.phase, len(world.status.attempts)) == (Phase.SUCCEEDED, 1)


def test_a_gang_that_ends_well_while_it_is_suspended_leaves_the_merging_for_later() -> None:
    world = trained()
    world.edit(suspend=True)
    world.settle()
    assert (world.status.phase, world.status.output) == (Phase.SUSPENDED, ADAPTER)
    assert world.created == ["demo-1"]


@pytest.mark.parametrize("good", [True, False])
def test_an_end_that_has_come_is_judged_before_it_is_suspended(good: bool) -> None:
    world = under_way()
    if good:
        world.succeed(merged())
    else:
        world.fail_single_pod(78, failure("logits differ"))
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase is (Phase.SUCCEEDED if good else Phase.FAILED)


def test_other_hardware_does_not_change_the_plan_of_what_is_trained() -> None:
    world = under_way()
    plan = world.status.plan
    world.edit(suspend=True)
    world.settle()
    world.edit(resources={"nodes": 1, "gpusPerNode": 0})
    world.settle()
    assert world.status.plan == plan


# What may befall it


def test_one_that_somebody_deleted_is_done_again_once_its_pod_is_gone() -> None:
    world = under_way()
    world.jobs["demo-merge"] = replace(world.jobs["demo-merge"], deleting=True)
    world.turn()
    assert world.created == ["demo-1", "demo-merge"]
    world.settle()
    assert world.created == ["demo-1", "demo-merge", "demo-merge"]
    assert world.status.phase is Phase.MERGING


def test_nothing_is_made_beside_one_that_is_going_although_its_pod_has_ended() -> None:
    world = under_way()
    world.fail_single_pod(143)
    world.jobs["demo-merge"] = replace(world.jobs["demo-merge"], deleting=True, failed=True)
    outcome = world.turn()
    assert not outcome.apply
    assert world.status.phase is Phase.MERGING, "how it ends says nothing"


def test_a_name_that_is_taken_is_left_alone_and_named() -> None:
    world = trained()
    world.turn()
    observed = replace(world.observed, taken=(Taken("Job", "demo-merge", fading=False),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply
    assert outcome.status is not None
    stalled = conditions.find(outcome.status.conditions, conditions.STALLED)
    assert stalled is not None
    assert (stalled.status, stalled.reason) == ("True", "NameConflict")
    assert "demo-merge" in stalled.message
    assert outcome.status.phase is Phase.MERGING


def test_a_gang_that_comes_back_is_sent_away() -> None:
    world = under_way()
    again = replace(world.jobs["demo-1"], uid="again", complete=False)
    world.jobs["demo-1"] = again
    assert world.turn().delete == (again,)


def test_completed_pods_whose_job_somebody_deletes_keep_nothing_going() -> None:
    world = under_way()
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], deleting=True)
    world.settle()
    assert world.created == ["demo-1", "demo-merge"]
    world.succeed(merged())
    world.settle()
    assert world.status.phase is Phase.SUCCEEDED


def test_a_restart_of_the_operator_keeps_what_was_last_known() -> None:
    world = under_way()
    world.restart_operator(away=3600)
    assert world.decide().status is None


def test_a_report_of_the_gang_says_nothing_of_the_merging() -> None:
    world = started()
    world.run_pods()
    world.settle()
    last = report(sequence=99, stage=Stage.FINISHED, output=ADAPTER)
    gang, [pod] = world.jobs["demo-1"], world.current_pods
    # On one machine both leave theirs in one file.
    for job_uid, sender in ((gang.uid, "demo-1-0"), (pod.job_uid, pod.name)):
        late = Received(last, job_uid, sender, START)
        outcome = reconcile(world.subject, replace(world.observed, report=late), world.now, INSTALLATION)
        assert outcome.status is None


def test_its_configmap_and_its_policy_are_made_again() -> None:
    world = started()
    world.now += timedelta(minutes=1)
    needs = world.decide().needs
    assert needs is not None
    config, policy = needs.manifests
    assert policy["kind"] == "NetworkPolicy"
    assert config["metadata"]["name"] == world.jobs["demo-merge"].config


def test_all_of_it_is_cleaned_up_in_the_end() -> None:
    world = under_way(ttlSecondsAfterFinished=0)
    world.succeed(merged())
    world.settle()
    assert world.status.cleanup_time is not None
    assert (world.jobs, world.pods, world.others) == ({}, {}, {})


def test_the_job_that_counts_is_the_merging() -> None:
    world = started()
    newest = world.observed.newest
    assert newest is not None
    assert newest.attempt == names.MERGING
