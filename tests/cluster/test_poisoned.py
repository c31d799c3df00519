"""Objects that somebody wrote by hand: told in words, not believed, and in nobody's way."""

from typing import Any

import pytest

from cluster.kube import (
    BARE_JOB,
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Namespace,
    RefusedError,
    Wire,
    eventually,
)
from cluster.operators import Operator
from world import INLINE

pytestmark = pytest.mark.usefixtures("operator")

MERGE_STATUS = "application/merge-patch+json"
TIME = "2026-01-01T12:00:00Z"
ATTEMPT = {"number": 1, "startTime": TIME}
# What passes the CRD's schema, and what no operator wrote.
STATUSES: dict[str, Wire] = {
    "a phase without anything": {"phase": "Running"},
    "attempts out of order": {"startTime": TIME, "attempts": [{**ATTEMPT, "number": 7}, ATTEMPT]},
    "an attempt that is a step": {"startTime": TIME, "attempts": [{**ATTEMPT, "number": -1}]},
    "a number without end": {"startTime": TIME, "attempts": [{**ATTEMPT, "number": 2**62}]},
    "budgets": {"startTime": TIME, "restarts": 2**62, "sinceCheckpoint": {"step": -1, "restarts": 2**62}},
    "far past": {"startTime": "0001-01-01T00:00:00Z"},
    "far future": {"startTime": "9999-12-31T23:59:59Z", "attempts": [ATTEMPT]},
    "times of no zone": {"startTime": "2026-01-01T12:00:00", "attempts": [ATTEMPT]},
    "a year that is none": {"startTime": "0000-01-01T00:00:00Z"},
    "an output of nothing": {
        "startTime": TIME,
        "output": {"path": "../../etc", "format": "model", "bytes": -1},
    },
}
CONTAINER = {"name": "trainer", "image": "registry.invalid/x:1"}
# What the API server wants of an object of a kind besides its name.
SPECS: dict[str, Wire] = {
    SERVICES: {"spec": {"ports": [{"port": 80}]}},
    NETWORK_POLICIES: {"spec": {"podSelector": {}}},
    CONFIGMAPS: {},
    JOBS: {"spec": BARE_JOB["spec"]},
}


def poison(namespace: Namespace, name: str, status: Wire) -> bool:
    """Write a status; says whether the API server took it."""
    path = namespace.path(FINETUNEJOBS, name) + "/status"
    try:
        namespace.kube.request("PATCH", path, {"status": status}, MERGE_STATUS)
    except RefusedError:
        return False
    return True


def test_no_status_stops_the_operator_or_holds_up_another_job(
    namespace: Namespace, operator: Operator
) -> None:
    taken = []
    for number, (what, status) in enumerate(STATUSES.items()):
        namespace.submit(f"bad-{number}", dataset=INLINE, suspend=True)
        namespace.in_phase("Suspended", f"bad-{number}")
        if poison(namespace, f"bad-{number}", status):
            taken.append(what)
    assert len(taken) >= 8, taken
    namespace.submit("good")
    namespace.in_phase("Preparing", "good")
    assert operator.get("/healthz")[0] == 200
    log = operator.log.read_text()
    assert "reconciling failed" not in log, log[log.index("reconciling failed") :][:3000]
    # Whatever their status says, they are suspended.
    made = [job["metadata"]["name"] for job in namespace.all(JOBS)]
    assert made == ["good-prepare"]


def told(namespace: Namespace, name: str) -> dict[str, tuple[str, str]]:
    """What kstatus reads, with the reasons."""
    found = namespace.get(FINETUNEJOBS, name)["status"]["conditions"]
    return {one["type"]: (one["status"], one["reason"]) for one in found if one["type"] in KSTATUS}


