"""A job that is judged, stops by itself, and has its data from S3 and its result there, while S3 fails in between."""

import hashlib
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.jobs import condition, events, manifest, metrics, save_inputs, status, wait_for_upload, weights
from e2e.namespace import PATIENCE, Namespace
from e2e.object_store import BUCKET, ObjectStore, secret, stored
from tiny import conversation

JOB, SECRET = "judged", "s3"
PUBLISHED = f"published/{JOB}/"
EPOCHS = 40


@dataclass(frozen=True)
class Story:
    """What was seen of the job."""

    data: bytes
    """The training data, as they lie in the store."""
    downloaded: int
    """Bytes that had come from the store when the upload was cut."""
    status_during_the_cut_upload: dict[str, Any]
    objects_during_the_cut_upload: set[str]
    status: dict[str, Any]
    """In the end."""


@pytest.fixture(scope="module")
def story(namespace: Namespace, store: ObjectStore) -> Story:
    """The job has come to its end. In the middle of its download, and of its upload, the store's plug was pulled."""
    save_inputs(namespace, samples=1)
    namespace.apply(secret(SECRET, store.credentials))
    data = rows(count=60, notes=400_000)
    namespace.apply(general())
    store.put("data/train.jsonl", data)
    before = store.plug.passed("down")

    store.plug.pull_after(len(data) // 2, "down")
    namespace.apply(judged_job())
    wait_for_cut(namespace, store)
    store.plug.put_back()
    # All that goes up before the upload is requests.
    store.plug.pull_after(50_000, "up")
    wait_for_cut(namespace, store)
    cut = status(namespace, JOB), set(store.objects(PUBLISHED))
    downloaded = store.plug.passed("down") - before
    store.plug.put_back()
    wait_for_upload(namespace, JOB, "True")
    return Story(data, downloaded, *cut, status(namespace, JOB))


def wait_for_cut(namespace: Namespace, store: ObjectStore) -> None:
    """Until a transfer was cut, and who does it has tried in vain to go on."""
    deadline = time.monotonic() + PATIENCE
    while store.plug.refused() < 2:
        failed = status(namespace, JOB).get("phase") == "Failed"
        if failed or time.monotonic() > deadline:
            pytest.fail(f"nothing is transferred\n{namespace.told_of(JOB)}")
        time.sleep(0.5)


def general() -> dict[str, Any]:
    """A few rows that are kept with the job."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "general"},
        "data": {"general.jsonl": rows(count=12, seed=1).decode()},
    }


def judged_job() -> dict[str, Any]:
    job = manifest(
        JOB, nodes=1, learningRate=1e-2, effectiveBatchSize=6, numEpochs=EPOCHS, lrScheduler="constant"
    )
    job["spec"] |= {
        "dataset": {"train": stored("data/train.jsonl", SECRET), "validationSplit": 0.2},
        "evaluation": {
            "sets": [
                {
                    "name": "general",
                    "configMap": {"name": "general", "key": "general.jsonl"},
                    "generate": {"maxNewTokens": 4, "maxSamples": 3},
                }
            ],
            "earlyStopping": {"patience": 2},
        },
        "checkpoints": {"deliverBest": True},
        "publish": stored(PUBLISHED, SECRET),
    }
    return job


def rows(*, count: int, notes: int = 0, seed: int = 0) -> bytes:
    """Conversations whose answers nobody can know, only learn by heart; with so many bytes that nobody reads."""
    draw = random.Random(seed)
    return b"".join(
        json.dumps(
            conversation(f"say {''.join(draw.choices('xyz', k=6))}", "".join(draw.choices("abcdef", k=24)))
            | {"notes": draw.randbytes(notes // 2).hex()}
        ).encode()
        + b"\n"
        for _ in range(count)
    )


def loss(evaluated: dict[str, Any], name: str) -> float:
    [score] = [score for score in evaluated["sets"] if score["name"] == name]
    return float(score["loss"])


def output(namespace: Namespace) -> Path:
    return namespace.claim("runs") / JOB / "output"


def test_it_stops_by_itself_before_its_last_epoch(namespace: Namespace, story: Story) -> None:
    found = story.status
    assert 0 < found["progress"]["step"] < found["plan"]["totalSteps"]
    assert found["progress"]["epoch"] < EPOCHS
    evaluation = found["evaluation"]
    # Twice in a row it was no better than the best.
    assert evaluation["latest"]["epoch"] == evaluation["best"]["epoch"] + 2
    assert "validation loss" in evaluation["stoppedEarly"]
    assert {"Baseline", "Improved", "NotImproved", "StoppedEarly"} <= set(events(namespace, JOB))


def test_the_status_tells_before_and_after(namespace: Namespace, story: Story) -> None:
    evaluation = story.status["evaluation"]
    before, after = evaluation["baseline"], evaluation["final"]
    assert (before["step"], after["step"]) == (0, evaluation["best"]["step"])
    assert loss(after, "validation") < loss(before, "validation")
    words = "; ".join(
        f"{words} {loss(before, name):.4g} → {loss(after, name):.4g}"
        for name, words in (("validation", "validation loss"), ("general", "general"))
    )
    assert words in condition(story.status, "Succeeded")["message"]
    for score in after["sets"]:
        assert score["change"] == pytest.approx(score["loss"] - loss(before, score["name"]), rel=1e-2)
    [general] = [score for score in after["sets"] if score["name"] == "general"]
    assert 0 <= general["answered"] <= 1

    split = {one["name"]: one["samples"] for one in story.status["evaluationData"]}
    assert split["general"] == 12
    assert split["validation"] > 0
    assert split["validation"] + story.status["dataset"]["samples"] == 60


def test_kubectl_shows_the_validation_loss(namespace: Namespace, story: Story) -> None:
    header, row = namespace.kubectl("get", "ftj", JOB).splitlines()
    assert "VALIDATION" in header.split()
    assert str(story.status["evaluation"]["validationLoss"]) in row.split()


def test_what_goes_in_is_on_record(story: Story) -> None:
    inputs = {one["name"]: one for one in story.status["inputs"]}
    assert set(inputs) == {"model", "train", "general"}
    assert inputs["train"]["origin"] == f'"s3://{BUCKET}/data/train.jsonl"'
    assert (inputs["train"]["bytes"], inputs["train"]["digest"]) == (len(story.data), sha256(story.data))
    assert inputs["general"]["digest"] == sha256(rows(count=12, seed=1))
    assert inputs["model"]["digest"].startswith("sampled-sha256:")


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_cut_download_goes_on_where_it_was(namespace: Namespace, story: Story) -> None:
    # Not once more from the beginning; what was asked for when it was cut comes twice.
    assert len(story.data) <= story.downloaded < 1.4 * len(story.data)
    [downloaded] = (namespace.claim("runs") / ".downloads").rglob("*.jsonl")
    assert downloaded.read_bytes() == story.data
    pods = namespace.get("pods", "-l", f"finetune.dev/job={JOB},finetune.dev/attempt=0")["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Succeeded"]


def test_a_cut_upload_costs_no_training_and_shows_nothing_that_is_not_whole(
    namespace: Namespace, store: ObjectStore, story: Story
) -> None:
    found = story.status_during_the_cut_upload
    assert (found["phase"], condition(found, "Succeeded")["status"]) == ("Succeeded", "True")
    assert condition(found, "Published")["status"] == "Unknown"
    # It goes last: who sees it sees all.
    assert "manifest.json" not in story.objects_during_the_cut_upload

    assert [attempt["reason"] for attempt in story.status["attempts"]] == ["Completed"]
    steps = [metric["step"] for metric in metrics(namespace, JOB)]
    assert steps == list(range(1, story.status["progress"]["step"] + 1))
    published = condition(story.status, "Published")
    assert (published["status"], published["message"]) == (
        "True",
        f"the result is in s3://{BUCKET}/{PUBLISHED.rstrip('/')}",
    )
    assert "Published" in events(namespace, JOB)


def test_what_is_published_is_the_best_model_with_its_card(
    namespace: Namespace, store: ObjectStore, story: Story, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    published = store.objects(PUBLISHED)
    for key, content in published.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(content)
    on_the_volume = {file.name: file.read_bytes() for file in output(namespace).iterdir()}
    named, written = (json.loads(files.pop("manifest.json"))["files"] for files in (published, on_the_volume))
    assert published == on_the_volume
    assert named == written
    assert named.keys() == published.keys()
    AutoTokenizer.from_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path)

    best = story.status["evaluation"]["best"]
    [kept] = [one for one in story.status["checkpoints"] if one.get("best")]
    assert kept["step"] == best["step"] < story.status["progress"]["step"]
    assert weights(output(namespace)) == weights(namespace.claim("runs") / kept["path"])

    card = published["README.md"].decode()
    for told in (JOB, story.status["inputs"][0]["digest"], sha256(story.data), "loss.png", "validation"):
        assert told in card
    assert published["loss.png"].startswith(b"\x89PNG")
    assert b"kind: FineTuneJob" in published["finetunejob.yaml"]


def test_nothing_tells_the_secret(namespace: Namespace, store: ObjectStore, story: Story) -> None:
    password = store.credentials["AWS_SECRET_ACCESS_KEY"]
    told = namespace.kubectl("get", "ftj,jobs,pods,configmaps,events", "--output", "yaml")
    logs = "".join(
        namespace.kubectl("logs", pod["metadata"]["name"])
        for pod in namespace.get("pods", "-l", f"finetune.dev/job={JOB}")["items"]
    )
    assert logs
    assert password not in told + logs
    for file in namespace.claim("runs").rglob("*"):
        assert not file.is_file() or password.encode() not in file.read_bytes(), file
    assert not any(password.encode() in content for content in store.objects(PUBLISHED).values())
    # Nor has any pod it but those that go out; what trains has no use for it.
    [training] = namespace.get("pods", "-l", f"finetune.dev/job={JOB},finetune.dev/attempt=1")["items"]
    assert not [volume for volume in training["spec"]["volumes"] if "secret" in volume]
