"""Faults that a job cannot get over, or only by being started again; side by side, for most of each is waiting."""

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import faults
from e2e.jobs import manifest, poll, save_inputs, status
from e2e.namespace import Namespace
from e2e.node import LocalNode
from tiny import conversation, poison

POISONED_ROW = 17


@pytest.fixture(scope="module")
def inputs(namespace: Namespace) -> Namespace:
    """The namespace with a tiny model and 120 samples."""
    save_inputs(namespace, samples=120)
    return namespace


@pytest.fixture(scope="module")
def unstartable(inputs: Namespace) -> Namespace:
    """Jobs of which something that they need is not there; they are given 20 seconds to start."""
    huge, tracked, lost = (manifest(name, nodes=1) for name in ("huge", "tracked", "lost"))
    huge["spec"]["resources"]["requests"]["cpu"] = "1000"
    tracked["spec"]["tracking"] = {"mlflow": {"secretRef": {"name": "nobody-made-it"}}}
    lost["spec"]["model"]["volume"]["claimName"] = "nobody-made-it"
    for job in (huge, tracked, lost):
        job["spec"]["failurePolicy"] = {"maxRestarts": 0, "startupDeadlineSeconds": 20}
        inputs.apply(job)
    return inputs


@pytest.fixture(scope="module")
def stuck(inputs: Namespace) -> Namespace:
    """A job of which one process was stopped in the middle: it is there, and does nothing any more."""
    job = manifest("stuck", nodes=2, effectiveBatchSize=20, numEpochs=25)
    job["spec"]["checkpoints"] = {"everySteps": 8}
    job["spec"]["failurePolicy"] = {"progressDeadlineSeconds": 30, "gracePeriodSeconds": 10}
    inputs.apply(job)
    inputs.follow("stuck", _has_a_state)
    faults.signal_training(inputs, faults.gang(inputs, "stuck")[1], signal.SIGSTOP)
    return inputs


@pytest.fixture(scope="module")
def small_disk(inputs: Namespace) -> Iterator[Path]:
    """The disk behind the claim `small`, as it is found here."""
    node = LocalNode.find()
    if node is None:
        pytest.skip("a small disk can only be put under a claim of a local cluster")
    with node.small_disk(inputs.claim("small"), "32m") as disk:
        yield disk


@pytest.fixture(scope="module")
def full(inputs: Namespace, small_disk: Path) -> Namespace:
    """A job whose disk somebody else fills up in the middle."""
    job = manifest("full", nodes=2, effectiveBatchSize=20, numEpochs=100)
    job["spec"]["storage"] = {"claimName": "small"}
    job["spec"]["checkpoints"] = {"everySteps": 8, "everyEpoch": False}
    inputs.apply(job)
    inputs.follow("full", _has_a_state)
    faults.fill(small_disk)
    return inputs


@pytest.fixture(scope="module")
def poisoned(inputs: Namespace) -> Namespace:
    """A job with a sample that its model has no number for."""
    models, data = inputs.claim("models"), inputs.claim("data")
    poison(models / "tiny", models / "poisoned", token="~")
    rows = (data / "train.jsonl").read_text().splitlines()[:40]
    rows[POISONED_ROW - 1] = json.dumps(conversation("say it", "~"))
    (data / "poisoned.jsonl").write_text("\n".join(rows) + "\n")
    job = manifest("poisoned", nodes=2, data="poisoned.jsonl")
    job["spec"]["model"]["volume"]["path"] = "poisoned"
    inputs.apply(job)
    return inputs


@pytest.fixture(scope="module", autouse=True)
def _side_by_side(unstartable: Namespace, stuck: Namespace, poisoned: Namespace) -> None:
    """All of them are under way before the first is waited for."""


def _has_a_state(found: dict[str, Any]) -> bool:
    return any(checkpoint["kind"] == "resume" for checkpoint in found.get("checkpoints", []))


def _failed(namespace: Namespace, job: str) -> dict[str, Any]:
    """The status of a job once it has failed, with its conditions by type."""
    namespace.wait(job, "condition=Stalled")
    found = status(namespace, job)
    assert found["phase"] == "Failed"
    return found | {"conditions": {condition["type"]: condition for condition in found["conditions"]}}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("huge", "0/1 nodes are available: 1 Insufficient cpu"),
        ("tracked", 'secret "nobody-made-it" not found'),
        ("lost", 'persistentvolumeclaim "nobody-made-it" not found'),
    ],
)
def test_what_cannot_start_fails_with_the_words_of_those_who_know_why(
    unstartable: Namespace, job: str, words: str
) -> None:
    ready = _failed(unstartable, job)["conditions"]["Ready"]
    assert ready["reason"] == "StartupDeadlineExceeded"
    assert words in ready["message"]
    assert "spec.failurePolicy.startupDeadlineSeconds" in ready["message"]
    # How it ended is written down before the pods are taken away.
    pods = ("pods", "-l", f"finetune.dev/job={job},finetune.dev/attempt!=0")
    poll(lambda: not unstartable.get(*pods)["items"], seconds=60)


def test_a_full_disk_fails_naming_the_claim_and_leaves_every_state_that_was_complete(
    full: Namespace, small_disk: Path
) -> None:
    found = _failed(full, "full")
    [attempt] = found["attempts"]
    assert (attempt["reason"], attempt["exitCode"]) == ("StorageFull", 74)
    assert "claim small" in found["conditions"]["Ready"]["message"]
    assert found["checkpoints"]
    for checkpoint in found["checkpoints"]:
        _expect_intact(small_disk / checkpoint["path"])


def test_a_loss_that_is_no_number_fails_with_its_step_and_sample_and_is_not_tried_again(
    poisoned: Namespace,
) -> None:
    found = _failed(poisoned, "poisoned")
    [attempt] = found["attempts"]
    assert (attempt["reason"], attempt["exitCode"], attempt["counted"]) == ("LossNotFinite", 79, False)
    message = found["conditions"]["Ready"]["message"]
    assert f"in step {attempt.get('lastStep', 0) + 1}," in message
    assert re.search(rf"rows [\d, ]*\b{POISONED_ROW}\b", message), message


def test_a_process_that_hangs_is_noticed_and_its_gang_started_again(stuck: Namespace) -> None:
    stuck.wait("stuck", "condition=Succeeded")
    first, second, *_ = status(stuck, "stuck")["attempts"]
    assert (first["reason"], first["counted"]) == ("Hung", True)
    assert "no sign of life for 30s" in first["message"]
    assert "spec.failurePolicy.progressDeadlineSeconds" in first["message"]
    assert 0 < second["resumedFromStep"] <= first["lastStep"]


def _expect_intact(directory: Path) -> None:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    assert files
    for name, expected in files.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == expected["sha256"]