KSTATUS = ("Ready", "Reconciling", "Stalled")
OVER = [
    {"type": type_, "status": status, "reason": "Completed", "message": "done", "lastTransitionTime": TIME}
    for type_, status in (
        ("Succeeded", "True"),
        ("Ready", "True"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
    )
]
STUCK = {
    type_: (status, "StatusUnreadable")
    for type_, status in zip(KSTATUS, ("False", "False", "True"), strict=True)
}


@pytest.mark.parametrize("phase", ["Suspended", "Succeeded"])
def test_whoever_looks_sees_that_a_status_cannot_be_read_until_it_can(
    namespace: Namespace, phase: str
) -> None:
    namespace.submit("demo", dataset=INLINE, suspend=True)
    namespace.in_phase("Suspended", "demo")
    if phase == "Succeeded":
        assert poison(namespace, "demo", {"phase": phase, "startTime": TIME, "conditions": OVER})
    before = told(namespace, "demo")
    assert poison(namespace, "demo", {"completionTime": "0000-01-01T00:00:00Z"})
    eventually(lambda: told(namespace, "demo") == STUCK)
    assert poison(namespace, "demo", {"completionTime": None})
    eventually(lambda: told(namespace, "demo") == before)
    assert namespace.status("demo")["phase"] == phase


ABSURD = {
    "kueue.x-k8s.io/queue-name": "nobody-s",
    "finetune.dev/job": "other",
    "finetune.dev/attempt": "prepare",
}


def test_what_stands_in_the_metadata_of_a_job_decides_nothing(namespace: Namespace) -> None:
    namespace.submit("demo", suspend=True)
    namespace.in_phase("Suspended", "demo")
    annotations = {
        **ABSURD,
        "finetune.dev/status": '{"phase": "Succeeded"}',
        "kopf.zalando.org/x": "[" * 9999,
    }
    change = {"metadata": {"labels": ABSURD, "annotations": annotations}, "spec": {"suspend": False}}
    namespace.kube.request("PATCH", namespace.path(FINETUNEJOBS, "demo"), change, MERGE_STATUS)
    namespace.in_phase("Preparing", "demo")
    [made] = namespace.all(JOBS)
    assert made["metadata"]["name"] == "demo-prepare"
    assert made["metadata"]["labels"]["finetune.dev/job"] == "demo"
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]
    assert not made["spec"].get("suspend")


def test_labels_give_nobody_a_part_in_another_job(namespace: Namespace, operator: Operator) -> None:
    namespace.submit("demo")
    namespace.in_phase("Preparing")
    [real] = [job["metadata"] for job in namespace.all(JOBS)]
    container: dict[str, Any] = {"name": "trainer", "image": "registry.invalid/x:1"}
    for place, attempt in enumerate(("1", "NaN", "9" * 63, "prepare", "0")):
        labels = {
            "finetune.dev/job": "demo",
            "finetune.dev/attempt": attempt,
            "batch.kubernetes.io/job-name": "demo-1",
        }
        namespace.create(
            PODS,
            {
                "metadata": {"name": f"forged-{place}", "labels": labels},
                "spec": {"containers": [container]},
            },
        )
        namespace.end_pod(
            f"forged-{place}", 65, '{"attempt": 1, "sequence": 1e999, "stage": "' + "\x00é" * 900
        )
    namespace.submit("next")
    namespace.in_phase("Preparing", "next")
    assert "reconciling failed" not in operator.log.read_text()
    [still] = [job["metadata"] for job in namespace.all(JOBS) if job["metadata"]["name"] == real["name"]]
    assert still["uid"] == real["uid"]
    assert namespace.status()["phase"] == "Preparing"
    there = {pod["metadata"]["name"] for pod in namespace.all(PODS)}
    assert {f"forged-{place}" for place in range(5)} <= there, "what is not its own is not deleted"


def owned_by(wire: Wire, *, job: str, attempt: int, name: str) -> Wire:
    """Metadata of an object that somebody made, as if it were the operator's for this attempt of this job."""
    owner = {"apiVersion": wire["apiVersion"], "kind": wire["kind"], "controller": True}
    return {
        "name": name,
        "labels": {"finetune.dev/job": job, "finetune.dev/attempt": str(attempt)},
        "ownerReferences": [owner | {key: wire["metadata"][key] for key in ("name", "uid")}],
    }


def versions(namespace: Namespace, template: str, names: list[str]) -> dict[str, tuple[str, bool]]:
    """Which objects of these names there are, and whether they were asked to go."""
    there = {wire["metadata"]["name"]: wire["metadata"] for wire in namespace.all(template)}
    return {name: (there[name]["uid"], "deletionTimestamp" in there[name]) for name in names}


