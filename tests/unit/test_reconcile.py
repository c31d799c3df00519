"""What is done about a FineTuneJob in each situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.report import Failure, Report, Stage
from finetune_api.status import FineTuneJobStatus, Phase, Subspaces
from finetune_operator.lifecycle.ends import ENDING_TIME
from finetune_operator.lifecycle.gang import LONG_WAIT, unexplained
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation.observed import GangJob, Observed, Taken
from finetune_operator.status import conditions
from world import (
    DATASET,
    INLINE,
    INSTALLATION,
    OUTPUT,
    PLAN,
    START,
    SUBSPACES,
    World,
    checkpoint,
    report,
)


def truths(status: FineTuneJobStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def message(status: FineTuneJobStatus, type_: str = conditions.READY) -> str:
    condition = conditions.find(status.conditions, type_)
    assert condition is not None
    return condition.message


def reason(status: FineTuneJobStatus, type_: str = conditions.READY) -> str:
    condition = conditions.find(status.conditions, type_)
    assert condition is not None
    return condition.reason


def seconds_since_start(world: World) -> float:
    return (world.now - START).total_seconds()


def started(**spec: object) -> World:
    """A world whose data are prepared, and whose gang has been created and observed."""
    world = World(spec=dict(spec))
    world.prepare()
    world.settle()
    return world


def running(**spec: object) -> World:
    """A world whose gang trains."""
    world = started(**spec)
    world.run_pods()
    world.post(report())
    world.settle()
    assert world.status.phase is Phase.RUNNING
    return world


# From submission to running


def test_the_attempt_is_on_record_before_anything_is_created() -> None:
    world = World(spec={"dataset": INLINE})
    outcome = world.turn()
    assert not outcome.apply
    assert [(a.number, a.start_time) for a in world.status.attempts] == [(1, START)]
    assert (world.status.phase, world.status.start_time, world.status.restarts) == (Phase.STARTING, START, 0)
    assert world.status.observed_generation == 1
    told = [(event.reason, event.message) for event in outcome.events]
    assert told == [("Accepted", "the spec is valid; attempt 1 begins")]


def test_what_can_be_planned_without_model_and_data_is_planned_at_once() -> None:
    world = World(spec={"hyperparameters": {"learningRate": 1e-3, "effectiveBatchSize": 8}})
    world.turn()
    plan = world.status.plan
    assert plan is not None
    assert (plan.learning_rate, plan.num_epochs, plan.world_size, plan.total_steps) == (1e-3, 2, 2, None)
    assert [choice.field for choice in plan.chosen] == ["spec.hyperparameters.numEpochs"]
    [warning] = plan.warnings
    assert (warning.rule, warning.field) == ("learning-rate-high", "spec.hyperparameters.learningRate")


def test_then_the_objects_are_applied_the_job_last() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    outcome = world.turn()
    assert [manifest["kind"] for manifest in outcome.apply] == [
        "ConfigMap",
        "Service",
        "NetworkPolicy",
        "Job",
    ]
    assert outcome.status is None


def test_a_start_that_takes_no_longer_than_usual_is_not_written_about_again() -> None:
    world = started()
    assert (world.status.phase, message(world.status)) == (
        Phase.STARTING,
        "attempt 1: its pods are being created",
    )
    begun, writes = world.status.attempts[0].start_time, world.writes
    # By the API server's clock, which may be another.
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], created=begun + timedelta(seconds=20))
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], waiting=("ContainerCreating", ""))
    for seconds in range(15):
        world.now = begun + timedelta(seconds=seconds)
        assert world.turn().requeue_after == 15 - seconds
    world.run_pods()
    world.turn()
    assert world.writes == writes
    world.post(report(stage=Stage.STARTING))
    world.turn()
    assert reason(world.status) == "TrainerStarting", "a report is always news"


def test_one_that_takes_longer_is_told() -> None:
    world = started()
    world.now += LONG_WAIT
    world.settle()
    assert world.status.phase is Phase.STARTING
    assert message(world.status).startswith("0 of 2 pods run")


def test_an_edit_during_a_start_is_acknowledged_at_once() -> None:
    world = started()
    world.edit(failurePolicy={"maxRestarts": 7})
    world.turn()
    assert world.status.observed_generation == 2


def test_a_job_that_is_deleted_as_soon_as_it_is_there_is_not_made_again_without_end() -> None:
    world = World(spec={"dataset": INLINE, "failurePolicy": {"maxRestarts": 0}})
    for _ in range(100):
        world.turn()
        if world.jobs:
            assert not world.turn().apply, "it is there, and is looked at"
            world.jobs.clear()
            world.pods.clear()
        world.now += timedelta(seconds=1)
        if world.status.phase is Phase.FAILED:
            break
    assert (world.status.phase, world.status.attempts[0].reason) == (Phase.FAILED, "PodVanished")
    assert seconds_since_start(world) < 30


def test_one_that_was_asked_to_go_is_no_usual_start() -> None:
    world = started()
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], deleting=True)
    world.turn()
    world.collect()
    world.settle()
    assert world.status.restarts == 1


def test_a_job_without_pods_says_where_to_look() -> None:
    world = started()
    world.pods.clear()
    world.now += LONG_WAIT
    world.settle()
    assert "kubectl describe job demo-1" in message(world.status)


def test_what_the_kubelet_says_of_a_pod_is_shown() -> None:
    world = started()
    world.pods["demo-1-0"] = replace(world.pods["demo-1-0"], waiting=("ContainerCreating", ""))
    world.pods["demo-1-1"] = replace(world.pods["demo-1-1"], waiting=("ImagePullBackOff", "no such image"))
    world.settle()
    assert world.status.phase is Phase.STARTING
    for type_ in (conditions.PROGRESSING, conditions.READY):
        assert reason(world.status, type_) == "ImagePullBackOff"
        assert "demo-1-1: ImagePullBackOff: no such image" in message(world.status, type_)


def test_what_a_pod_does_not_say_is_asked_for_ever_more_rarely() -> None:
    world = started()
    since = world.now
    waiting = replace(world.pods["demo-1-1"], waiting=("ContainerCreating", ""), created=since)
    world.pods["demo-1-1"] = waiting
    asked, again = [], []
    for seconds in (14, 15, 30, 60):
        world.now = since + timedelta(seconds=seconds)
        asked.append(unexplained(list(world.pods.values()), world.now))
        world.turn()
        again.append(world.decide().requeue_after)
    assert asked == [None, waiting, waiting, waiting]
    assert again == [1, 15, 30, 60]
    explained = replace(waiting, waiting=("FailedMount", "no such volume"))
    assert unexplained([explained], world.now) is None


def test_pods_that_run_are_not_yet_a_training() -> None:
    world = started()
    world.run_pods()
    world.now += LONG_WAIT
    world.settle()
    assert world.status.phase is Phase.STARTING
    assert "first report" in message(world.status)


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        (Stage.STARTING, Phase.STARTING),
        (Stage.PREPARING, Phase.PREPARING),
        (Stage.LOADING, Phase.RUNNING),
        (Stage.TRAINING, Phase.RUNNING),
        (Stage.SAVING, Phase.RUNNING),
        (Stage.FINISHED, Phase.RUNNING),
        (Stage.FAILED, Phase.RUNNING),
    ],
)
def test_the_trainer_s_stage_makes_the_phase(stage: Stage, phase: Phase) -> None:
    world = started()
    world.run_pods()
    world.post(report(stage=stage))
    # The end of one that has finished is waited for.
    world.now += ENDING_TIME
    world.settle()
    assert world.status.phase is phase


def test_a_report_of_another_gang_tells_nothing() -> None:
    world = running()
    before = world.status
    posted = world.posted
    assert posted is not None
    stranger = replace(posted, report=report(sequence=9, step=30), job_uid="another")
    outcome = reconcile(
        world.subject, replace(world.observed, report=stranger), START + timedelta(minutes=1), INSTALLATION
    )
    assert outcome.status is None
    assert world.status == before


def test_a_restart_of_the_operator_keeps_phase_and_progress() -> None:
    world = running()
    world.restart_operator(away=3600)
    assert world.decide().status is None


def test_mere_progress_is_written_every_few_seconds_only() -> None:
    world = running()
    world.now += timedelta(seconds=2)
    world.post(report(sequence=2, step=2))
    outcome = world.turn()
    assert (outcome.status, outcome.requeue_after) == (None, 3)
    world.now += timedelta(seconds=3)
    assert world.turn().status is not None
    assert world.status.progress is not None
    assert world.status.progress.step == 2


def test_after_a_clock_was_set_right_progress_is_written_as_before() -> None:
    world = running()
    world.now -= timedelta(hours=5)
    world.post(report(sequence=2, step=2))
    assert world.turn().status is not None
    assert world.status.progress is not None
    assert world.status.progress.step == 2


def test_of_a_decomposition_every_few_seconds_is_told_how_far_it_has_come() -> None:
    def loading(sequence: int, subspaces: Subspaces | None) -> Report:
        return report(1, sequence, None, stage=Stage.LOADING, subspaces=subspaces)

    world = started()
    world.run_pods()
    world.post(loading(1, None))
    world.settle()
    assert message(world.status) == "the model is being loaded"
    for sequence, seconds, written in ((2, 2, False), (3, 5, True), (4, 7, False)):
        world.now = START + timedelta(seconds=seconds)
        world.post(loading(sequence, Subspaces(decomposed=sequence, of=14)))
        assert (world.turn().status is not None) == written
    assert message(world.status) == "decomposing weight matrices: 3 of 14"
    assert (world.status.phase, reason(world.status)) == (Phase.RUNNING, "Loading")
    assert world.status.subspaces == Subspaces(decomposed=3, of=14)
    world.post(report(sequence=5, subspaces=SUBSPACES))
    assert world.turn().status is not None, "another stage is no mere progress"
    assert (message(world.status), world.status.subspaces) == ("training", SUBSPACES)


def test_a_leak_is_mere_progress() -> None:
    world = running()
    world.now += timedelta(seconds=2)
    world.post(report(sequence=2, subspaces=SUBSPACES.model_copy(update={"leak": 1e-7})))
    assert world.turn().status is None


def test_a_checkpoint_is_written_at_once() -> None:
    world = running()
    world.now += timedelta(seconds=1)
    world.post(report(sequence=2, step=2, checkpoints=[checkpoint(2)]))
    outcome = world.turn()
    assert outcome.status is not None
    assert [event.reason for event in outcome.events] == ["CheckpointSaved"]


def finishing() -> tuple[World, Report]:
    """A gang whose pods have all ended well a moment ago, and whose Job does not say so yet; and their last words."""
    world = running()
    world.now += timedelta(minutes=1)
    last = report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT, checkpoints=[checkpoint(36)])
    world.succeed(last)
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], complete=False)
    return world, last


def test_the_end_of_a_gang_that_has_finished_is_one_write() -> None:
    world, _ = finishing()
    writes = world.writes
    outcome = world.turn()
    assert (world.writes, outcome.requeue_after) == (writes, 15)
    # Some ten seconds is what the Job controller needs where hundreds of Jobs end at once.
    world.now += timedelta(seconds=12)
    assert (world.writes, world.turn().requeue_after) == (writes, 3)
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], complete=True)
    outcome = world.turn()
    assert world.status.phase is Phase.SUCCEEDED
    assert [event.reason for event in outcome.events] == ["CheckpointSaved", "Succeeded"]


def test_where_that_end_does_not_come_at_once_it_is_told_what_is_waited_for() -> None:
    world, last = finishing()
    world.now += timedelta(seconds=15)
    world.turn()
    assert world.status.progress is not None
    assert (world.status.progress.step, world.status.checkpoints) == (36, last.checkpoints)
    world.post(last)
    world.now += timedelta(seconds=15)
    world.turn()
    assert reason(world.status) == "Finishing"


def test_a_clock_of_a_node_that_is_ahead_holds_nothing_up() -> None:
    world, _ = finishing()
    world.now -= timedelta(seconds=1)
    assert world.decide().status is not None


def test_what_a_trainer_has_told_of_its_end_does_not_wait_for_it() -> None:
    """It is nowhere but in the operator's memory."""
    world = running()
    world.now += timedelta(minutes=1)
    world.post(report(sequence=8, step=36, stage=Stage.FINISHED))
    assert (world.decide().status, world.decide().requeue_after) == (None, 15), "mere progress may wait"
    world.post(report(sequence=9, step=36, stage=Stage.FINISHED, checkpoints=[checkpoint(36)]))
    world.turn()
    assert (reason(world.status), len(world.status.checkpoints)) == ("Finishing", 1)


