"""Pods that were asked to go, and those that do not."""

from dataclasses import replace
from datetime import timedelta

from finetune_api.failure import PodEnd
from finetune_api.report import Stage
from finetune_api.status import Phase
from finetune_operator.status import conditions
from world import INLINE, World, report


def told(world: World) -> tuple[str, str]:
    condition = conditions.find(world.status.conditions, conditions.PROGRESSING)
    assert condition is not None
    return condition.reason, condition.message


def with_a_lost_node(**spec: object) -> World:
    """Its gang was asked to go, and one of the nodes does not answer."""
    world = World(spec={"dataset": INLINE} | spec)
    world.settle()
    world.run_pods()
    world.post(report())
    world.settle()
    world.fail_pod(0, 200)
    world.turn()
    world.now += timedelta(seconds=6)
    world.turn()
    world.turn()
    due = world.now + timedelta(seconds=120)
    del world.pods["demo-1-0"]
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], node="gpu-7", deleting=True, due=due)
    return world


def test_until_a_minute_after_the_grace_period_nothing_is_wrong() -> None:
    world = with_a_lost_node()
    before = world.status
    outcome = world.turn()
    assert (world.status, outcome.requeue_after) == (before, 180)
    assert told(world)[0] == "CollectiveTimeout"


def test_then_it_is_told_once_what_is_waited_for_and_what_can_be_done() -> None:
    world = with_a_lost_node()
    world.now += timedelta(seconds=180)
    world.turn()
    reason, message = told(world)
    assert reason == "WaitingForNode"
    assert "demo-1-1 on node gpu-7 (since 12:02:" in message
    assert "kubectl delete node gpu-7" in message
    assert "kubectl taint node gpu-7 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in message
    assert [event.reason for event in world.events].count("WaitingForNode") == 1
    writes = world.writes
    world.now += timedelta(hours=1)
    outcome = world.turn()
    assert (world.writes, outcome.requeue_after) == (writes, None)
    assert world.gangs == ["demo-1"], "no gang starts beside it"


def test_when_the_pod_is_gone_the_next_attempt_begins() -> None:
    world = with_a_lost_node()
    world.now += timedelta(seconds=180)
    world.turn()
    world.settle()
    assert (world.gangs, world.status.phase) == (["demo-1", "demo-2"], Phase.STARTING)


def test_a_job_that_waits_for_a_lost_node_is_not_suspended() -> None:
    world = with_a_lost_node()
    world.now += timedelta(seconds=180)
    world.edit(suspend=True)
    world.turn()
    assert (world.status.phase, told(world)[0]) == (Phase.RESTARTING, "WaitingForNode")
    world.settle()
    assert world.status.phase is Phase.SUSPENDED


def test_a_launch_that_waits_for_one_says_so_too() -> None:
    world = with_a_lost_node()
    pod = world.pods["demo-1-1"]
    world.pods.clear()
    world.jobs.clear()
    world.settle()
    world.turn()
    fresh = World(spec={"dataset": INLINE})
    fresh.turn()
    fresh.pods[pod.name] = pod
    fresh.now = world.now + timedelta(seconds=400)
    fresh.turn()
    assert told(fresh)[0] == "WaitingForNode"


def test_a_pod_whose_job_is_gone_is_named_for_nobody_else_asks_it_to_go() -> None:
    world = with_a_lost_node()
    world.jobs.clear()
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], deleting=False, due=None)
    world.settle()
    reason, message = told(world)
    assert reason == "WaitingForPods"
    assert "kubectl delete pod demo-1-1." in message
    assert world.gangs == ["demo-1"], "no gang starts beside it"
    world.pods.clear()
    world.settle()
    assert (world.gangs, world.status.phase) == (["demo-1", "demo-2"], Phase.STARTING)


def test_of_several_lost_nodes_the_one_that_is_waited_for_is_named() -> None:
    """One has been deleted, its pod with it; the pods of others were asked to go by their Job, which failed of that."""
    world = World(spec={"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.post(report())
    world.settle()
    [job] = world.jobs.values()
    world.jobs[job.name] = replace(job, failed=True)
    del world.pods["demo-1-0"]
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], node="gpu-7", deleting=True, due=world.now)
    world.turn()
    assert told(world)[0] == "Ending"
    world.now += timedelta(minutes=1)
    world.turn()
    assert told(world)[0] == "WaitingForNode"
    assert "kubectl delete node gpu-7" in told(world)[1]
    del world.pods["demo-1-1"]
    world.settle()
    assert world.gangs == ["demo-1", "demo-2"]


def test_a_preparation_whose_node_is_lost_waits_for_it_and_goes_on() -> None:
    """Its Job makes no other pod while this one may be writing to the volume."""
    world = World()
    world.settle()
    world.run_pods()
    world.post(report(0, 1, None, plan=None, stage=Stage.PREPARING))
    world.turn()
    [pod] = world.pods.values()
    lost = PodEnd(pod.name, disruption="Taint manager: deleting due to NoExecute taint", asked_to_go=True)
    world.pods[pod.name] = replace(pod, deleting=True, due=world.now, node="cpu-3", end=lost)
    world.turn()
    assert "deleting due to NoExecute taint" in told(world)[1]
    world.now += timedelta(hours=1)
    world.turn()
    assert world.status.phase is Phase.PREPARING
    assert "kubectl delete node cpu-3" in told(world)[1]
    assert [event.reason for event in world.events].count("WaitingForNode") == 1
    del world.pods[pod.name]
    world.collect()
    world.run_pods()
    world.now += timedelta(seconds=5)
    world.post(report(0, 1, None, plan=None, stage=Stage.PREPARING))
    world.turn()
    assert (world.status.phase, told(world)) == (
        Phase.PREPARING,
        ("Preparing", "the data are being prepared"),
    )
