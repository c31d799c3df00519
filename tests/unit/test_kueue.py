"""A gang that has to go through a queue: when it waits, what is said of it, and what its waiting costs."""

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.status import Phase
from finetune_operator import kueue
from finetune_operator.status import conditions
from world import DATASET, INLINE, START, World, checkpoint, report

QUEUE = {"scheduling": {"queueName": "team"}}
PENDING = {
    "type": "QuotaReserved",
    "status": "False",
    "reason": "Pending",
    "message": "insufficient unused quota",
}


def told(world: World) -> tuple[str, str]:
    condition = conditions.find(world.status.conditions, conditions.READY)
    assert condition is not None
    return condition.reason, condition.message


def phase(world: World) -> Phase | None:
    return world.status.phase


def queued(**spec: Any) -> World:
    world = World(spec={"dataset": INLINE} | QUEUE | spec)
    world.settle()
    assert phase(world) is Phase.QUEUED
    return world


def training(**spec: Any) -> World:
    world = queued(**spec)
    world.admit()
    world.run_pods()
    world.post(report(step=7, dataset=DATASET, checkpoints=[checkpoint(6, "resume")]))
    world.settle()
    assert phase(world) is Phase.RUNNING
    return world


def queue(world: World) -> tuple[bool, int, int]:
    """Whether it waits, the seconds that it waited before, and how often it was preempted."""
    found = world.status.queue
    assert found is not None
    return found.waiting_since is not None, found.waited_seconds, found.preemptions


def test_a_gang_waits_in_its_queue_and_then_starts() -> None:
    world = queued()
    assert told(world)[0] == kueue.QUEUED
    assert [event.reason for event in world.events][-1] == "Queued"
    world.now = START + timedelta(minutes=5)
    world.admit()
    world.settle()
    assert phase(world) is Phase.STARTING
    assert queue(world) == (False, 301, 0)
    assert world.events[-1].reason == "Admitted"
    assert "team lets the gang start, after 5m" in world.events[-1].message


def test_a_gang_that_need_not_wait_is_known_to_have_a_queue() -> None:
    world = World(spec={"dataset": INLINE} | QUEUE)
    for _ in range(3):
        world.turn()
        if world.jobs:
            break
    world.admit()
    world.settle()
    assert (phase(world), queue(world)) == (Phase.STARTING, (False, 0, 0))


def test_data_are_prepared_before_and_without_the_queue() -> None:
    world = World(spec=QUEUE)
    world.prepare()
    world.settle()
    assert [job.queue for job in world.jobs.values()] == [None, "team"]
    assert phase(world) is Phase.QUEUED


def test_a_preempted_gang_waits_again_and_goes_on_as_the_same_attempt() -> None:
    world = training()
    before = queue(world)[1]
    world.now = preempted = START + timedelta(minutes=5)
    world.preempt()
    world.fail_pod(0, 143)
    world.settle()
    assert (phase(world), queue(world)) == (Phase.QUEUED, (True, before, 1))
    assert world.events[-1].type == "Warning"
    assert world.events[-1].reason == kueue.PREEMPTED
    world.now = preempted + timedelta(minutes=2)
    world.admit()
    world.run_pods()
    world.settle()
    assert phase(world) is Phase.STARTING, "what the former pods told says nothing of these"
    world.post(report(step=8, sequence=1))
    world.settle()
    assert phase(world) is Phase.RUNNING
    assert queue(world) == (False, before + 121, 1)
    assert [attempt.number for attempt in world.status.attempts] == [1]
    assert (world.status.restarts, world.gangs) == (0, ["demo-1"])


def test_pods_of_before_that_still_go_when_the_gang_is_let_go_on_do_not_end_it() -> None:
    world = training()
    world.preempt()
    world.fail_pod(0, 143)
    world.fail_pod(1, 137)
    world.turn()
    world.admit()
    world.turn()
    assert phase(world) is Phase.STARTING
    assert world.status.attempts[-1].end_time is None


def test_a_gang_that_is_let_go_waits_until_its_job_says_that_it_has_started() -> None:
    """The Job controller makes all pods before: that takes it a while, and no event says how long it has been."""
    world = queued(failurePolicy={"startupDeadlineSeconds": 60})
    world.now = START + timedelta(hours=5)
    world.let_go()
    for _ in range(2):
        world.turn()
        assert phase(world) is Phase.QUEUED
        assert world.status.attempts[-1].end_time is None
        world.now += timedelta(seconds=30)
    world.begin()
    world.settle()
    assert phase(world) is Phase.STARTING
    assert world.status.restarts == 0


