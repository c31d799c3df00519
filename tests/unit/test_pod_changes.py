"""Which events of a pod have its job looked at."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.report import Stage
from finetune_operator.observation.pod_changes import PodChanges, digest
from finetune_operator.observation.reading import pod
from world import report

JOB = {"kind": "Job", "name": "demo-1", "uid": "job-uid", "controller": True}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "demo-1-0-x",
        "namespace": "team",
        "uid": "pod-uid",
        "resourceVersion": "7",
        "generation": 1,
        "generateName": "demo-1-0-",
        "creationTimestamp": "2026-01-01T12:00:00Z",
        "deletionTimestamp": "2026-01-01T12:05:00Z",
        "deletionGracePeriodSeconds": 30,
        "annotations": {"example.com/address": "10.0.0.1"},
        "finalizers": ["batch.kubernetes.io/job-tracking"],
        "labels": {
            "finetune.dev/job": "demo",
            "finetune.dev/attempt": "1",
            "batch.kubernetes.io/job-completion-index": "0",
            "batch.kubernetes.io/controller-uid": "job-uid",
            "batch.kubernetes.io/job-name": "demo-1",
        },
        "ownerReferences": [JOB],
        "managedFields": [{"manager": "kubelet", "operation": "Update"}],
    },
    "spec": {"nodeName": "node-a", "schedulerName": "default", "containers": [{"name": "trainer"}]},
    "status": {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on memory.",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "message": "drained"}],
        "containerStatuses": [
            {
                "name": "trainer",
                "state": {
                    "terminated": {
                        "exitCode": 1,
                        "reason": "Error",
                        "startedAt": "2026-01-01T12:01:00Z",
                        "finishedAt": "2026-01-01T12:04:00Z",
                        "message": report(1, 3, 12, stage=Stage.TRAINING).to_json(),
                    }
                },
            }
        ],
    },
}


def leaves(wire: Any) -> Iterator[tuple[Any, Any]]:
    """Where every value of an object lies: what holds it, and under which key."""
    for key in list(wire) if isinstance(wire, dict) else range(len(wire)):
        if isinstance(wire[key], dict | list):
            yield from leaves(wire[key])
        yield wire, key


def variants(wire: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object without each of its parts in turn."""
    for number, _ in enumerate(leaves(wire)):
        other = copy.deepcopy(wire)
        held, key = list(leaves(other))[number]
        if key == "metadata" or (held is other["metadata"] and key in ("name", "namespace")):
            # By these pods are told apart.
            continue
        del held[key]
        yield other


def as_read(wire: dict[str, Any]) -> object:
    """What a look makes of it, or that it makes nothing of it."""
    try:
        return pod(wire, "demo")
    except (KeyError, TypeError, ValueError) as error:
        return repr(error)


def test_what_is_not_looked_at_is_nothing_that_a_look_would_read() -> None:
    skipped = [other for other in variants(POD) if digest(other) == digest(POD)]
    assert len(skipped) > 10
    for other in skipped:
        assert as_read(other) == as_read(POD)


def test_one_that_lives_shows_as_little_without_being_looked_at() -> None:
    living = copy.deepcopy(POD)
    del living["metadata"]["deletionTimestamp"]
    status = {"name": "trainer", "state": {"running": {"startedAt": "2026-01-01T12:01:00Z"}}}
    living["status"] = {"phase": "Running", "containerStatuses": [status]}
    for other in variants(living):
        assert as_read(other) == as_read(living) or digest(other) != digest(living)


@pytest.mark.parametrize("part", ["annotations", "managedFields", "resourceVersion", "finalizers"])
def test_what_others_write_down_on_a_pod_brings_nothing(part: str) -> None:
    changes, other = PodChanges(), copy.deepcopy(POD)
    other["metadata"][part] = "else"
    assert changes.matter(POD)
    assert not changes.matter(other)
    other["status"]["phase"] = "Succeeded"
    assert changes.matter(other)


def test_a_pod_that_went_is_news_when_it_is_there_again() -> None:
    changes = PodChanges()
    assert changes.matter(POD)
    changes.forget("team", "demo-1-0-x")
    changes.forget("team", "demo-1-0-x")
    assert changes.matter(POD)
