"""What spec.suspend does in each situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.failure import PodEnd
from finetune_api.report import Stage
from finetune_api.status import Phase
from finetune_operator.status import conditions
from world import DATASET, INLINE, OUTPUT, PLAN, START, World, checkpoint, found, report


def told(world: World, type_: str = conditions.PROGRESSING) -> tuple[str, str, str]:
    condition = conditions.find(world.status.conditions, type_)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def happened(world: World) -> list[str]:
    return [event.reason for event in world.events]


def training(*, step: int = 7, **spec: Any) -> World:
    """A gang that trains, and has saved a state of step 6."""
    world = World(spec={"dataset": INLINE} | spec)
    world.settle()
    world.run_pods()
    world.post(report(step=step, dataset=DATASET, checkpoints=[checkpoint(6, "resume")]))
    world.settle()
    assert world.status.phase is Phase.RUNNING
    world.now += timedelta(minutes=5)
    return world


def suspended(**spec: Any) -> World:
    world = training(**spec)
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase is Phase.SUSPENDED
    return world


# Before anything has begun


def test_a_job_that_is_made_suspended_is_planned_and_nothing_is_made() -> None:
    world = World(spec={"suspend": True})
    world.settle()
    status = world.status
    assert (status.phase, status.start_time, status.attempts, world.created) == (
        Phase.SUSPENDED,
        None,
        [],
        [],
    )
    assert status.plan is not None
    assert told(world, conditions.ACCEPTED)[0] == told(world, conditions.SUSPENDED)[0] == "True"
    assert happened(world) == ["Accepted", "Suspended"]
    writes = world.writes
    world.now += timedelta(days=1)
    world.settle()
    assert world.writes == writes


def test_it_may_still_be_corrected_and_shows_what_follows_from_that() -> None:
    world = World(spec={"suspend": True})
    world.settle()
    world.edit(resources={"nodes": 3, "gpusPerNode": 0})
    world.settle()
    assert world.status.plan is not None
    assert world.status.plan.world_size == 3


def test_then_it_begins_as_if_it_had_been_made_then() -> None:
    world = World(spec={"suspend": True})
    world.settle()
    world.now += timedelta(hours=1)
    world.edit(suspend=False)
    world.settle()
    assert (world.status.start_time, world.status.suspended_seconds) == (START + timedelta(hours=1), None)
    assert happened(world) == ["Accepted", "Suspended", "Resumed"]
    assert world.created == ["demo-prepare"]


def test_one_that_is_refused_is_refused_first() -> None:
    world = World(spec={"suspend": True, "method": "magic"})
    world.settle()
    assert world.status.phase is Phase.FAILED


# The preparation


def preparing(**spec: Any) -> World:
    world = World(spec=spec)
    world.settle()
    world.run_pods()
    world.settle()
    assert world.status.phase is Phase.PREPARING
    return world


def test_a_preparation_is_ended_and_its_phase_stays_until_its_pod_is_gone() -> None:
    world = preparing()
    world.edit(suspend=True)
    outcome = world.turn()
    assert [job.name for job in outcome.delete] == ["demo-prepare"]
    assert (world.status.phase, told(world)) == (Phase.PREPARING, ("True", "Suspending", "1 pod is ending"))
    world.turn()
    assert world.status.phase is Phase.PREPARING
    world.settle()
    assert (world.status.phase, world.jobs, world.pods) == (Phase.SUSPENDED, {}, {})
    assert world.status.attempts == []
    world.now += timedelta(minutes=1)
    world.edit(suspend=False)
    world.settle()
    assert world.created == ["demo-prepare", "demo-prepare"]
    assert world.status.suspended_seconds == 60


def test_a_pod_of_it_that_failed_earlier_keeps_nobody_from_suspending() -> None:
    world = preparing()
    world.fail_single_pod(1)
    world.settle()
    world.run_pods()
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase is Phase.SUSPENDED


@pytest.mark.parametrize("kind", ["failed", "killed"])
def test_a_preparation_that_fails_just_then_has_failed(kind: str) -> None:
    world = preparing()
    if kind == "failed":
        world.fail_single_pod(65)
    else:
        world.fail_single_pod(137, oom_killed=True)
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase is Phase.FAILED


def test_data_that_are_prepared_stay_so_and_no_attempt_is_made_of_them_before_the_job_goes_on() -> None:
    world = preparing()
    world.edit(suspend=True)
    world.succeed(found())
    world.settle()
    assert (world.status.phase, world.status.attempts) == (Phase.SUSPENDED, [])
    world.edit(suspend=False)
    world.settle()
    assert world.created == ["demo-prepare", "demo-1"]
    assert world.status.dataset == DATASET


def test_one_whose_end_the_suspension_brought_is_no_failure() -> None:
    """A pod that is killed at the end of its grace period uses up the last retry of its Job."""
    world = preparing()
    world.edit(suspend=True)
    world.turn()
    world.fail_single_pod(137, given_up=True)
    world.edit(suspend=False)
    world.turn()
    assert world.status.phase is Phase.PREPARING
    world.settle()
    assert world.created == ["demo-prepare", "demo-prepare"]


# A gang


def test_the_end_is_on_record_before_the_job_is_deleted() -> None:
    world = training()
    world.edit(suspend=True)
    outcome = world.turn()
    assert not outcome.delete
    [attempt] = world.status.attempts
    assert (attempt.end_time, attempt.reason, attempt.counted) == (world.now, "Suspended", False)
    assert attempt.last_step == 7
    assert world.status.phase is Phase.RUNNING
    assert told(world) == ("True", "Suspending", "saving the state; 2 pods are ending")
    assert [job.name for job in world.turn().delete] == ["demo-1"]


def test_what_its_pods_save_meanwhile_is_told_and_it_is_suspended_when_they_are_gone() -> None:
    world = training()
    world.edit(suspend=True)
    world.turn()
    world.turn()
    saved = [checkpoint(6, "resume"), checkpoint(8, "resume")]
    world.post(report(sequence=9, step=8, dataset=DATASET, checkpoints=saved))
    world.turn()
    assert [c.step for c in world.status.checkpoints] == [6, 8]
    assert world.status.progress is not None
    assert world.status.progress.step == world.status.attempts[-1].last_step == 8
    assert world.status.phase is Phase.RUNNING
    del world.pods["demo-1-1"]
    world.turn()
    assert told(world)[2] == "saving the state; 1 pod is ending"
    last = report(sequence=10, step=9, checkpoints=[checkpoint(9, "resume")])
    world.fail_pod(0, 143, last_report=last)
    world.turn()
    assert (world.status.phase, world.status.attempts[-1].last_step) == (Phase.RUNNING, 9)
    world.settle()
    assert (world.status.phase, world.jobs, world.pods) == (Phase.SUSPENDED, {}, {})
    assert told(world, conditions.SUSPENDED)[0] == "True"
    assert "the state of step 9 is saved" in told(world, conditions.READY)[2]
    told_last = happened(world)[happened(world).index("Suspending") :]
    assert told_last == ["Suspending", "CheckpointSaved", "CheckpointSaved", "Suspended"]
    assert (world.status.restarts, world.status.since_checkpoint) == (0, None)


def test_it_goes_on_at_once_with_the_resources_of_then() -> None:
    world = suspended()
    world.now += timedelta(minutes=10)
    world.edit(suspend=False, resources={"nodes": 3, "gpusPerNode": 0})
    world.turn()
    assert (world.status.phase, world.status.suspended_seconds) == (Phase.PENDING, 600)
    assert world.status.plan is not None
    assert (world.status.plan.world_size, world.status.plan.total_steps) == (3, PLAN.total_steps)
    now = world.now
    world.turn()
    [job] = [manifest for manifest in world.turn().apply if manifest["kind"] == "Job"]
    assert (job["metadata"]["name"], job["spec"]["completions"], world.now) == ("demo-2", 3, now)
    assert happened(world)[-2:] == ["Resumed", "Started"]
    assert told(world, conditions.SUSPENDED)[0] == "False"


def test_the_time_of_all_suspensions_is_added_up() -> None:
    world = suspended()
    for _ in range(2):
        world.now += timedelta(minutes=10)
        world.edit(suspend=False)
        world.settle()
        world.edit(suspend=True)
        world.settle()
    assert world.status.suspended_seconds == 1200
    assert [attempt.reason for attempt in world.status.attempts] == ["Suspended"] * 3


def test_an_attempt_whose_pods_were_not_made_yet_never_was() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    world.edit(suspend=True)
    world.settle()
    assert (world.status.phase, world.created) == (Phase.SUSPENDED, [])
    assert world.status.attempts[-1].last_step is None


def ending(world: World, kind: str) -> None:
    gang = world.jobs["demo-1"]
    if kind == "completing":
        world.succeed(report(sequence=99, step=36, stage=Stage.FINISHED, output=OUTPUT))
        world.jobs["demo-1"] = gang
        world.turn()
        assert world.status.attempts[-1].end_time is None, "its Job has yet to say so"
        world.jobs["demo-1"] = replace(gang, complete=True)
    elif kind == "failing":
        world.fail_pod(0, 65)
    else:
        world.jobs.clear()
        world.pods.clear()


@pytest.mark.parametrize(
    ("kind", "phase", "reason"),
    [
        ("completing", Phase.SUCCEEDED, "Completed"),
        ("failing", Phase.FAILED, "InvalidData"),
        ("vanished", Phase.SUSPENDED, "PodVanished"),
    ],
)
def test_a_gang_that_ends_just_then_is_judged_first(kind: str, phase: Phase, reason: str) -> None:
    world = training()
    world.edit(suspend=True)
    ending(world, kind)
    world.settle()
    assert (world.status.phase, world.status.attempts[-1].reason) == (phase, reason)


def test_one_that_comes_to_a_good_end_after_all_has_succeeded() -> None:
    world = training()
    world.edit(suspend=True)
    world.turn()
    world.turn()
    world.succeed(report(sequence=99, step=36, stage=Stage.FINISHED, output=OUTPUT))
    world.turn()
    assert (world.status.phase, world.status.output) == (Phase.SUCCEEDED, OUTPUT)


def test_what_waits_to_be_started_again_is_suspended_when_all_is_gone_and_then_not_kept_waiting() -> None:
    world = training()
    world.fail_pod(0, 200)
    world.turn()
    world.now += timedelta(seconds=6)
    world.turn()
    assert happened(world)[-1] == "Restarting"
    world.edit(suspend=True)
    world.turn()
    assert (world.status.phase, told(world)[1:]) == (Phase.RESTARTING, ("Suspending", "2 pods are ending"))
    world.settle()
    assert world.status.phase is Phase.SUSPENDED
    assert world.status.attempts[-1].reason == "CollectiveTimeout"
    now = world.now
    world.edit(suspend=False)
    for _ in range(3):
        world.turn()
    assert (world.gangs, world.now) == (["demo-1", "demo-2"], now)


def test_who_changes_his_mind_gets_the_next_attempt_when_the_pods_of_the_last_have_ended() -> None:
    world = training()
    world.edit(suspend=True)
    world.turn()
    world.turn()
    world.edit(suspend=False)
    world.turn()
    assert told(world)[1] == "WaitingForPods"
    assert world.gangs == ["demo-1"]
    world.settle()
    assert world.gangs == ["demo-1", "demo-2"]
    assert (world.status.phase, world.status.suspended_seconds) == (Phase.STARTING, None)
    assert "Restarting" not in happened(world)


def test_a_job_that_is_over_takes_no_notice() -> None:
    world = training()
    world.succeed(report(sequence=99, step=36, output=OUTPUT))
    world.settle()
    before = world.status
    world.edit(suspend=True)
    world.settle()
    generation = {"observed_generation": world.generation, "conditions": []}
    assert world.status.model_copy(update=generation) == before.model_copy(update=generation)


def test_a_stray_gang_of_a_suspended_job_is_removed() -> None:
    """An operator that was slow may have made it."""
    world = suspended()
    world.jobs["demo-1"] = replace(training().jobs["demo-1"], uid="late")
    assert [job.uid for job in world.turn().delete] == ["late"]


def test_an_end_of_which_the_suspension_was_the_cause_is_not_judged() -> None:
    world = training()
    world.edit(suspend=True)
    world.turn()
    world.turn()
    for name, pod in world.pods.items():
        world.pods[name] = replace(pod, running=False, end=PodEnd(pod=name, exit_code=1), finished=world.now)
    world.settle()
    assert world.status.phase is Phase.SUSPENDED
    assert world.status.restarts == 0
