"""What is read off the API server's objects."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.report import Failure, Stage
from finetune_api.status import MAX_LOG_LENGTH, FineTuneJobStatus
from finetune_operator.observation.observed import Pod, Taken
from finetune_operator.observation.reading import gang_job, newest_warning, pod, subject, taken
from world import World, manifest, report, submitted


def wire_job(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "demo-2",
            "uid": "job-uid",
            "labels": {"finetune.dev/job": "demo", "finetune.dev/attempt": "2"},
            "ownerReferences": [{"kind": "FineTuneJob", "name": "demo", "uid": "uid-1", "controller": True}],
        },
        "status": status,
    }


def wire_pod(*, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    containers = [{"name": "trainer", "state": state}] if state is not None else []
    return {
        "metadata": {
            "name": "demo-2-0-x",
            "labels": {
                "finetune.dev/job": "demo",
                "finetune.dev/attempt": "2",
                "batch.kubernetes.io/job-completion-index": "0",
            },
            "ownerReferences": [{"kind": "Job", "name": "demo-2", "uid": "job-uid", "controller": True}],
        },
        "spec": {"nodeName": "node-a"},
        "status": {"containerStatuses": containers} | status,
    }


def read(wire: dict[str, Any]) -> Pod:
    found = pod(wire, "demo")
    assert found is not None
    return found


def condition(type_: str, status: str = "True", **fields: str) -> dict[str, str]:
    return {"type": type_, "status": status} | fields


def terminated(code: int, **fields: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T12:00:00Z"} | fields}


def test_a_job_that_runs() -> None:
    found = gang_job(wire_job(), "uid-1")
    assert found is not None
    assert (found.name, found.uid, found.attempt) == ("demo-2", "job-uid", 2)
    assert (found.complete, found.failed, found.deleting) == (False, False, False)


@pytest.mark.parametrize("type_", ["Failed", "FailureTarget"])
def test_a_job_that_failed(type_: str) -> None:
    found = gang_job(wire_job(conditions=[condition(type_, message="backoff limit")]), "uid-1")
    assert found is not None
    assert found.failed
    assert found.over
    assert found.words == "backoff limit"


def test_a_job_that_is_about_to_succeed_is_not_complete() -> None:
    found = gang_job(wire_job(conditions=[condition("SuccessCriteriaMet")]), "uid-1")
    assert found is not None
    assert not found.complete
    found = gang_job(wire_job(conditions=[condition("Complete")]), "uid-1")
    assert found is not None
    assert found.complete


def test_a_job_of_somebody_else_is_none_of_ours() -> None:
    assert gang_job(wire_job(), "another") is None
    unlabelled = wire_job()
    unlabelled["metadata"]["labels"] = {}
    assert gang_job(unlabelled, "uid-1") is None
    pretending = wire_job()
    pretending["metadata"]["name"] = "demo-02"
    assert gang_job(pretending, "uid-1") is None


def test_a_pod_that_only_wears_our_labels_is_none_of_ours() -> None:
    stranger = wire_pod()
    stranger["metadata"]["ownerReferences"] = []
    assert pod(stranger, "demo") is None
    stranger["metadata"]["ownerReferences"] = [
        {"kind": "Job", "name": "other", "uid": "x", "controller": True}
    ]
    assert pod(stranger, "demo") is None


def test_a_pod_that_was_orphaned_is_ours_as_long_as_it_runs() -> None:
    orphan = wire_pod(state={"running": {}}, phase="Running")
    orphan["metadata"]["ownerReferences"] = []
    orphan["metadata"]["labels"] |= {
        "batch.kubernetes.io/job-name": "demo-2",
        "batch.kubernetes.io/controller-uid": "job-uid",
    }
    assert read(orphan).job_uid == "job-uid"
    assert pod(orphan, "other") is None
    orphan["status"]["phase"] = "Succeeded"
    assert pod(orphan, "demo") is None


def test_the_preparation_has_a_job_and_pods_without_rank() -> None:
    job, its_pod = wire_job(), wire_pod(state={"running": {}})
    for wire in (job, its_pod):
        wire["metadata"]["labels"] = {"finetune.dev/job": "demo", "finetune.dev/attempt": "0"}
    job["metadata"]["name"] = its_pod["metadata"]["ownerReferences"][0]["name"] = "demo-prepare"
    found = gang_job(job, "uid-1")
    assert found is not None
    assert found.attempt == 0
    assert (read(its_pod).index, read(its_pod).running) == (None, True)
    its_pod["metadata"]["ownerReferences"][0]["name"] = "demo-0"
    assert pod(its_pod, "demo") is None


def test_whose_an_object_is() -> None:
    by = submitted()

    def owned(**owner: Any) -> Taken | None:
        wire = {
            "kind": "Service",
            "metadata": {"name": "demo-gang", "ownerReferences": [owner] if owner else []},
        }
        return taken(wire, by)

    assert owned(kind="FineTuneJob", name="demo", uid="uid-1", controller=True) is None
    foreign = Taken("Service", "demo-gang", fading=False)
    assert owned() == foreign
    assert owned(kind="FineTuneJob", name="demo", uid="uid-1") == foreign, "an owner that does not control"
    assert owned(kind="FineTuneJob", name="other", uid="uid-2", controller=True) == foreign
    assert owned(kind="Deployment", name="demo", uid="uid-2", controller=True) == foreign
    assert owned(kind="FineTuneJob", name="demo", uid="uid-0", controller=True) == Taken(
        "Service", "demo-gang", fading=True
    )


def test_a_pod_that_waits_says_why() -> None:
    unscheduled = condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes fit")
    assert read(wire_pod(conditions=[unscheduled])).waiting == ("Unschedulable", "0/3 nodes fit")
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    assert read(wire_pod(state=waiting)).waiting == ("ErrImagePull", "no such image")
    assert read(wire_pod()).waiting is None


def event(reason: str, **times: Any) -> dict[str, Any]:
    created = {"creationTimestamp": "2026-01-01T12:00:00Z"}
    return {"metadata": created, "reason": reason, "message": f"{reason} says why"} | times


def test_of_warnings_the_last_one_counts_whichever_way_its_time_is_told() -> None:
    assert newest_warning([]) is None
    mount = event("FailedMount", lastTimestamp="2026-01-01T12:00:30Z", eventTime=None)
    scheduling = event("FailedScheduling", lastTimestamp=None, eventTime="2026-01-01T12:00:20.123456Z")
    series = {"lastObservedTime": "2026-01-01T12:00:40.000000Z", "count": 3}
    attach = event("FailedAttachVolume", eventTime="2026-01-01T12:00:10.000000Z", series=series)
    assert newest_warning([mount, scheduling]) == ("FailedMount", "FailedMount says why")
    assert newest_warning([scheduling, event("Older")]) == ("FailedScheduling", "FailedScheduling says why")
    assert newest_warning([mount, attach]) == ("FailedAttachVolume", "FailedAttachVolume says why")


def test_a_pod_that_runs() -> None:
    found = read(wire_pod(state={"running": {}}, phase="Running"))
    assert found.running
    assert found.end is None
    assert (found.index, found.job_uid) == (0, "job-uid")


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_pod_that_ended_well(phase: str) -> None:
    text = report(attempt=2, stage=Stage.FINISHED).to_json()
    found = read(wire_pod(state=terminated(0, message=text), phase=phase))
    assert found.running
    assert found.end is None
    assert found.report is not None
    assert found.report.stage is Stage.FINISHED
    assert found.finished == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_pod_that_failed_speaks_for_itself() -> None:
    failure = Failure(exit_code=65, reason="InvalidData", message="no such file")
    failure = failure.model_copy(update={"log": "Traceback"})
    text = report(attempt=2, stage=Stage.FAILED, failure=failure).to_json()
    end = read(wire_pod(state=terminated(65, message=text), phase="Failed")).end
    assert end is not None
    assert (end.exit_code, end.message, end.node, end.log) == (65, "no such file", "node-a", "Traceback")
    assert end.reported


@pytest.mark.parametrize(("own", "reported"), [(137, True), (143, False), (None, False)])
def test_whether_the_exit_code_is_the_trainer_s_own_word(own: int | None, reported: bool) -> None:
    """It may have been killed before it said anything, or after it had said something else."""
    failure = Failure(exit_code=own, reason="Any", message="any") if own else None
    text = report(attempt=2, stage=Stage.FAILED, failure=failure).to_json()
    end = read(wire_pod(state=terminated(137, message=text), phase="Failed")).end
    assert end is not None
    assert end.reported == reported


def test_an_end_is_seen_before_the_pod_s_phase_says_so() -> None:
    assert read(wire_pod(state=terminated(1), phase="Running")).end is not None


def test_a_trainer_that_died_without_a_word_is_known_by_what_it_printed_last() -> None:
    printed = "loading\n" * 200 + "Segmentation fault\n"
    found = read(wire_pod(state=terminated(139, message=printed), phase="Failed"))
    assert found.report is None
    assert found.end is not None
    assert found.end.message == "Segmentation fault"
    assert found.end.log is not None
    assert found.end.log.endswith("loading\nSegmentation fault")
    assert MAX_LOG_LENGTH - len("loading\n") < len(found.end.log) <= MAX_LOG_LENGTH
    assert found.end.log.startswith("loading\n")


@pytest.mark.parametrize("reason", ["StartError", "ContainerStatusUnknown"])
def test_what_others_say_of_a_container_is_not_its_own_word(reason: str) -> None:
    end = read(
        wire_pod(state=terminated(128, reason=reason, message="exec: no such file"), phase="Failed")
    ).end
    assert end is not None
    assert (end.reason, end.words, end.message, end.log) == (reason, "exec: no such file", None, None)


def test_the_pod_s_word_goes_before_its_container_s() -> None:
    state = terminated(137, reason="Error")
    end = read(wire_pod(state=state, phase="Failed", reason="Evicted", message="low on memory")).end
    assert end is not None
    assert (end.reason, end.words) == ("Evicted", "low on memory")


def test_where_a_pod_is_since_when_and_whether_it_is_to_go() -> None:
    wire = wire_pod(state={"running": {"startedAt": "2026-01-01T12:00:10Z"}})
    wire["metadata"] |= {
        "creationTimestamp": "2026-01-01T12:00:00Z",
        "deletionTimestamp": "2026-01-01T12:01:00Z",
        "deletionGracePeriodSeconds": 40,
    }
    found = read(wire)
    assert (found.node, found.deleting) == ("node-a", True)
    assert (found.asked, found.due) == (
        datetime(2026, 1, 1, 12, 0, 20, tzinfo=UTC),
        datetime(2026, 1, 1, 12, 1, tzinfo=UTC),
    )
    assert (found.created, found.started) == (
        datetime(2026, 1, 1, 12, tzinfo=UTC),
        datetime(2026, 1, 1, 12, 0, 10, tzinfo=UTC),
    )
    wire["status"]["containerStatuses"][0]["state"] = terminated(137)
    end = read(wire).end
    assert end is not None
    assert end.asked_to_go


def test_the_memory_limit_is_told_apart() -> None:
    end = read(wire_pod(state=terminated(137, reason="OOMKilled"), phase="Failed")).end
    assert end is not None
    assert end.oom_killed


def test_a_pod_that_never_ran_tells_what_the_kubelet_said() -> None:
    end = read(wire_pod(phase="Failed", reason="OutOfcpu", message="Pod was rejected")).end
    assert end is not None
    assert (end.exit_code, end.reason, end.words) == (None, "OutOfcpu", "Pod was rejected")


def test_a_pod_that_the_cluster_takes_away_counts_as_ended_already() -> None:
    target = condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="Eviction API: evicting")
    leaving = wire_pod(state={"running": {}}, phase="Running", conditions=[target])
    assert read(leaving).end is None, "the condition alone may be taken back"
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    end = read(leaving).end
    assert end is not None
    assert end.disruption == "Eviction API: evicting"


def test_a_pod_that_is_deleted_by_hand_is_waited_for() -> None:
    leaving = wire_pod(state={"running": {}}, phase="Running")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert read(leaving).end is None


def test_a_finetunejob_with_an_invalid_spec_can_be_read() -> None:
    wire = manifest(method="magic")
    wire["metadata"] |= {"namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "1"}
    found = subject(wire)
    assert found.job is None
    [problem] = found.problems
    assert problem.startswith("spec.method: ")
    assert "magic" in problem
    assert found.status == FineTuneJobStatus()


def test_a_finetunejob_that_is_being_deleted() -> None:
    wire = manifest()
    wire["metadata"] |= {"namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "1"}
    assert not subject(wire).deleting
    wire["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert subject(wire).deleting


def test_a_status_reads_back_as_it_was_written() -> None:
    world = World()
    world.settle()
    assert FineTuneJobStatus.model_validate(world.status.to_wire()) == world.status


@pytest.mark.parametrize(("state", "named"), [(terminated(0), ("istio-proxy",)), ({"running": {}}, ())])
def test_containers_that_go_on_beside_a_trainer_that_has_ended(
    state: dict[str, Any], named: tuple[str, ...]
) -> None:
    containers = [
        {"name": "trainer", "state": state},
        {"name": "istio-proxy", "state": {"running": {}}},
        {"name": "logger", "state": terminated(0)},
    ]
    assert read(wire_pod(phase="Running", containerStatuses=containers)).beside == named
