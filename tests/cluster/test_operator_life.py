"""The life of a FineTuneJob on a real API server; the tests play the kubelet."""

import time

import pytest

from cluster.kube import (
    BARE_JOB,
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    SERVICES,
    Namespace,
    RefusedError,
    eventually,
)
from cluster.operators import Operator
from finetune_api.names import MERGING
from finetune_api.report import Failure, Preparation, Report, Stage
from world import ADAPTER, INLINE, MERGED, MERGES, OUTPUT, checkpoint, found, merged, merging, report

pytestmark = pytest.mark.usefixtures("operator")


def finished(attempt: int = 1) -> Report:
    saved = [checkpoint(18), checkpoint(36)]
    return report(attempt, 99, step=36, stage=Stage.FINISHED, output=OUTPUT, checkpoints=saved)


def failed(message: str) -> str:
    failure = Failure(exit_code=65, reason="InvalidData", message=message)
    return report(step=None, stage=Stage.FAILED, failure=failure).to_termination_message()


def names(namespace: Namespace) -> list[str]:
    """What there is of the demo job besides pods, without the digests of contents."""
    return sorted(
        entry.rsplit("-run-")[0] for entry in namespace.belongings() if not entry.startswith("pods/")
    )


def running(namespace: Namespace, operator: Operator, attempt: int = 1) -> list[str]:
    """Bring the demo job's gang to train."""
    pods = namespace.pods(attempt=attempt)
    namespace.run_pods(pods)
    token = namespace.token(pods[0])
    code, answer = operator.post(namespace.name, "demo", report(attempt), token=token)
    assert code == 200, answer
    namespace.in_phase("Running")
    return pods


def test_from_submission_to_success(namespace: Namespace, operator: Operator) -> None:
    before = operator.writes()
    namespace.submit()
    status = namespace.in_phase("Preparing")
    assert status["observedGeneration"] == 1
    assert names(namespace) == ["configmaps/demo", "jobs/demo-prepare", "networkpolicies/demo-gang"]

    [pod] = namespace.pods(count=1, attempt=0)
    namespace.run_pods([pod])
    namespace.end_pod(pod, 0, found().to_termination_message())
    namespace.pods()
    status = namespace.in_phase("Starting")
    assert (status["plan"]["totalSteps"], status["dataset"]["samples"]) == (36, 100)
    assert namespace.condition("Prepared")["status"] == "True"
    assert names(namespace) == [
        *["configmaps/demo"] * 2,
        *("jobs/demo-1", "jobs/demo-prepare", "networkpolicies/demo-gang", "services/demo-gang"),
    ]

    pods = running(namespace, operator)
    assert namespace.status()["progress"]["summary"] == "1/36 (2%)"

    namespace.end_pod(pods[1], 0)
    namespace.end_pod(pods[0], 0, finished().to_termination_message())
    status = namespace.in_phase("Succeeded")
    assert status["output"]["path"] == "demo/output"
    assert status["progress"]["summary"] == "36/36 (100%)"
    assert [c["step"] for c in status["checkpoints"]] == [18, 36]
    assert namespace.condition("Succeeded")["status"] == namespace.condition("Ready")["status"] == "True"
    expected = ["Accepted", "Prepared", "Started", "CheckpointSaved", "CheckpointSaved", "Succeeded"]
    assert eventually(lambda: namespace.events() == expected) or namespace.events() == expected
    assert len(namespace.all(PODS)) == 3, "completed pods stay for their logs"

    after = operator.writes()
    spent = {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)}
    created = {"patch configmaps": 2, "patch services": 1, "patch networkpolicies": 2, "patch jobs": 2}
    assert spent.pop("patch finetunejobs") <= 9
    assert spent == created | {"post events": 6, "post tokenreviews": 1}


def test_the_user_s_object_is_never_written(namespace: Namespace, operator: Operator) -> None:
    submitted = namespace.begin()
    running(namespace, operator)
    found = namespace.job()
    assert found["spec"] == submitted["spec"]
    for field in ("annotations", "finalizers", "labels", "generation"):
        assert found["metadata"].get(field) == submitted["metadata"].get(field)
    managers = {(entry["manager"], entry.get("subresource")) for entry in found["metadata"]["managedFields"]}
    assert ("finetune-operator", "status") in managers
    assert ("finetune-operator", None) not in managers