def test_a_deadline_does_not_wait_for_an_end() -> None:
    world = started(failurePolicy={"startupDeadlineSeconds": 60, "maxRestarts": 0})
    world.now = world.status.attempts[0].start_time + timedelta(seconds=58)
    world.run_pods()
    world.pods = {name: replace(pod, finished=world.now) for name, pod in world.pods.items()}
    outcome = world.decide()
    assert (outcome.status, outcome.requeue_after) == (None, 2)


def test_nothing_is_written_when_nothing_has_changed() -> None:
    world = running()
    world.now += timedelta(minutes=20)
    outcome = world.decide()
    assert (outcome.delete, outcome.apply, outcome.status) == ((), (), None)


# Rejection


def test_an_invalid_spec_is_answered_with_every_fault_and_no_pod() -> None:
    world = World(spec={"hyperparameters": {"learningRate": 0, "numEpochs": 0}})
    world.settle()
    assert world.status.phase is Phase.FAILED
    accepted = message(world.status, conditions.ACCEPTED)
    assert "spec.hyperparameters.learningRate" in accepted
    assert "spec.hyperparameters.numEpochs" in accepted
    assert truths(world.status)[conditions.STALLED] == "True"
    assert not world.created
    assert [event.reason for event in world.events] == ["Invalid"]


