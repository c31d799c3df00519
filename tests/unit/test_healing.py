"""What pods need beside their Job, and how often that is looked for."""

from datetime import timedelta

from finetune_api.status import Phase
from finetune_operator.lifecycle.healing import Looks
from world import INLINE, START, World, report


def starting() -> World:
    world = World(spec={"dataset": INLINE})
    world.settle()
    assert world.status.phase is Phase.STARTING
    return world


def needed(world: World) -> list[str]:
    needs = world.decide().needs
    return [manifest["kind"] for manifest in needs.manifests] if needs else []


def test_pods_that_start_in_time_are_left_alone() -> None:
    world = starting()
    outcome = world.decide()
    assert (outcome.needs, outcome.requeue_after) == (None, 15)


def test_those_that_do_not_may_miss_something_and_are_looked_after_ever_more_rarely() -> None:
    world = starting()
    asked = []
    for _ in range(8):
        outcome = world.decide()
        assert outcome.requeue_after is not None
        asked.append(outcome.requeue_after)
        world.now += timedelta(seconds=outcome.requeue_after)
        assert needed(world) == ["ConfigMap", "Service", "NetworkPolicy"]
    assert asked == [15, 15, 30, 60, 120, 240, 480, 600]


def test_pods_that_run_and_have_not_met_may_miss_their_service() -> None:
    world = starting()
    world.run_pods()
    world.settle()
    world.now += timedelta(seconds=15)
    assert needed(world) == ["ConfigMap", "Service", "NetworkPolicy"]
    needs, asked = world.decide().needs, world.decide().requeue_after
    assert needs is not None
    assert asked is not None
    assert needs.every < timedelta(seconds=asked) <= timedelta(seconds=15)


def test_a_gang_that_runs_is_looked_after_now_and_then() -> None:
    world = starting()
    world.run_pods()
    world.post(report())
    world.settle()
    needs = world.decide().needs
    assert needs is not None
    assert (needs.every, len(needs.manifests)) == (timedelta(minutes=10), 3)


def test_so_is_the_pod_of_the_preparation() -> None:
    world = World()
    world.settle()
    world.now += timedelta(seconds=15)
    assert needed(world) == ["ConfigMap", "NetworkPolicy"]


def test_a_config_map_of_before_the_spec_changed_cannot_be_made_again() -> None:
    world = starting()
    world.edit(checkpoints={"everySteps": 7})
    world.now += timedelta(seconds=15)
    assert needed(world) == ["Service", "NetworkPolicy"]


def test_a_gang_that_has_ended_needs_nothing() -> None:
    world = starting()
    world.run_pods()
    world.post(report())
    world.settle()
    world.now += timedelta(minutes=1)
    world.fail_pod(0, 65)
    assert needed(world) == []
    world.settle()
    assert needed(world) == []


def test_looks_are_as_rare_as_wanted_for_each_job() -> None:
    looks, minute = Looks(), timedelta(minutes=1)
    assert looks.due("a", minute, START)
    assert looks.due("b", minute, START)
    assert not looks.due("a", minute, START + minute / 2)
    assert looks.due("a", minute / 2, START + minute / 2)
    assert looks.due("a", minute, START + 2 * minute)
    looks.forget("a")
    assert looks.due("a", minute, START + 2 * minute)