def test_pods_meet_the_restricted_standard_of_this_api_server(namespace: Namespace) -> None:
    namespace.kube.request(
        "PATCH",
        f"/api/v1/namespaces/{namespace.name}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        "application/merge-patch+json",
    )
    namespace.begin()
    assert len(namespace.pods()) == 2
    [prepared] = namespace.pods(count=1, attempt=0)
    assert namespace.get(PODS, prepared)


def test_what_the_kubelet_says_is_shown(namespace: Namespace) -> None:
    namespace.begin()
    pods = namespace.pods()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "trainer"'}}
    namespace.set_pod(pods[1], "Pending", waiting)
    eventually(lambda: namespace.condition("Progressing")["reason"] == "ImagePullBackOff")
    assert 'Back-off pulling image "trainer"' in namespace.condition("Progressing")["message"]


def test_a_permanent_failure_says_why_and_leaves_no_pod(namespace: Namespace, operator: Operator) -> None:
    namespace.begin()
    pods = running(namespace, operator)
    namespace.end_pod(pods[0], 65, failed("spec.dataset.train: no-such/typo.jsonl does not exist"))
    status = namespace.in_phase("Failed")
    assert "no-such/typo.jsonl" in namespace.condition("Stalled")["message"]
    assert (status["attempts"][0]["exitCode"], status["attempts"][0]["reason"]) == (65, "InvalidData")
    eventually(lambda: [job["metadata"]["name"] for job in namespace.all(JOBS)] == ["demo-prepare"])
    eventually(lambda: len(namespace.all(PODS)) == 1)
    assert eventually(lambda: "Failed" in namespace.events())
    time.sleep(1)
    assert namespace.status() == status


def test_a_failed_pod_takes_the_whole_gang_with_it(namespace: Namespace, operator: Operator) -> None:
    namespace.begin()
    first = running(namespace, operator)
    namespace.end_pod(first[1], 200)
    second = namespace.pods(attempt=2)
    assert not set(first) & {pod["metadata"]["name"] for pod in namespace.all(PODS)}
    status = namespace.in_phase("Starting")
    assert [(a["number"], a.get("reason"), a.get("counted")) for a in status["attempts"]] == [
        (1, "CollectiveTimeout", True),
        (2, None, None),
    ]
    assert status["restarts"] == 1
    running(namespace, operator, attempt=2)
    for pod in reversed(second):
        namespace.end_pod(pod, 0, finished(2).to_termination_message() if pod == second[0] else "")
    namespace.in_phase("Succeeded")