def test_a_rejected_job_that_becomes_valid_begins() -> None:
    world = World(spec={"failurePolicy": {"maxRestarts": -1}})
    world.settle()
    world.spec, world.generation = {"dataset": INLINE}, 2
    world.settle()
    assert world.status.phase is Phase.STARTING
    assert truths(world.status)[conditions.ACCEPTED] == "True"


def test_a_spec_that_turns_invalid_does_not_touch_the_gang() -> None:
    world = running()
    world.spec, world.generation = {"failurePolicy": {"maxRestarts": -1}}, 2
    outcome = world.turn()
    assert not outcome.delete
    assert world.status.phase is Phase.RUNNING
    assert truths(world.status)[conditions.ACCEPTED] == "False"
    world.spec, world.generation = {}, 3
    world.posted = None
    assert [(event.reason, event.message) for event in world.turn().events] == [
        ("Accepted", "the spec is valid")
    ]
    assert truths(world.status)[conditions.RECONCILING] == "True"
    assert world.gangs == ["demo-1"]


# Obstacles


def test_a_name_that_is_taken_is_left_alone_and_named() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    observed = Observed(taken=(Taken("Service", "demo-gang", fading=False),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply
    assert outcome.status is not None
    assert reason(outcome.status, conditions.STALLED) == "NameConflict"
    assert "Service demo-gang" in message(outcome.status)
    assert truths(outcome.status)[conditions.STALLED] == "True"
    assert [event.reason for event in outcome.events] == ["NameConflict"]
    assert outcome.requeue_after == 2


def test_a_conflict_is_retried_ever_more_rarely_and_told_once() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    observed = Observed(taken=(Taken("Service", "demo-gang", fading=False),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert outcome.status is not None
    world.status = outcome.status
    waits = []
    for seconds in (10, 100, 1000):
        outcome = reconcile(world.subject, observed, START + timedelta(seconds=seconds), INSTALLATION)
        assert outcome.status is None
        waits.append(outcome.requeue_after)
    assert waits == [10, 100, 300]


def test_a_conflict_that_is_resolved_is_forgotten() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    taken = Observed(taken=(Taken("Service", "demo-gang", fading=False),))
    outcome = reconcile(world.subject, taken, world.now, INSTALLATION)
    assert outcome.status is not None
    world.status = outcome.status
    world.settle()
    assert world.status.phase is Phase.STARTING
    assert truths(world.status)[conditions.STALLED] == "False"


def test_objects_of_a_deleted_namesake_are_waited_for_without_alarm() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    observed = Observed(taken=(Taken("Job", "demo-1", fading=True),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply
    assert outcome.status is not None
    assert truths(outcome.status)[conditions.STALLED] == "False"
    assert outcome.requeue_after == 2


def test_what_the_api_server_refuses_is_said_in_its_words() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    observed = Observed(refusal="exceeded quota: gpus")
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert outcome.status is not None
    assert reason(outcome.status, conditions.STALLED) == "Refused"
    assert "exceeded quota: gpus" in message(outcome.status)
    assert [event.reason for event in outcome.events] == ["Refused"]


def test_no_gang_starts_beside_pods_of_an_earlier_one() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    gang = started()
    observed = Observed(pods=tuple(gang.pods.values()))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply


# Ends


def test_success_takes_the_termination_message_as_authority() -> None:
    world = started()
    world.run_pods()
    world.settle()
    # The operator hears nothing of all this until it is over.
    last = report(
        sequence=99,
        step=36,
        stage=Stage.FINISHED,
        output=OUTPUT,
        dataset=DATASET,
        checkpoints=[checkpoint(18), checkpoint(36)],
    )
    world.succeed(last)
    world.settle()
    status = world.status
    assert (status.phase, status.output, status.plan, status.dataset) == (
        Phase.SUCCEEDED,
        OUTPUT,
        PLAN,
        DATASET,
    )
    assert status.progress is not None
    assert (status.progress.summary, status.progress.remaining) == ("36/36 (100%)", None)
    assert [c.step for c in status.checkpoints] == [18, 36]
    assert status.completion_time == world.now
    assert (status.attempts[0].exit_code, status.attempts[0].counted) == (0, False)
    assert truths(status)[conditions.SUCCEEDED] == truths(status)[conditions.READY] == "True"
    assert "demo/output on claim runs" in message(status)
    assert [event.reason for event in world.events[-3:]] == [
        "CheckpointSaved",
        "CheckpointSaved",
        "Succeeded",
    ]
    assert world.jobs, "completed pods stay for their logs"


def test_success_without_a_word_is_still_success() -> None:
    world = running()
    world.succeed(None)
    world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert world.status.output is None


def test_a_permanent_failure_is_written_first_and_then_leaves_no_pod() -> None:
    world = running()
    world.fail_pod(1, 65, message="data/typo.jsonl: no such file")
    outcome = world.turn()
    assert outcome.status is not None
    assert outcome.status.phase is Phase.FAILED
    assert not outcome.delete
    assert "data/typo.jsonl" in message(outcome.status, conditions.STALLED)
    [event] = outcome.events
    assert (event.reason, event.type) == ("Failed", "Warning")
    world.settle()
    assert set(world.jobs) == {"demo-prepare"}
    assert [pod.index for pod in world.pods.values()] == [None]
    assert (world.status.restarts, world.status.attempts[0].counted) == (0, False)


def test_one_failed_pod_ends_the_attempt_and_the_gang_starts_again() -> None:
    world = running()
    world.now += timedelta(minutes=1)
    world.fail_pod(1, 200)
    world.settle()
    first, second = world.status.attempts
    assert (first.reason, first.exit_code, first.counted) == ("CollectiveTimeout", 200, True)
    assert (second.number, second.end_time) == (2, None)
    assert (world.status.phase, world.status.restarts) == (Phase.STARTING, 1)
    assert [event.reason for event in world.events][-2:] == ["Restarting", "Started"]
    assert set(world.jobs) == {"demo-prepare", "demo-2"}


def test_a_victim_is_not_judged_before_the_culprit_can_be_seen() -> None:
    world = running()
    world.fail_pod(0, 200)
    assert world.turn().requeue_after == 5
    assert not world.status.attempts[0].end_time
    world.now += timedelta(seconds=2)
    world.fail_pod(1, 65, message="row 7: not JSON")
    world.turn()
    assert world.status.phase is Phase.FAILED
    assert world.status.attempts[0].reason == "InvalidData"


def test_a_node_s_fast_clock_does_not_delay_the_verdict() -> None:
    world = running()
    world.fail_pod(0, 1)
    world.pods["demo-1-0"] = replace(world.pods["demo-1-0"], finished=world.now + timedelta(hours=1))
    world.turn()
    assert world.status.phase is Phase.RESTARTING


def test_peers_that_still_end_are_heard_before_a_pod_counts_as_vanished() -> None:
    world = running()
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], failed=True)
    del world.pods["demo-1-1"]
    assert world.turn().requeue_after == 5
    assert (world.status.phase, reason(world.status)) == (Phase.RUNNING, "Ending")
    world.fail_pod(0, 143)
    world.settle()
    assert (world.status.attempts[0].reason, world.status.restarts) == ("Terminated", 0)


def test_what_a_pod_told_before_it_went_is_evidence() -> None:
    world = running()
    failure = Failure(exit_code=65, reason="InvalidData", message="line 3: no messages", log="the end")
    world.post(report(sequence=9, stage=Stage.FAILED, failure=failure))
    world.jobs["demo-1"] = replace(world.jobs["demo-1"], failed=True)
    del world.pods["demo-1-0"]
    world.fail_pod(1, 200)
    world.turn()
    [attempt] = world.status.attempts
    assert (world.status.phase, attempt.reason, attempt.log) == (Phase.FAILED, "InvalidData", "the end")
    assert attempt.message == "demo-1-0: line 3: no messages"


def test_a_node_with_a_gpu_error_is_avoided_from_then_on() -> None:
    world = running(failurePolicy={"maxRestarts": 20})
    applied: list[dict[str, Any]] = []
    for number in range(12):
        world.run_pods()
        world.fail_pod(0, 201, node=f"node-{number}")
        world.fail_pod(1, 200, node="innocent")
        while f"demo-{number + 2}" not in world.jobs:
            world.collect()
            outcome = world.turn()
            world.now += timedelta(seconds=outcome.requeue_after or 0)
            applied = [job for job in outcome.apply if job["kind"] == "Job"] or applied
    affinity = applied[0]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    names = [requirement["values"] for requirement in term["matchFields"]]
    assert names == [[f"node-{number}"] for number in range(11, 1, -1)], "the newest ten"
    assert {(found["key"], found["operator"]) for found in term["matchFields"]} == {
        ("metadata.name", "NotIn")
    }
    world.pods["demo-13-0"] = replace(
        world.pods["demo-13-0"], waiting=("Unschedulable", "0/12 nodes are available")
    )
    world.turn()
    assert "avoided after GPU errors: node-11, node-10" in message(world.status)


def test_a_gang_that_vanished_altogether_is_started_again_at_a_cost() -> None:
    world = running()
    world.jobs.clear()
    world.pods.clear()
    world.settle()
    assert (world.status.attempts[0].reason, world.status.restarts) == ("PodVanished", 1)
    assert set(world.jobs) == {"demo-2"}


def test_a_disruption_costs_nothing_and_is_not_waited_for() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    world.fail_pod(1, None, disruption="preempted")
    world.settle()
    assert (world.status.phase, world.status.restarts) == (Phase.STARTING, 0)
    assert (world.status.attempts[0].reason, world.status.attempts[0].counted) == ("Disrupted", False)


def test_the_next_attempt_is_not_even_on_record_while_a_pod_is_left() -> None:
    world = running()
    world.fail_pod(0, 1)
    world.fail_pod(1, 1)
    world.turn()
    world.jobs.clear()
    world.now += timedelta(minutes=5)
    for _ in range(3):
        world.turn()
    assert len(world.status.attempts) == 1
    world.pods.clear()
    world.turn()
    assert len(world.status.attempts) == 2


def test_restarts_run_out() -> None:
    world = running(failurePolicy={"maxRestarts": 1})
    for _ in range(2):
        world.run_pods()
        world.fail_pod(0, 1)
        world.fail_pod(1, 1)
        world.settle()
    assert (world.status.phase, world.status.restarts) == (Phase.FAILED, 1)
    assert [attempt.counted for attempt in world.status.attempts] == [True, False]
    assert "spec.failurePolicy.maxRestarts is 1" in message(world.status, conditions.STALLED)


def test_more_restarts_may_be_allowed_while_it_runs() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    world.spec, world.generation = {"failurePolicy": {"maxRestarts": 1}}, 2
    world.fail_pod(0, 1)
    world.fail_pod(1, 1)
    world.settle()
    assert world.status.phase is Phase.STARTING
    assert world.status.observed_generation == 2


def test_attempts_that_fall_over_at_once_are_spaced() -> None:
    world = running()
    began = world.status.attempts[0].start_time
    world.fail_pod(0, 1)
    world.fail_pod(1, 1)
    world.settle()
    assert world.status.attempts[1].start_time - began >= timedelta(seconds=10)


def test_after_a_clock_was_set_right_the_next_attempt_does_not_wait_for_hours() -> None:
    world = running()
    world.now -= timedelta(hours=5)
    before = world.now
    world.fail_pod(0, 1)
    world.fail_pod(1, 1)
    world.settle()
    assert world.gangs == ["demo-1", "demo-2"]
    assert world.now - before < timedelta(minutes=1)


def test_the_list_of_attempts_is_bounded_and_their_numbers_go_on() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    for _ in range(60):
        world.fail_pod(0, 143, disruption="drained")
        world.settle()
    assert len(world.status.attempts) == 50
    assert world.status.attempts[-1].number == 61
    assert set(world.jobs) == {"demo-prepare", "demo-61"}


def test_what_the_last_report_said_before_the_failure_is_kept() -> None:
    world = running()
    last = report(sequence=50, step=12, stage=Stage.FAILED, checkpoints=[checkpoint(10)])
    world.fail_pod(0, 1, last_report=last)
    world.fail_pod(1, 1)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.step == 12
    assert [c.step for c in world.status.checkpoints] == [10]


# After the end


def test_a_finished_job_follows_its_generation_and_nothing_else() -> None:
    world = running()
    world.succeed(report(step=36, output=OUTPUT))
    world.settle()
    before = world.status
    world.generation = 2
    world.settle()
    assert world.status.observed_generation == 2
    assert world.status.model_copy(update={"observed_generation": 1, "conditions": []}) == before.model_copy(
        update={"conditions": []}
    )
    assert {c.last_transition_time for c in world.status.conditions} == {
        c.last_transition_time for c in before.conditions
    }


def test_a_finished_job_whose_spec_turns_invalid_stays_what_it_is() -> None:
    world = running()
    world.succeed(report(step=36, output=OUTPUT))
    world.settle()
    world.spec, world.generation = {"failurePolicy": {"maxRestarts": -1}}, 2
    world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert truths(world.status)[conditions.READY] == "True"


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    for world in (World(), running()):
        deleted = replace(world.subject, deleting=True)
        outcome = reconcile(deleted, world.observed, world.now, INSTALLATION)
        assert (outcome.delete, outcome.apply, outcome.status) == ((), (), None)


def test_a_stray_job_of_another_attempt_is_removed() -> None:
    world = running()
    stray = GangJob(name="demo-7", uid="stray", attempt=7)
    outcome = reconcile(
        world.subject, replace(world.observed, jobs=(*world.observed.jobs, stray)), world.now, INSTALLATION
    )
    assert outcome.delete == (stray,)
