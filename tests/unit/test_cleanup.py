"""What is left of a finished job, and for how long."""

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.status import Phase
from world import OUTPUT, World, report


def finished(*, well: bool = True, **spec: Any) -> World:
    world = World(spec=spec)
    world.prepare()
    world.settle()
    world.run_pods()
    if well:
        world.succeed(report(step=36, output=OUTPUT))
    else:
        world.fail_pod(0, 65)
    world.turn()
    assert world.status.phase is (Phase.SUCCEEDED if well else Phase.FAILED)
    return world


@pytest.mark.parametrize("well", [True, False])
def test_after_its_time_only_the_job_itself_is_left(well: bool) -> None:
    world = finished(well=well, ttlSecondsAfterFinished=3600)
    world.settle()
    assert world.status.completion_time is not None
    outcome = world.turn()
    assert outcome.requeue_after == 3600 - (world.now - world.status.completion_time).total_seconds()
    assert "demo-prepare" in world.jobs
    assert len(world.others) == 4, "a Service, a NetworkPolicy, and a ConfigMap for each RunConfig"
    world.now += timedelta(hours=1)
    world.settle()
    assert (world.jobs, world.pods, world.others) == ({}, {}, {})
    assert world.status.cleanup_time == world.now
    assert [event.reason for event in world.events].count("CleanedUp") == 1


def test_nothing_else_of_the_status_changes_and_nothing_is_done_again() -> None:
    world = finished(ttlSecondsAfterFinished=60)
    before = world.status
    world.now += timedelta(hours=1)
    world.settle()
    assert world.status == before.model_copy(update={"cleanup_time": world.now})
    world.now += timedelta(days=100)
    outcome = world.turn()
    assert (outcome.delete, outcome.remove, outcome.status, outcome.requeue_after) == ((), (), None, None)


def test_at_once_is_after_the_end_is_on_record() -> None:
    world = World(spec={"ttlSecondsAfterFinished": 0})
    world.prepare()
    world.settle()
    world.run_pods()
    world.succeed(report(step=36, output=OUTPUT))
    assert not world.turn(crash_after=0).delete
    assert world.jobs["demo-1"]
    outcome = world.turn()
    assert (world.status.phase, outcome.delete) == (Phase.SUCCEEDED, ())
    assert [job.name for job in world.turn().delete] == ["demo-prepare", "demo-1"]
    world.settle()
    assert world.others == {}


def test_without_it_everything_stays() -> None:
    world = finished()
    world.now += timedelta(days=1000)
    outcome = world.turn()
    assert (outcome.delete, outcome.remove, outcome.status, outcome.requeue_after) == ((), (), None, None)


def test_it_may_be_changed_after_the_end() -> None:
    world = finished(ttlSecondsAfterFinished=3600)
    world.now += timedelta(minutes=10)
    world.edit(ttlSecondsAfterFinished=86400)
    outcome = world.turn()
    assert outcome.requeue_after == 86400 - 600
    assert world.status.observed_generation == world.generation
    world.edit(ttlSecondsAfterFinished=60)
    world.settle()
    assert world.status.cleanup_time == world.now
    assert world.status.observed_generation == world.generation


def test_what_is_not_watched_is_looked_for_again_and_ever_more_rarely_where_it_does_not_go() -> None:
    world = finished(ttlSecondsAfterFinished=0)
    others = dict(world.others)
    for minutes, again in ((0, 2), (1, 60), (2, 180), (10, 300)):
        world.now += timedelta(minutes=minutes)
        world.others = dict(others)
        assert world.turn().requeue_after == again


def test_a_job_that_never_began_has_nothing_to_clean_up() -> None:
    world = World(spec={"method": "magic", "ttlSecondsAfterFinished": 0})
    world.settle()
    writes = world.writes
    world.now += timedelta(hours=1)
    world.settle()
    assert (world.writes, world.status.cleanup_time) == (writes, None)