class TestForgedParts:
    """Whoever may make objects in a namespace may write into them whose they are."""

    def test_jobs_that_pretend_to_be_attempts_neither_count_nor_go(self, namespace: Namespace) -> None:
        namespace.submit(dataset=INLINE)
        pods = namespace.pods()
        namespace.in_phase("Starting")
        demo = namespace.job()
        nothing: Wire = {"restartPolicy": "Never", "containers": [CONTAINER]}
        # Without completions to come to, a Job is complete at once.
        spec = {"completions": 0, "parallelism": 0, "template": {"spec": nothing}}
        forged = {f"forged-{attempt}": attempt for attempt in (0, 1, 2, 7)}
        for name, attempt in forged.items():
            metadata = owned_by(demo, job="demo", attempt=attempt, name=name)
            namespace.create(JOBS, {"metadata": metadata, "spec": spec})
        eventually(lambda: all(is_complete(namespace.get(JOBS, name)) for name in forged))
        before = versions(namespace, JOBS, [*forged])
        # Its own gang counts, and nothing else.
        for pod in pods:
            namespace.end_pod(pod, 1)
        for pod in namespace.pods(attempt=2):
            namespace.end_pod(pod, 0)
        status = namespace.in_phase("Succeeded")
        ends = [(a["number"], a["reason"]) for a in status["attempts"]]
        assert ends == [(1, "Error"), (2, "Completed")]
        namespace.patch(FINETUNEJOBS, "demo", {"spec": {"ttlSecondsAfterFinished": 0}})
        eventually(lambda: "cleanupTime" in namespace.status())
        assert versions(namespace, JOBS, [*forged]) == before

    def test_pods_of_another_job_s_gang_are_not_its_own(self, namespace: Namespace) -> None:
        namespace.submit("other", dataset=INLINE)
        namespace.submit("demo", dataset=INLINE)
        for name in ("other", "demo"):
            namespace.pods(name)
            namespace.in_phase("Starting", name)
        theirs = {"apiVersion": "batch/v1", "kind": "Job"} | namespace.get(JOBS, "other-1")
        for place, code in enumerate((0, 65)):
            metadata = owned_by(theirs, job="demo", attempt=1, name=f"forged-{place}")
            namespace.create(PODS, {"metadata": metadata, "spec": {"containers": [CONTAINER]}})
            namespace.end_pod(f"forged-{place}", code)
        gang = [pod for pod in namespace.pods(count=4) if pod.startswith("demo-1-")]
        for pod in gang:
            namespace.end_pod(pod, 0)
        status = namespace.in_phase("Succeeded")
        assert [(a["number"], a["reason"]) for a in status["attempts"]] == [(1, "Completed")]

    def test_a_pod_that_pretends_to_be_left_over_is_waited_for_and_named(self, namespace: Namespace) -> None:
        namespace.submit(dataset=INLINE)
        pods = namespace.pods()
        labels = {
            "finetune.dev/job": "demo",
            "finetune.dev/attempt": "2",
            "batch.kubernetes.io/job-name": "demo-2",
            "batch.kubernetes.io/controller-uid": "no-such-uid",
        }
        body = {"metadata": {"name": "forged", "labels": labels}, "spec": {"containers": [CONTAINER]}}
        before = namespace.create(PODS, body)["metadata"]["uid"]
        for pod in pods:
            namespace.end_pod(pod, 1)
        # It may be what is left of an attempt, and write to the same volume: who knows that it is not removes it.
        eventually(lambda: namespace.condition("Ready")["reason"] == "WaitingForPods")
        assert "kubectl delete pod forged" in namespace.condition("Ready")["message"]
        assert namespace.get(PODS, "forged")["metadata"]["uid"] == before
        eventually(lambda: not namespace.all(JOBS))
        namespace.delete(PODS, "forged", gracePeriodSeconds=0)
        assert len(namespace.pods(attempt=2)) == 2

    @pytest.mark.parametrize("template", [SERVICES, NETWORK_POLICIES, CONFIGMAPS, JOBS])
    def test_a_name_that_another_job_s_object_has_is_told_and_left_alone(
        self, namespace: Namespace, template: str
    ) -> None:
        namespace.submit("other", suspend=True)
        namespace.submit(dataset=INLINE)
        namespace.pods()
        name = "demo-2"
        if template is not JOBS:
            [name] = [
                w["metadata"]["name"] for w in namespace.all(template, labelSelector="finetune.dev/job")
            ]
        suspend(namespace, True)
        namespace.in_phase("Suspended")
        if template is not JOBS:
            namespace.delete(template, name)
        metadata = owned_by(namespace.job("other"), job="demo", attempt=2, name=name)
        theirs = namespace.create(template, {"metadata": metadata} | SPECS[template])["metadata"]
        suspend(namespace, False)
        eventually(lambda: namespace.condition("Stalled")["reason"] == "NameConflict")
        message = namespace.condition("Stalled")["message"]
        assert f" {name}: exists and does not belong to this FineTuneJob, so it is left alone" in message
        assert namespace.all(PODS) == []
        found = namespace.get(template, name)["metadata"]
        assert (found["uid"], found["ownerReferences"]) == (theirs["uid"], theirs["ownerReferences"])
        namespace.delete(template, name, propagationPolicy="Background")
        namespace.pods(attempt=2)
        assert namespace.get(template, name)["metadata"]["uid"] != theirs["uid"]


def suspend(namespace: Namespace, truth: bool) -> None:
    """Say whether the job is to be suspended."""
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"suspend": truth}})


def is_complete(job: Wire) -> bool:
    """Whether its controller has said so."""
    told = job.get("status", {}).get("conditions", [])
    return any(c["type"] == "Complete" and c["status"] == "True" for c in told)
