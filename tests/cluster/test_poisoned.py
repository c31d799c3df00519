"""Objects that somebody wrote by hand: told in words, not believed, and in nobody's way."""

from typing import Any

import pytest

from cluster.kube import FINETUNEJOBS, JOBS, PODS, Namespace, RefusedError, Wire
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