def test_pods_of_before_do_not_end_a_gang_that_is_let_go_again_while_they_save() -> None:
    world = training()
    world.preempt()
    world.fail_pod(0, 143)
    world.let_go()
    world.turn()
    assert (phase(world), world.status.attempts[-1].end_time) == (Phase.QUEUED, None)
    world.now += timedelta(seconds=1)
    world.begin()
    world.turn()
    assert (phase(world), world.status.attempts[-1].end_time) == (Phase.STARTING, None)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"exit_code": 143, "disruption": "Eviction API: evicting"}, "Disrupted"),
        ({"exit_code": 137, "oom_killed": True}, "OOMKilled"),
        ({"exit_code": None, "reason": "OutOfcpu", "words": "Pod was rejected"}, "PodRejected"),
    ],
)
def test_pods_that_were_made_before_the_job_said_that_it_started_are_its_own(end: Any, reason: str) -> None:
    world = training()
    [job] = world.jobs.values()
    assert job.started is not None
    assert all(pod.created is not None and pod.created < job.started for pod in world.current_pods)
    world.now += timedelta(minutes=5)
    world.fail_pod(0, **end)
    world.settle()
    assert world.status.attempts[0].reason == reason


def test_a_pod_that_fails_ends_the_attempt_and_the_next_one_waits_anew() -> None:
    world = training()
    world.fail_pod(0, 200)
    for _ in range(8):
        world.collect()
        world.turn()
        world.now += timedelta(seconds=10)
    assert phase(world) is Phase.QUEUED
    assert (world.gangs, queue(world)[2]) == (["demo-1", "demo-2"], 0)


def test_waiting_uses_up_no_deadline() -> None:
    policy = {"startupDeadlineSeconds": 60, "progressDeadlineSeconds": 60, "activeDeadlineSeconds": 600}
    world = queued(failurePolicy=policy)
    world.now += timedelta(days=3)
    world.settle()
    assert phase(world) is Phase.QUEUED
    world.admit()
    world.settle()
    assert phase(world) is Phase.STARTING, "it has a minute from now on"
    world.run_pods()
    world.post(report(step=1))
    world.settle()
    world.preempt()
    world.settle()
    world.now += timedelta(days=3)
    world.admit()
    world.settle()
    assert phase(world) is Phase.STARTING
    world.now += timedelta(seconds=61)
    world.settle()
    assert world.status.attempts[0].reason == "StartupDeadlineExceeded"


def test_pods_that_are_let_go_on_have_the_whole_time_to_start() -> None:
    world = training(failurePolicy={"startupDeadlineSeconds": 600, "progressDeadlineSeconds": 60})
    world.preempt()
    world.settle()
    world.admit()
    world.run_pods()
    world.settle()
    world.now += timedelta(seconds=120)
    world.settle()
    assert phase(world) is Phase.STARTING, "that the former pods were heard of says nothing of these"


def test_a_job_that_waits_can_be_suspended_and_leaves_the_queue() -> None:
    world = queued()
    world.edit(suspend=True)
    world.settle()
    assert (phase(world), world.jobs) == (Phase.SUSPENDED, {})
    assert queue(world)[0] is False


def test_a_job_that_was_just_preempted_can_be_suspended() -> None:
    world = training()
    world.preempt()
    world.fail_pod(0, 143)
    world.edit(suspend=True)
    world.turn()
    assert world.status.attempts[-1].reason == "Suspended", "its pods need not be waited for"
    world.settle()
    assert (phase(world), world.jobs) == (Phase.SUSPENDED, {})


def test_a_job_that_somebody_takes_out_of_the_queue_is_an_attempt_that_vanished() -> None:
    world = queued()
    world.jobs.clear()
    world.turn()
    assert world.status.attempts[-1].end_time is not None


@pytest.mark.parametrize(
    ("conditions_", "expected"),
    [
        ([PENDING], ("Pending", "in queue team: insufficient unused quota")),
        ([PENDING | {"reason": "Inadmissible", "message": "LocalQueue team doesn't exist"}],
         ("Inadmissible", "in queue team: LocalQueue team doesn't exist")),
        ([PENDING, {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "Preempted for it."}],
         ("Preempted", "in queue team: Preempted for it. insufficient unused quota")),
        ([PENDING, {"type": "Evicted", "status": "False", "reason": "QuotaReserved", "message": "Previously: …"}],
         ("Pending", "in queue team: insufficient unused quota")),
        ([{"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved"},
          {"type": "Admitted", "status": "False", "reason": "NoChecks", "message": "waits for a check"}],
         ("NoChecks", "in queue team: waits for a check")),
        ([], ("Queued", "in queue team: Kueue has not looked at it yet")),
    ],
)  # fmt: skip
def test_kueue_s_own_words_are_told(conditions_: list[dict[str, str]], expected: tuple[str, str]) -> None:
    workload = {"status": {"conditions": conditions_}}
    assert kueue.wait(workload, "team", None) == expected


def test_without_a_workload_it_is_said_what_may_be_missing() -> None:
    reason, message = kueue.wait(None, "team", "high")
    assert reason == kueue.QUEUED
    assert "WorkloadPriorityClass high exists" in message


def test_only_the_gang_of_a_job_with_a_queue_is_kueues() -> None:
    world = World(spec={"dataset": INLINE})
    world.settle()
    [job] = world.jobs.values()
    assert (job.queue, job.waits, world.now) == (None, False, START)
