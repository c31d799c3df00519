"""What is done about the preparation of a FineTuneJob's data in each situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.inputs import Input
from finetune_api.report import Failure, Preparation, Report, Stage, Transfer
from finetune_api.runconfig import RunConfig
from finetune_api.status import Condition, FineTuneJobStatus, Phase
from finetune_operator.lifecycle.ends import ENDING_TIME
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation.observed import Observed, Received, Taken
from finetune_operator.status import conditions
from world import DATASET, INLINE, INSTALLATION, OUTPUT, PLAN, START, World, found, report


def condition(status: FineTuneJobStatus, type_: str = conditions.PREPARED) -> Condition:
    known = conditions.find(status.conditions, type_)
    assert known is not None
    return known


def preparing(sequence: int = 1, **fields: Any) -> Report:
    """A Report of a preparation that is under way."""
    return report(0, sequence, None, **{"stage": Stage.PREPARING, "plan": None} | fields)


def refused(*details: str) -> Report:
    """The last Report of a preparation that met rows which cannot be trained on."""
    failure = Failure(
        exit_code=65,
        reason="InvalidData",
        message="spec.dataset.train: line 3: no role",
        details=list(details),
    )
    return report(0, 9, None, stage=Stage.FAILED, plan=None, failure=failure)


def submitted(**spec: object) -> World:
    """A world whose preparation has been created and observed."""
    world = World(spec=dict(spec))
    world.settle()
    return world


def running(**spec: object) -> World:
    """A world whose data are being read."""
    world = submitted(**spec)
    world.run_pods()
    world.post(preparing(preparation=Preparation(rows=41000, percent=34)))
    world.settle()
    return world


# From submission to the first attempt


def test_the_spec_is_fixed_before_anything_is_created() -> None:
    world = World()
    outcome = world.turn()
    assert not outcome.apply
    assert (world.status.phase, world.status.start_time, world.status.attempts) == (Phase.PENDING, START, [])
    assert world.status.plan is not None
    assert condition(world.status).status == "Unknown"
    assert [event.reason for event in outcome.events] == ["Accepted"]


def test_then_the_preparation_is_applied_the_job_last_and_nothing_of_a_gang() -> None:
    world = World()
    world.turn()
    outcome = world.turn()
    assert [manifest["kind"] for manifest in outcome.apply] == ["ConfigMap", "NetworkPolicy", "Job"]
    assert outcome.apply[-1]["metadata"]["name"] == "demo-prepare"
    assert outcome.status is None


def test_the_job_is_mirrored() -> None:
    world = submitted()
    assert world.status.phase is Phase.PREPARING
    assert condition(world.status, conditions.READY).reason == "PodsPending"
    world.run_pods()
    world.settle()
    assert condition(world.status, conditions.READY).message == (
        "the pod that prepares the data runs; waiting for its first report"
    )
    world.post(preparing(preparation=Preparation(rows=41000, percent=34)))
    world.settle()
    for type_ in (conditions.READY, conditions.PREPARED, conditions.PROGRESSING):
        assert condition(world.status, type_).reason == "Preparing"
        assert condition(world.status, type_).message == "the data are being prepared: 41,000 rows, 34 %"
    assert condition(world.status).status == "Unknown"
    assert (world.status.phase, world.status.attempts) == (Phase.PREPARING, [])


def test_what_is_downloaded_is_told_before_the_data_are() -> None:
    world = running(model={"huggingFace": {"repo": "org/model"}})
    world.post(preparing(2, stage=Stage.DOWNLOADING))
    world.settle()
    said = condition(world.status)
    assert (said.status, said.reason) == ("Unknown", "Downloading")
    assert said.message == "what comes over the network is being downloaded"
    there = Transfer(of="org/model", bytes=3 << 30, total_bytes=12 << 30)
    world.post(preparing(3, stage=Stage.DOWNLOADING, transfer=there))
    world.settle()
    assert (
        condition(world.status, conditions.READY).message == "downloading org/model: 3.0 GiB of 12 GiB, 25 %"
    )
    assert world.status.phase is Phase.PREPARING


def test_what_the_inputs_were_is_on_record_once_they_are_there() -> None:
    world = running(model={"huggingFace": {"repo": "org/model"}})
    model = Input(
        name="model",
        origin='Hugging Face repository "org/model" at "main"',
        revision="c0ffee",
        digest="d",
        bytes=3 << 30,
        path=".downloads/huggingface/models--org--model",
    )
    data = Input(name="train", origin='"train.jsonl" on claim "data"', digest="e", bytes=9)
    world.succeed(found(inputs=[model, data]))
    world.settle()
    assert world.status.inputs == [model, data]
    # What an attempt leaves out is not forgotten.
    world.run_pods()
    world.post(report(1, 1))
    world.settle()
    assert world.status.inputs == [model, data]
    assert [event.message for event in world.events if event.reason == "Downloaded"] == [
        'model: Hugging Face repository "org/model" at "main", commit c0ffee, 3.0 GiB'
    ]


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        (("FailedMount", 'secret "hub" not found'), 'secret "hub" not found'),
        (("Unschedulable", "0/3 nodes: Insufficient cpu"), "Insufficient cpu"),
        (("ImagePullBackOff", "no such image"), "no such image"),
    ],
)
def test_what_keeps_the_pod_from_running_is_told(waiting: tuple[str, str], words: str) -> None:
    world = submitted()
    [(name, pod)] = world.pods.items()
    world.pods[name] = replace(pod, waiting=waiting)
    world.settle()
    ready = condition(world.status, conditions.READY)
    assert ready.reason == waiting[0]
    assert name in ready.message
    assert words in ready.message


def test_a_pod_that_has_prepared_all_is_waited_for() -> None:
    world = running()
    world.now += timedelta(minutes=1)
    world.post(found(sequence=9))
    assert (world.decide().status, world.decide().requeue_after) == (None, 15), "its end may come first"
    world.now += ENDING_TIME
    world.settle()
    said = condition(world.status, conditions.READY)
    assert (said.reason, said.message) == ("Finishing", "the data are prepared; waiting for the pod to end")


def test_a_job_without_a_pod_says_where_to_look() -> None:
    world = World()
    for _ in range(2):
        world.turn()
    world.pods.clear()
    world.turn()
    assert "kubectl describe job demo-prepare" in condition(world.status, conditions.READY).message


def test_a_restart_of_the_operator_keeps_what_was_last_known() -> None:
    world = running()
    world.restart_operator(away=3600)
    assert world.decide().status is None


def test_success_is_one_write_with_plan_and_data_and_the_first_attempt() -> None:
    world = running()
    world.succeed(found())
    outcome = world.turn()
    assert not outcome.apply
    assert not outcome.delete
    status = world.status
    assert (status.phase, status.plan, status.dataset) == (Phase.STARTING, PLAN, DATASET)
    assert [attempt.number for attempt in status.attempts] == [1]
    assert status.progress is None
    prepared = condition(status)
    assert (prepared.status, prepared.reason) == ("True", "DataPrepared")
    assert prepared.message == "100 samples of 1,000 tokens, 500 of them with loss; left out: 1 too long"
    assert [(event.reason, event.message) for event in outcome.events] == [
        ("Prepared", prepared.message),
        ("Started", "attempt 1 begins"),
    ]


def run_config(world: World) -> RunConfig:
    """What the next pods are told."""
    [config_map] = [made for made in world.decide().apply if made["kind"] == "ConfigMap"]
    return RunConfig.model_validate_json(config_map["data"]["run.json"])


def test_the_gang_is_told_which_data_to_open_at_every_attempt() -> None:
    world = World()
    world.turn()
    assert run_config(world).prepared == {}
    world.prepare()
    world.turn()
    first = run_config(world)
    assert first.prepared == {"train": DATASET.digest}
    world.turn()
    world.run_pods()
    world.post(report())
    world.turn()
    for index in range(2):
        world.fail_pod(index, 1)
    for _ in range(3):
        world.turn()
        world.collect()
    world.now += timedelta(minutes=1)
    world.turn()
    assert [attempt.number for attempt in world.status.attempts] == [1, 2]
    assert run_config(world) == first


def test_a_gang_that_prepares_for_itself_is_told_of_no_data() -> None:
    world = World(spec={"dataset": INLINE})
    world.turn()
    assert run_config(world).prepared == {}
    world.status = world.status.model_copy(update={"dataset": DATASET})
    assert run_config(world).prepared == {}


def test_the_completed_pod_is_in_nobody_s_way_and_stays() -> None:
    world = World()
    world.prepare()
    world.settle()
    assert set(world.jobs) == {"demo-prepare", "demo-1"}
    world.run_pods()
    world.post(report())
    world.settle()
    world.succeed(report(step=36, output=OUTPUT))
    world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert set(world.jobs) == {"demo-prepare", "demo-1"}


def test_what_the_last_words_had_no_room_for_was_posted() -> None:
    world = running()
    world.post(found())
    world.succeed(found(10, plan=None, dataset=None))
    world.turn()
    assert (world.status.plan, world.status.dataset) == (PLAN, DATASET)


def test_a_plan_that_was_cut_short_does_not_replace_the_whole_one() -> None:
    whole = PLAN.model_copy(update={"assumptions": ["something"]})
    world = running()
    world.post(found(plan=whole))
    world.succeed(found(10))
    world.turn()
    assert world.status.plan == whole


def test_an_operator_that_missed_every_word_goes_on_and_the_gang_tells_again() -> None:
    world = World()
    world.prepare(found(plan=None, dataset=None))
    world.settle()
    assert (world.status.dataset, condition(world.status).status) == (None, "Unknown")
    assert world.gangs == ["demo-1"]
    world.run_pods()
    world.post(report(dataset=DATASET))
    world.settle()
    assert (world.status.dataset, condition(world.status).status) == (DATASET, "True")
    assert [event.reason for event in world.events].count("Prepared") == 1


def test_inline_the_gang_s_report_prepares() -> None:
    world = World(spec={"dataset": INLINE})
    world.settle()
    assert world.created == ["demo-1"]
    world.run_pods()
    world.post(report(step=None, stage=Stage.PREPARING, preparation=Preparation(rows=7, percent=1)))
    world.settle()
    assert world.status.phase is Phase.PREPARING
    assert condition(world.status, conditions.READY).message == "the data are being prepared: 7 rows, 1 %"
    assert condition(world.status).status == "Unknown"
    world.post(report(sequence=2, dataset=DATASET))
    world.settle()
    assert condition(world.status).status == "True"


# Failure


def test_bad_rows_fail_the_job_with_every_fault_and_no_gang() -> None:
    world = running()
    details = [f"line {number}: messages[1].role is missing" for number in (3, 5)]
    world.fail_single_pod(65, refused(*details), message="spec.dataset.train: line 3: no role")
    outcome = world.turn()
    status = world.status
    assert (status.phase, status.attempts, status.completion_time) == (Phase.FAILED, [], world.now)
    prepared = condition(status)
    assert (prepared.status, prepared.reason) == ("False", "InvalidData")
    assert prepared.message.endswith("\n".join(["line 3: no role", *details]))
    for type_ in (conditions.STALLED, conditions.READY):
        assert condition(status, type_).message.endswith("spec.dataset.train: line 3: no role")
    assert [event.reason for event in outcome.events] == ["Failed"]
    world.settle()
    assert world.created == ["demo-prepare"]
    assert set(world.jobs) == {"demo-prepare"}, "its log is what people want now"
    assert world.pods


def test_faults_are_taken_from_where_there_was_room_for_more_of_them() -> None:
    world = running()
    world.post(refused("line 3", "line 4", "line 5"))
    world.fail_single_pod(65, refused("line 3"))
    world.turn()
    assert condition(world.status).message.endswith("line 3\nline 4\nline 5")


def test_a_failure_is_final_though_no_attempt_was_made() -> None:
    world = running()
    world.fail_single_pod(65, refused("line 3"))
    world.settle()
    before = world.status
    world.generation += 1
    world.jobs.clear()
    world.pods.clear()
    world.settle()
    assert world.created == ["demo-prepare"]
    assert world.status.observed_generation == 2
    assert condition(world.status).message == condition(before).message
    assert world.status.model_copy(update={"observed_generation": 1, "conditions": []}) == before.model_copy(
        update={"conditions": []}
    )


def test_the_job_tries_again_by_itself_and_the_job_is_under_way_meanwhile() -> None:
    world = running()
    world.fail_single_pod(1, message="connection reset")
    world.turn()
    ready = condition(world.status, conditions.READY)
    assert (world.status.phase, ready.reason) == (Phase.PREPARING, "Retrying")
    assert "connection reset" in ready.message
    world.settle()
    world.run_pods()
    # Its successor counts from the beginning.
    world.post(preparing(preparation=Preparation(rows=1, percent=0)))
    world.settle()
    assert condition(world.status, conditions.READY).message == "the data are being prepared: 1 rows"
    world.succeed(found())
    world.turn()
    assert (world.status.dataset, world.status.restarts) == (DATASET, 0)


def test_what_a_predecessor_posted_is_not_its_successor_s() -> None:
    world = running()
    world.fail_single_pod(1)
    world.settle()
    world.run_pods()
    assert world.posted is not None
    assert world.decide().status is None or "41,000" not in str(world.decide().status)
    world.succeed(found(plan=None, dataset=None))
    old = replace(world.posted, report=found())
    outcome = reconcile(world.subject, replace(world.observed, report=old), world.now, INSTALLATION)
    assert outcome.status is not None
    assert outcome.status.dataset is None


def test_when_its_job_gives_up_so_does_the_job() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    world.fail_single_pod(1, message="connection reset", given_up=True)
    world.settle()
    assert world.status.phase is Phase.FAILED
    message = condition(world.status, conditions.STALLED).message
    assert "connection reset" in message
    assert "spec.failurePolicy.maxRestarts is 0" in message


def test_the_last_pod_is_the_one_to_judge() -> None:
    world = running()
    world.fail_single_pod(143, disruption="drained")
    world.now += timedelta(minutes=1)
    world.settle()
    world.fail_single_pod(65, refused("line 9"))
    world.turn()
    assert condition(world.status).reason == "InvalidData"


def test_a_container_that_took_too_much_memory_is_not_tried_again() -> None:
    world = running()
    world.fail_single_pod(137, oom_killed=True)
    outcome = world.turn()
    assert not outcome.delete, "the verdict comes first"
    assert (world.status.phase, condition(world.status).reason) == (Phase.FAILED, "OOMKilled")
    assert "spec.dataset.prepare: Inline" in condition(world.status).message
    assert "spec.resources" not in condition(world.status).message
    world.settle()
    assert not world.jobs, "it would try again"
    assert not world.pods


def test_a_job_that_failed_without_a_trace_is_told_in_its_own_words() -> None:
    world = running()
    world.pods.clear()
    world.jobs["demo-prepare"] = replace(world.jobs["demo-prepare"], failed=True, words="it took too long")
    world.settle()
    assert world.status.phase is Phase.FAILED
    assert condition(world.status).message.endswith("it took too long")


def test_a_preparation_that_somebody_deleted_is_done_again() -> None:
    world = running()
    world.jobs.clear()
    world.turn()
    assert world.created == ["demo-prepare"], "a pod of it is still there"
    world.pods.clear()
    world.settle()
    assert world.created == ["demo-prepare"] * 2
    world.run_pods()
    world.succeed(found())
    world.settle()
    assert world.gangs == ["demo-1"]


# Obstacles, and what does not concern it


def test_a_name_that_is_taken_is_left_alone_and_named() -> None:
    world = World()
    world.turn()
    observed = Observed(taken=(Taken("Job", "demo-prepare", fading=False),))
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert not outcome.apply
    assert outcome.status is not None
    assert condition(outcome.status, conditions.STALLED).reason == "NameConflict"
    assert condition(outcome.status).status == "Unknown"


def test_what_the_api_server_refuses_is_said_in_its_words() -> None:
    world = World()
    world.turn()
    observed = Observed(refusal="exceeded quota: pods")
    outcome = reconcile(world.subject, observed, world.now, INSTALLATION)
    assert outcome.status is not None
    assert "exceeded quota: pods" in condition(outcome.status, conditions.STALLED).message


def test_a_spec_that_turns_invalid_does_not_touch_the_preparation() -> None:
    world = running()
    world.spec = {"failurePolicy": {"maxRestarts": -1}}
    outcome = world.turn()
    assert not outcome.delete
    assert (world.status.phase, condition(world.status, conditions.READY).reason) == (
        Phase.PREPARING,
        "Invalid",
    )


def test_a_report_of_somebody_else_tells_nothing() -> None:
    world = running()
    told = preparing(9, preparation=Preparation(rows=1, percent=99))
    [job], [pod] = world.jobs.values(), world.pods
    for job_uid, sender in (("another", pod), (job.uid, "another")):
        stranger = Received(told, job_uid, sender, START)
        outcome = reconcile(world.subject, replace(world.observed, report=stranger), world.now, INSTALLATION)
        assert outcome.status is None
