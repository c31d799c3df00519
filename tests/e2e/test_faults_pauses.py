"""A job that is suspended, moved to fewer nodes and resumed, through an outage of its node, and cleaned up after."""

import json
from typing import Any

import pytest

from e2e.jobs import losses, poll, status
from e2e.namespace import Namespace
from e2e.node import LocalNode

JOB = "paused"
GANG = ("pods", "-l", f"finetune.dev/job={JOB},finetune.dev/attempt!=0")


def patch(namespace: Namespace, **spec: Any) -> None:
    body = json.dumps({"spec": spec})
    namespace.kubectl("patch", "finetunejob", JOB, "--type", "merge", "--patch", body)


@pytest.fixture(scope="module")
def suspended(undisturbed: Namespace, long_job: dict[str, Any]) -> dict[str, Any]:
    """The status of a job that was suspended while it trained."""
    undisturbed.apply(long_job | {"metadata": {"name": JOB}})
    undisturbed.follow(JOB, lambda found: found.get("progress", {}).get("step", 0) > 10)
    patch(undisturbed, suspend=True)
    return undisturbed.follow(JOB, lambda found: found["phase"] == "Suspended")


@pytest.fixture(scope="module")
def resumed(undisturbed: Namespace, suspended: dict[str, Any]) -> dict[str, Any]:
    """Its status once it trains again, on one node."""
    patch(undisturbed, suspend=False, resources={"nodes": 1})
    return undisturbed.follow(JOB, _trains_again)


def _trains_again(found: dict[str, Any]) -> bool:
    return (
        len(found["attempts"]) == 2
        and found["phase"] == "Running"
        and "resumedFromStep" in found["attempts"][1]
    )


def test_a_suspended_job_has_saved_its_state_and_holds_nothing(
    undisturbed: Namespace, suspended: dict[str, Any]
) -> None:
    assert {c["type"]: c["status"] for c in suspended["conditions"]}["Suspended"] == "True"
    [attempt] = suspended["attempts"]
    assert (attempt["reason"], attempt["counted"]) == ("Suspended", False)
    states = [each["step"] for each in suspended["checkpoints"] if each["kind"] == "resume"]
    assert max(states) == attempt["lastStep"] > 10
    assert not undisturbed.get(*GANG)["items"]


def test_it_goes_on_from_there_on_one_node_with_the_same_batches(
    suspended: dict[str, Any], resumed: dict[str, Any]
) -> None:
    assert resumed["attempts"][1]["resumedFromStep"] == suspended["attempts"][0]["lastStep"]
    assert (suspended["plan"]["worldSize"], resumed["plan"]["worldSize"]) == (2, 1)
    for field in ("effectiveBatchSize", "totalSteps", "learningRate"):
        assert resumed["plan"][field] == suspended["plan"][field]


def test_an_outage_of_the_container_runtime_stops_nobody(
    undisturbed: Namespace, resumed: dict[str, Any]
) -> None:
    node = LocalNode.find()
    if node is None:
        pytest.skip("the container runtime can only be stopped on the node of a local cluster")
    [pod] = undisturbed.get(*GANG)["items"]
    node.stop_container_runtime()
    try:
        undisturbed.kubectl("wait", "node", "--all", "--for=condition=Ready=False", "--timeout=180s")
    finally:
        node.repair()
    undisturbed.wait(JOB, "condition=Succeeded")
    assert [attempt["number"] for attempt in status(undisturbed, JOB)["attempts"]] == [1, 2]
    assert [each["metadata"]["uid"] for each in undisturbed.get(*GANG)["items"]] == [pod["metadata"]["uid"]]


def test_it_learns_what_a_job_without_a_pause_learns(undisturbed: Namespace, resumed: dict[str, Any]) -> None:
    for job in (JOB, "undisturbed"):
        undisturbed.wait(job, "condition=Succeeded")
    assert losses(undisturbed, JOB) == pytest.approx(losses(undisturbed, "undisturbed"), abs=1e-4)


def test_after_its_time_to_live_only_what_it_is_for_is_left(
    undisturbed: Namespace, resumed: dict[str, Any]
) -> None:
    undisturbed.wait(JOB, "condition=Succeeded")
    patch(undisturbed, ttlSecondsAfterFinished=1)
    kinds, selector = "jobs,pods,services,configmaps,networkpolicies", f"finetune.dev/job={JOB}"
    poll(lambda: not undisturbed.get(kinds, "--selector", selector)["items"], seconds=60)
    found = status(undisturbed, JOB)
    assert found["phase"] == "Succeeded"
    assert (undisturbed.claim("runs") / found["output"]["path"] / "config.json").exists()
