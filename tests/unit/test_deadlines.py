"""What has to happen by when, and what it means that it did not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from finetune_api.report import Stage
from finetune_api.status import Attempt, Phase
from finetune_operator.lifecycle import deadlines
from finetune_operator.lifecycle.outcome import Outcome, Situation
from finetune_operator.observation.observed import Pod
from finetune_operator.status import conditions
from world import INLINE, OUTPUT, START, World, checkpoint, found, report

SHORT = {"startupDeadlineSeconds": 70, "progressDeadlineSeconds": 100, "maxRestarts": 1}


def starting(**policy: object) -> World:
    """A world whose gang was created just now."""
    world = World(spec={"dataset": INLINE, "failurePolicy": SHORT | policy})
    for _ in range(3):
        world.turn()
    assert world.status.phase is Phase.STARTING
    return world


def running(**policy: object) -> World:
    world = starting(**policy)
    world.run_pods()
    world.post(report(step=4))
    world.turn()
    assert world.status.phase is Phase.RUNNING
    return world


def preparing() -> World:
    """A world whose data are about to be prepared, by a pod that waits."""
    world = World(spec={"failurePolicy": SHORT})
    for _ in range(3):
        world.turn()
    assert world.status.phase is Phase.PREPARING
    return world


def at_the_deadline(world: World) -> Attempt:
    """Nothing happens but that the operator looks again when it wanted to, until an attempt has ended."""
    for _ in range(20):
        outcome = world.turn()
        if world.status.attempts[0].end_time is not None:
            return world.status.attempts[0]
        assert outcome.requeue_after, "nobody would look again"
        world.now += timedelta(seconds=outcome.requeue_after)
    raise AssertionError("it is never reached")


def seconds(world: World) -> float:
    return (world.now - START).total_seconds()


def message(world: World) -> str:
    condition = conditions.find(world.status.conditions, conditions.READY)
    assert condition is not None
    return condition.message


# The start


def test_a_preparation_is_not_late_because_the_operator_s_clock_is_ahead() -> None:
    world = preparing()
    [job] = world.jobs.values()
    world.jobs[job.name] = replace(job, created=world.now - timedelta(hours=5))
    outcome = world.turn()
    assert world.status.phase is Phase.PREPARING
    assert outcome.requeue_after == SHORT["startupDeadlineSeconds"]


def test_pods_that_do_not_run_in_time_end_the_attempt_in_the_kubelet_s_words() -> None:
    world = starting()
    world.run_pods()
    waiting = replace(
        world.pods["demo-1-1"], running=False, node="node-b", waiting=("ImagePullBackOff", "no such image")
    )
    world.pods["demo-1-1"] = waiting
    attempt = at_the_deadline(world)
    assert seconds(world) == 70
    assert (attempt.reason, attempt.counted, attempt.node) == ("StartupDeadlineExceeded", True, "node-b")
    for words in ("1m10s", "1 of 2 pods run", "demo-1-1: ImagePullBackOff: no such image"):
        assert words in (attempt.message or "")
    assert "spec.failurePolicy.startupDeadlineSeconds" in (attempt.message or "")
    assert (world.status.phase, world.status.restarts) == (Phase.RESTARTING, 1)
    assert "no such image" in message(world)
    world.settle()
    assert world.gangs == ["demo-1", "demo-2"]


def test_a_trainer_that_is_not_heard_of_in_time_has_not_started() -> None:
    world = starting()
    world.run_pods()
    attempt = at_the_deadline(world)
    assert (seconds(world), attempt.reason) == (70, "StartupDeadlineExceeded")
    assert "waiting for the trainer's first report" in (attempt.message or "")


def test_one_trainer_that_is_heard_of_does_not_speak_for_peers_that_do_not_run() -> None:
    world = starting()
    world.run_pods()
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], running=False, waiting=("ErrImagePull", ""))
    world.post(report(step=None, stage=Stage.STARTING))
    assert at_the_deadline(world).reason == "StartupDeadlineExceeded"
    assert seconds(world) == 70


def test_each_attempt_has_the_whole_time() -> None:
    world = starting()
    at_the_deadline(world)
    world.settle()
    world.now = world.status.attempts[1].start_time + timedelta(seconds=69)
    world.turn()
    assert world.decide().status is None
    world.now += timedelta(seconds=1)
    world.turn()
    assert (world.status.phase, world.status.attempts[1].reason) == (Phase.FAILED, "StartupDeadlineExceeded")
    assert "spec.failurePolicy.maxRestarts is 1" in message(world)


def test_a_job_that_tells_no_times_has_begun_with_its_attempt() -> None:
    """As one without a cluster does."""
    world = starting()
    [job] = world.jobs.values()
    world.jobs[job.name] = replace(job, created=None, started=None)
    at_the_deadline(world)
    assert seconds(world) == 70


def test_what_was_held_up_before_its_pods_could_be_made_has_the_whole_time_too() -> None:
    world = starting()
    world.now += timedelta(hours=1)
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], created=world.now)
    assert not world.decide().events


def test_a_trainer_that_nobody_could_hear_is_given_time() -> None:
    world = starting()
    world.run_pods()
    world.restart_operator(away=3600)
    assert not world.decide().events
    world.post(report())
    world.turn()
    assert world.status.phase is Phase.RUNNING


def test_that_pods_did_not_run_is_seen_by_an_operator_that_was_away() -> None:
    world = starting()
    world.restart_operator(away=3600)
    world.turn()
    assert world.status.attempts[0].reason == "StartupDeadlineExceeded"


# Signs of life


def test_a_gang_that_shows_no_sign_of_life_hangs() -> None:
    world = running()
    attempt = at_the_deadline(world)
    assert seconds(world) == 100
    assert (attempt.reason, attempt.last_step, attempt.counted) == ("Hung", 4, True)
    assert "no sign of life for 1m40s: training" in (attempt.message or "")
    assert "spec.failurePolicy.progressDeadlineSeconds" in (attempt.message or "")
    assert [event.reason for event in world.events][-1] == "Restarting"
    world.settle()
    assert world.gangs == ["demo-1", "demo-2"]


def test_every_sign_of_life_counts_whatever_it_says() -> None:
    world = running()
    for sequence in range(2, 8):
        world.now += timedelta(seconds=99)
        world.post(report(sequence=sequence, step=4, stage=Stage.SAVING))
        world.turn()
    assert world.status.phase is Phase.RUNNING


def test_a_report_that_was_not_yet_asked_for_is_not_missing() -> None:
    world = running()
    assert world.posted is not None
    world.posted = replace(world.posted, interval=300)
    world.now += timedelta(seconds=399)
    assert not world.decide().events
    world.now += timedelta(seconds=1)
    assert world.decide().events


def test_peers_that_come_late_have_the_time_from_then_on() -> None:
    world = starting()
    world.run_pods()
    late = world.now + timedelta(seconds=50)
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], running=False)
    world.post(report(step=None, stage=Stage.STARTING))
    world.turn()
    world.now = late
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], running=True, started=late)
    world.turn()
    world.now = late + timedelta(seconds=99)
    assert not world.decide().events
    world.now += timedelta(seconds=1)
    assert world.decide().events


@pytest.mark.parametrize("away", [0, 3600])
def test_no_gang_hangs_because_the_operator_did_not_listen(away: float) -> None:
    world = running()
    world.restart_operator(away=away)
    # The one before may have asked for the next Report in five minutes only.
    world.now += timedelta(seconds=399)
    assert not world.decide().events
    world.now += timedelta(seconds=1)
    world.turn()
    assert world.status.attempts[0].reason == "Hung"


def test_no_gang_hangs_because_nobody_was_heard() -> None:
    world = running()
    world.now += timedelta(hours=9)
    world.watching_since = world.now
    assert not world.decide().events
    world.now += timedelta(seconds=399)
    assert not world.decide().events
    world.now += timedelta(seconds=1)
    world.turn()
    assert world.status.attempts[0].reason == "Hung"


def test_how_a_pod_ended_tells_more_than_that_time_is_up() -> None:
    world = running()
    world.now += timedelta(seconds=500)
    world.fail_pod(0, 74, message="the volume is full")
    world.turn()
    assert world.status.attempts[0].reason == "StorageFull"


# The preparation


def test_a_preparation_that_does_not_start_has_failed_in_the_scheduler_s_words() -> None:
    world = preparing()
    [pod] = world.pods.values()
    world.pods[pod.name] = replace(pod, waiting=("Unschedulable", "0/3 nodes are available"))
    while world.status.phase is Phase.PREPARING:
        again = world.turn().requeue_after
        assert again is not None, "nobody would look again"
        world.now += timedelta(seconds=again)
    assert seconds(world) == 70
    prepared = conditions.find(world.status.conditions, conditions.PREPARED)
    assert prepared is not None
    assert (prepared.status, prepared.reason) == ("False", "StartupDeadlineExceeded")
    assert "0/3 nodes are available" in prepared.message
    world.settle()
    assert not world.pods
    assert not world.jobs


def test_a_preparation_that_was_suspended_meanwhile_has_the_whole_time() -> None:
    world = preparing()
    world.now += timedelta(hours=1)
    world.jobs["demo-prepare"] = replace(world.jobs["demo-prepare"], created=world.now)
    world.turn()
    assert world.status.phase is Phase.PREPARING


def test_a_preparation_without_a_sign_of_life_has_failed() -> None:
    world = preparing()
    world.run_pods()
    world.post(report(0, 1, None, plan=None, stage=Stage.PREPARING))
    world.turn()
    world.now += timedelta(seconds=99)
    assert not world.decide().events
    world.restart_operator()
    world.now += timedelta(seconds=399)
    assert not world.decide().events
    world.now += timedelta(seconds=1)
    world.turn()
    assert (world.status.phase, world.events[-1].reason) == (Phase.FAILED, "Failed")
    assert "no sign of life" in message(world)


def test_a_pod_that_the_job_controller_started_again_has_the_whole_time() -> None:
    world = preparing()
    world.run_pods()
    world.now += timedelta(seconds=69)
    world.fail_single_pod(143)
    world.collect()
    world.now += timedelta(seconds=69)
    world.turn()
    assert world.status.phase is Phase.PREPARING


@pytest.mark.parametrize("is_made", [True, False], ids=["another pod waits", "no pod is there"])
@pytest.mark.parametrize("is_new", [True, False], ids=["the operator is new", "the same operator"])
def test_a_pod_that_takes_the_place_of_a_drained_one_has_the_whole_time(is_made: bool, is_new: bool) -> None:
    """The drained one is gone, and its Job was made long ago."""
    world = preparing()
    world.run_pods()
    world.now += timedelta(hours=2)
    world.post(report(0, 1, None, plan=None, stage=Stage.PREPARING))
    world.turn()
    [job] = world.jobs.values()
    world.pods.clear()
    if is_made:
        world.pods["demo-prepare-b"] = Pod("demo-prepare-b", job.uid, None, running=False, created=world.now)
    if is_new:
        world.restart_operator(away=5)
    world.now += timedelta(seconds=SHORT["startupDeadlineSeconds"] - 6)
    world.turn()
    assert world.status.phase is Phase.PREPARING
    world.now += timedelta(seconds=400)
    assert [event.reason for event in world.turn().events] == ["Failed"]


def test_what_keeps_pods_from_ending_whose_trainers_have_finished_is_named() -> None:
    """A proxy that a service mesh has added would hold the GPUs for ever."""
    world = running()
    end = report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT)
    world.post(end)
    for pod in world.current_pods:
        last = end if pod.index == 0 else None
        world.pods[pod.name] = replace(pod, finished=world.now, report=last, beside=("istio-proxy",))
    attempt = at_the_deadline(world)
    assert attempt.reason == "Hung"
    assert "containers that are not the operator's go on: istio-proxy" in (attempt.message or "")


def test_what_keeps_the_pod_of_a_preparation_from_ending_is_named() -> None:
    world = preparing()
    world.run_pods()
    world.post(found())
    [pod] = world.pods.values()
    world.pods[pod.name] = replace(pod, finished=world.now, report=found(), beside=("istio-proxy",))
    world.now += timedelta(seconds=60)
    world.turn()
    assert message(world).endswith("containers that are not the operator's go on: istio-proxy")


def test_a_preparation_that_kueue_has_put_into_a_queue_waits_there() -> None:
    """It names none, but the namespace has a LocalQueue called default."""
    world = preparing()
    [job] = world.jobs.values()
    world.pods.clear()
    world.jobs[job.name] = replace(job, queue="default", suspended=True)
    world.now += timedelta(hours=1)
    outcome = world.turn()
    assert world.status.phase is Phase.PREPARING
    assert "in queue default" in message(world)
    assert outcome.requeue_after is not None
    world.jobs[job.name] = replace(job, queue="default", started=world.now)
    world.pods["demo-prepare-b"] = Pod("demo-prepare-b", job.uid, None, running=False)
    world.now += timedelta(seconds=69)
    world.turn()
    assert (world.status.phase, message(world)) == (Phase.PREPARING, "the data are about to be prepared")


def test_a_job_that_somebody_else_has_suspended_is_named() -> None:
    world = preparing()
    [job] = world.jobs.values()
    world.pods.clear()
    world.jobs[job.name] = replace(job, suspended=True)
    world.now += timedelta(seconds=60)
    world.turn()
    assert "Job demo-prepare was suspended, and not by the operator" in message(world)


# The whole job


def look(world: World) -> Outcome | None:
    job = world.subject.job
    assert job is not None
    return deadlines.overdue(Situation(world.subject, job, world.observed, world.now))


def test_a_job_has_to_be_done_in_time() -> None:
    world = running(activeDeadlineSeconds=80)
    world.now = START + timedelta(seconds=79)
    assert look(world) is None
    world.now += timedelta(seconds=1)
    world.post(report(sequence=9, step=7))
    outcome = look(world)
    assert outcome is not None
    assert outcome.status is not None
    assert outcome.status.phase is Phase.FAILED
    attempt = outcome.status.attempts[-1]
    assert (attempt.reason, attempt.end_time, attempt.last_step) == ("DeadlineExceeded", world.now, 7)
    assert (attempt.counted, outcome.status.restarts) == (False, 0)
    assert "it came to step 7/36" in (attempt.message or "")
    assert "spec.failurePolicy.activeDeadlineSeconds" in (attempt.message or "")
    assert outcome.events[-1].reason == "Failed"


def test_time_stands_still_while_a_job_is_suspended() -> None:
    world = running(activeDeadlineSeconds=80)
    world.status = world.status.model_copy(update={"suspended_seconds": 1000})
    world.now = START + timedelta(seconds=1079)
    assert look(world) is None
    world.now += timedelta(seconds=1)
    assert look(world) is not None
    world.spec = world.spec | {"suspend": True}
    assert look(world) is None


def test_a_job_that_is_done_is_not_late() -> None:
    world = running(activeDeadlineSeconds=80)
    world.succeed(report(sequence=9, step=36, output=OUTPUT))
    world.now = START + timedelta(hours=1)
    assert look(world) is None


def test_the_time_runs_while_the_data_are_prepared() -> None:
    world = World(spec={"failurePolicy": {"activeDeadlineSeconds": 80}})
    for _ in range(3):
        world.turn()
    world.now = START + timedelta(seconds=80)
    outcome = look(world)
    assert outcome is not None
    assert outcome.status is not None
    assert (outcome.status.phase, outcome.status.completion_time) == (Phase.FAILED, world.now)


def test_it_is_looked_at_when_the_time_is_up() -> None:
    world = running(activeDeadlineSeconds=80)
    job = world.subject.job
    assert job is not None
    situation = Situation(world.subject, job, world.observed, world.now)
    assert deadlines.bounded(situation, Outcome()).requeue_after == 80
    assert deadlines.bounded(situation, Outcome(requeue_after=5)).requeue_after == 5


# Budgets and deadlines together


def test_a_gang_that_saves_a_state_between_two_hangs_may_hang_for_ever() -> None:
    world = running()
    for attempt in range(1, 6):
        number = world.status.attempts[-1].number
        assert number == attempt
        saved = [checkpoint(10 * attempt, "resume")]
        world.run_pods()
        world.post(report(number, 2, 10 * attempt, resumed_from_step=10 * attempt - 10, checkpoints=saved))
        world.settle()
        world.now += timedelta(seconds=100)
        world.settle()
    assert (world.status.phase, world.status.restarts) == (Phase.STARTING, 5)
    since = world.status.since_checkpoint
    assert since is not None
    assert (since.step, since.restarts) == (50, 1)
    assert [attempt.last_step for attempt in world.status.attempts] == [10, 20, 30, 40, 50, None]


def test_a_preparation_that_is_done_has_no_deadline() -> None:
    world = preparing()
    world.run_pods()
    world.succeed(found())
    world.now += timedelta(hours=1)
    world.turn()
    assert world.status.attempts