def test_the_next_gang_waits_until_every_pod_is_gone(namespace: Namespace, operator: Operator) -> None:
    """Pods on a node end when their kubelet says so, and not before."""
    node = f"node-{namespace.name}"
    namespace.kube.request("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    try:
        namespace.begin(failurePolicy={"gracePeriodSeconds": 600})
        for pod in namespace.pods():
            binding = {"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}}
            namespace.kube.request("POST", namespace.path(PODS, pod) + "/binding", binding)
        pods = running(namespace, operator)
        namespace.end_pod(pods[0], 143)
        namespace.in_phase("Restarting")
        eventually(
            lambda: all(
                "deletionTimestamp" in pod["metadata"]
                for pod in namespace.all(PODS, labelSelector="finetune.dev/attempt=1")
            ),
            seconds=60,
        )
        time.sleep(11)
        assert {job["metadata"]["name"] for job in namespace.all(JOBS)} == {"demo-prepare", "demo-1"}
        assert len(namespace.status()["attempts"]) == 1
        [left] = namespace.all(PODS, labelSelector="finetune.dev/attempt=1")
        assert left["metadata"]["name"] == pods[1], "the other one had ended before"
        namespace.end_pod(pods[1], 143)
        namespace.delete(PODS, pods[1], gracePeriodSeconds=0)
        namespace.pods(attempt=2)
        assert namespace.status()["restarts"] == 0, "what the cluster takes away is not charged for"
    finally:
        namespace.kube.request("DELETE", f"/api/v1/nodes/{node}")


def test_an_evicted_pod_costs_nothing(namespace: Namespace, operator: Operator) -> None:
    namespace.begin(failurePolicy={"maxRestarts": 0})
    pods = running(namespace, operator)
    target = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "drained",
    }
    terminated = {"exitCode": 143, "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    namespace.set_pod(pods[1], "Failed", {"terminated": terminated}, conditions=[target])
    namespace.pods(attempt=2)
    first, _ = namespace.status()["attempts"]
    assert (first["reason"], first["counted"]) == ("Disrupted", False)


def test_success_is_seen_by_an_operator_that_was_away_all_the_time(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.begin()
    pods = namespace.pods()
    operator.kill()
    try:
        namespace.run_pods(pods)
        namespace.end_pod(pods[1], 0)
        namespace.end_pod(pods[0], 0, finished().to_termination_message())
        eventually(lambda: namespace.get(JOBS, "demo-1")["status"].get("succeeded") == 2)
    finally:
        operator.start()
    status = namespace.in_phase("Succeeded")
    assert status["output"]["path"] == "demo/output"
    assert [c["step"] for c in status["checkpoints"]] == [18, 36]


def test_deletion_leaves_nothing(namespace: Namespace, operator: Operator) -> None:
    namespace.begin()
    running(namespace, operator)
    namespace.delete(FINETUNEJOBS, "demo")
    eventually(lambda: not namespace.belongings())
    with pytest.raises(RefusedError):
        namespace.job()


def test_a_job_made_again_under_the_same_name_starts_afresh(namespace: Namespace, operator: Operator) -> None:
    old = namespace.begin()
    running(namespace, operator)
    namespace.delete(FINETUNEJOBS, "demo")
    new = namespace.begin()
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    namespace.in_phase("Starting")
    assert len(namespace.status()["attempts"]) == 1
    assert "progress" not in namespace.status()

    def owned() -> bool:
        [owner] = namespace.get(JOBS, "demo-1")["metadata"]["ownerReferences"]
        return bool(owner["uid"] == new["metadata"]["uid"])

    eventually(owned)
    assert "NameConflict" not in namespace.events()


@pytest.mark.parametrize(
    ("template", "body"),
    [
        (SERVICES, {"metadata": {"name": "demo-gang"}, "spec": {"ports": [{"port": 80}]}}),
        (JOBS, BARE_JOB),
    ],
)
def test_somebody_else_s_object_is_left_alone(
    namespace: Namespace, template: str, body: dict[str, object]
) -> None:
    theirs = namespace.create(template, body)
    namespace.submit(dataset=INLINE)
    eventually(lambda: namespace.condition("Stalled")["status"] == "True")
    stalled = namespace.condition("Stalled")
    assert stalled["reason"] == "NameConflict"
    assert theirs["metadata"]["name"] in stalled["message"]
    assert not namespace.belongings()
    assert eventually(lambda: namespace.events() == ["Accepted", "NameConflict"])

    def untouched() -> object:
        found = namespace.get(template, theirs["metadata"]["name"])
        return {
            key: value for key, value in found["metadata"].items() if key in ("labels", "ownerReferences")
        }

    assert untouched() == {
        key: value for key, value in theirs["metadata"].items() if key in ("labels", "ownerReferences")
    }
    namespace.delete(template, theirs["metadata"]["name"], propagationPolicy="Background")
    eventually(lambda: namespace.condition("Stalled")["status"] == "False")
    namespace.in_phase("Starting")


def test_a_quota_is_told_in_the_api_server_s_words(namespace: Namespace) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    path = "/api/v1/namespaces/{namespace}/resourcequotas"
    namespace.create(path, quota)
    eventually(lambda: "hard" in namespace.get(path, "none")["status"])
    namespace.submit()
    eventually(lambda: namespace.condition("Stalled")["reason"] == "Refused")
    assert "exceeded quota: none" in namespace.condition("Stalled")["message"]
    namespace.delete(path, "none")
    namespace.in_phase("Preparing")


def test_an_idle_job_is_not_written_to(namespace: Namespace, operator: Operator) -> None:
    namespace.begin()
    pods = running(namespace, operator)
    everywhere = "/apis/finetune.dev/v1alpha1/finetunejobs"
    eventually(lambda: len(namespace.kube.request("GET", everywhere)["items"]) == 1)

    def settled() -> bool:
        # Events come last.
        found = operator.writes()
        time.sleep(2)
        return operator.writes() == found

    eventually(settled, seconds=60)
    before, version = operator.writes(), namespace.job()["metadata"]["resourceVersion"]
    # Things that are of no consequence happen to its pods and to the job itself.
    for number in range(5):
        namespace.patch(PODS, pods[0], {"metadata": {"annotations": {"touched": str(number)}}})
        time.sleep(0.4)
    assert operator.writes() == before
    assert namespace.job()["metadata"]["resourceVersion"] == version


def test_the_config_map_of_a_gang_holds_what_its_trainer_needs(namespace: Namespace) -> None:
    namespace.submit(dataset=INLINE)
    namespace.pods()
    [config] = namespace.all(CONFIGMAPS, labelSelector="finetune.dev/job=demo")
    assert set(config["data"]) == {"run.json", "ca.crt"}
    assert config["immutable"] is True
    assert config["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")


# The preparation


def refused(*rows: str) -> str:
    failure = Failure(exit_code=65, reason="InvalidData", message="2 rows have no role", details=list(rows))
    return report(0, 9, None, stage=Stage.FAILED, failure=failure).to_termination_message()


def prepares(namespace: Namespace) -> str:
    """The pod that prepares the demo job's data, running."""
    [pod] = namespace.pods(count=1, attempt=0)
    namespace.run_pods([pod])
    return pod


def test_the_pod_that_prepares_tells_how_far_it_is(namespace: Namespace, operator: Operator) -> None:
    namespace.submit()
    token = namespace.token(prepares(namespace))
    under_way = report(
        0, 1, None, stage=Stage.PREPARING, plan=None, preparation=Preparation(rows=41000, percent=34)
    )
    assert operator.post(namespace.name, "demo", under_way, token=token)[0] == 200
    expected = "the data are being prepared: 41,000 rows, 34 %"
    eventually(lambda: namespace.condition("Ready")["message"] == expected)
    assert namespace.condition("Prepared")["status"] == "Unknown"
    assert operator.post(namespace.name, "demo", report(1), token=token)[0] == 403, "it is no gang's pod"


def test_bad_rows_fail_the_job_at_once_and_nothing_of_a_gang_ever_exists(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.submit()
    pod = prepares(namespace)
    rows = ["line 3: messages[1].role: is missing", "line 7: is no JSON"]
    namespace.end_pod(pod, 65, refused(*rows))
    status = namespace.in_phase("Failed")
    assert status["attempts"] == []
    prepared = namespace.condition("Prepared")
    assert (prepared["status"], prepared["reason"]) == ("False", "InvalidData")
    assert prepared["message"].splitlines() == [f"{pod}: 2 rows have no role", *rows]
    assert eventually(lambda: namespace.events() == ["Accepted", "Failed"])
    time.sleep(1)
    assert names(namespace) == ["configmaps/demo", "jobs/demo-prepare", "networkpolicies/demo-gang"]
    assert [found["metadata"]["name"] for found in namespace.all(PODS)] == [pod], "its log is wanted now"
    assert namespace.status() == status
    conditions = {c["type"] for c in namespace.get(JOBS, "demo-prepare")["status"]["conditions"]}
    assert "Failed" in conditions


def test_the_job_controller_tries_again_what_may_go_well(namespace: Namespace) -> None:
    namespace.submit(failurePolicy={"maxRestarts": 1})
    first = prepares(namespace)
    namespace.end_pod(first, 1, "connection reset")
    eventually(lambda: namespace.condition("Ready")["reason"] == "Retrying")
    assert "connection reset" in namespace.condition("Ready")["message"]
    pods = eventually(lambda: set(namespace.pods(count=2, attempt=0)), seconds=60)
    [second] = pods - {first}
    # What ends it from outside is not charged.
    namespace.end_pod(second, 143)
    [third] = eventually(lambda: set(namespace.pods(count=3, attempt=0)) - pods, seconds=60)
    namespace.end_pod(third, 0, found().to_termination_message())
    assert namespace.in_phase("Starting")["dataset"]["samples"] == 100


def test_when_the_job_controller_gives_up_the_job_has_failed(namespace: Namespace) -> None:
    namespace.submit(failurePolicy={"maxRestarts": 0})
    namespace.end_pod(prepares(namespace), 1, "connection reset")
    namespace.in_phase("Failed")
    assert "connection reset" in namespace.condition("Prepared")["message"]
    assert "spec.failurePolicy.maxRestarts is 0" in namespace.condition("Prepared")["message"]


def test_too_little_memory_is_not_tried_again(namespace: Namespace) -> None:
    namespace.submit()
    namespace.end_pod(prepares(namespace), 137, reason="OOMKilled")
    namespace.in_phase("Failed")
    assert namespace.condition("Prepared")["reason"] == "OOMKilled"
    eventually(lambda: not namespace.all(PODS) and not namespace.all(JOBS))


def test_the_preparation_s_name_may_be_taken_too(namespace: Namespace) -> None:
    namespace.create(JOBS, BARE_JOB | {"metadata": {"name": "demo-prepare"}})
    namespace.submit()
    eventually(lambda: namespace.condition("Stalled")["reason"] == "NameConflict")
    assert "Job demo-prepare" in namespace.condition("Stalled")["message"]
    namespace.delete(JOBS, "demo-prepare", propagationPolicy="Background")
    namespace.in_phase("Preparing")


# The merging


def merges(namespace: Namespace, operator: Operator) -> str:
    """Have the demo job's gang end well; returns the pod that merges its adapter, once it runs."""
    namespace.submit(dataset=INLINE, **MERGES)
    pods = running(namespace, operator)
    last = report(1, 99, step=36, stage=Stage.FINISHED, output=ADAPTER)
    for pod in reversed(pods):
        namespace.end_pod(pod, 0, last.to_termination_message() if pod == pods[0] else "")
    namespace.in_phase("Merging")
    [pod] = namespace.pods(count=1, attempt=MERGING)
    namespace.run_pods([pod])
    return pod


def test_an_adapter_is_merged_after_the_gang_as_its_reports_say(
    namespace: Namespace, operator: Operator
) -> None:
    pod = merges(namespace, operator)
    status = namespace.status()
    assert (status["output"], status["attempts"][0]["reason"]) == (ADAPTER.to_wire(), "Completed")
    token = namespace.token(pod)
    assert operator.post(namespace.name, "demo", merging(), token=token)[0] == 200
    assert operator.post(namespace.name, "demo", report(1), token=token)[0] == 403
    eventually(lambda: namespace.condition("Ready")["reason"] == "Merging")
    namespace.end_pod(pod, 0, merged().to_termination_message())
    assert namespace.in_phase("Succeeded")["output"] == MERGED.to_wire()
    eventually(lambda: namespace.events()[-2:] == ["Merging", "Succeeded"])
    assert {job["metadata"]["name"] for job in namespace.all(JOBS)} == {"demo-1", "demo-merge"}


def test_the_job_controller_tells_what_to_try_again_of_a_merging_and_when_to_give_up(
    namespace: Namespace, operator: Operator
) -> None:
    first = merges(namespace, operator)
    namespace.end_pod(first, 1, "connection reset")
    eventually(lambda: namespace.condition("Ready")["reason"] == "Retrying")
    pods = eventually(lambda: set(namespace.pods(count=2, attempt=MERGING)), seconds=60)
    [second] = pods - {first}
    failure = Failure(exit_code=78, reason="InvalidConfiguration", message="the logits differ")
    namespace.end_pod(second, 78, merging(9, stage=Stage.FAILED, failure=failure).to_termination_message())
    status = namespace.in_phase("Failed")
    assert status["output"] == ADAPTER.to_wire()
    assert (
        f"{second}: the logits differ. The adapter is untouched" in namespace.condition("Stalled")["message"]
    )
    time.sleep(1)
    assert {job["metadata"]["name"] for job in namespace.all(JOBS)} == {"demo-1", "demo-merge"}
    assert namespace.status() == status


def test_the_merging_s_name_may_be_taken_too(namespace: Namespace, operator: Operator) -> None:
    namespace.create(JOBS, BARE_JOB | {"metadata": {"name": "demo-merge"}})
    namespace.submit(dataset=INLINE, **MERGES)
    for pod in running(namespace, operator):
        namespace.end_pod(pod, 0)
    eventually(lambda: namespace.condition("Stalled")["reason"] == "NameConflict")
    assert "Job demo-merge" in namespace.condition("Stalled")["message"]
    assert namespace.status()["phase"] == "Merging"
    namespace.delete(JOBS, "demo-merge", propagationPolicy="Background")
    assert namespace.pods(count=1, attempt=MERGING)
