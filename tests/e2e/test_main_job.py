"""The main job, as a user does it: apply, watch, wait, use the model."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from e2e import faults
from e2e.jobs import example, losses, manifest, poll, save_inputs, status
from e2e.namespace import Namespace


@pytest.fixture(scope="module")
def inputs(namespace: Namespace) -> Namespace:
    """The namespace with a tiny model and 20 samples, one of which is longer than maxSeqLen."""
    save_inputs(namespace, samples=19, overlong=1)
    return namespace


@pytest.fixture(scope="module")
def finished(inputs: Namespace) -> Namespace:
    """Two jobs alike, on two nodes and on one, and a long one during which the operator was killed."""
    for job, nodes in (("two", 2), ("one", 1)):
        applied = example("sft.yaml", job)
        applied["spec"]["resources"]["nodes"] = nodes
        inputs.apply(applied)
    for job in ("two", "one"):
        inputs.wait(job, "condition=Succeeded")
    return inputs


def test_the_status_tells_the_whole_story(finished: Namespace) -> None:
    found = status(finished, "two")
    assert found["phase"] == "Succeeded"
    conditions = {condition["type"]: condition["status"] for condition in found["conditions"]}
    assert conditions["Accepted"] == conditions["Succeeded"] == conditions["Ready"] == "True"
    assert conditions.get("Stalled", "False") == conditions.get("Reconciling", "False") == "False"
    assert found["progress"]["summary"] == "8/8 (100%)"
    assert found["progress"]["loss"] < found["progress"]["initialLoss"]
    assert (found["plan"]["totalSteps"], found["plan"]["worldSize"]) == (8, 2)
    # From the model's own config.json and the measured data, in the place of what was planned without them.
    assert found["plan"]["trainableParameters"] == 35168
    assert found["plan"]["microBatchesPerStep"]["max"] >= found["plan"]["microBatchesPerStep"]["min"] >= 1
    memory = found["plan"]["memoryPerGpu"]
    assert memory["low"] <= memory["estimate"] == sum(memory["parts"].values()) <= memory["high"]
    assert found["progress"]["peakMemory"] <= memory["high"]
    assert [warning["rule"] for warning in found["plan"]["warnings"]] == ["learning-rate-high"]
    assert [a["number"] for a in found["attempts"]] == [1]
    kinds = [(checkpoint["kind"], checkpoint["epoch"]) for checkpoint in found["checkpoints"]]
    assert ("weights", 1) in kinds
    assert ("weights", 2) in kinds


def test_the_data_were_prepared_on_a_pod_of_their_own_before_the_gang_was_made(finished: Namespace) -> None:
    [preparing] = finished.get("pods", "-l", "finetune.dev/job=two,finetune.dev/attempt=0")["items"]
    assert preparing["status"]["phase"] == "Succeeded"
    [container] = preparing["status"]["containerStatuses"]
    gang = finished.get("pods", "-l", "finetune.dev/job=two,finetune.dev/attempt=1")["items"]
    assert len(gang) == 2
    assert all(
        pod["metadata"]["creationTimestamp"] >= container["state"]["terminated"]["finishedAt"] for pod in gang
    )
    configs = [
        json.loads(found["data"]["run.json"])
        for found in finished.get("configmaps", "-l", "finetune.dev/job=two")["items"]
    ]
    # That of the preparation, and that of the gang.
    digests = [config["prepared"] for config in configs if config["prepared"]]
    assert digests == [{"train": status(finished, "two")["dataset"]["digest"]}]
    prepared = {c["type"]: c for c in status(finished, "two")["conditions"]}["Prepared"]
    assert prepared["status"] == "True"
    assert prepared["message"].startswith("19 samples of ")
    assert "1 too long" in prepared["message"]


def test_both_jobs_share_one_prepared_data_set_that_others_can_open(finished: Namespace) -> None:
    import datasets

    places = {status(finished, job)["dataset"]["path"] for job in ("two", "one")}
    [place] = places
    found = datasets.load_from_disk(str(finished.claim("runs") / place))
    assert found.column_names == ["input_ids", "labels", "sample"]
    assert len(found) == status(finished, "two")["dataset"]["samples"]


def test_an_over_long_sample_is_counted_as_dropped(finished: Namespace) -> None:
    dataset = status(finished, "two")["dataset"]
    assert (dataset["samples"], dataset["dropped"]) == (19, 1)
    assert dataset["longest"] <= 128 < dataset["lengths"]["max"]
    assert dataset["lengths"]["p50"] <= dataset["lengths"]["p95"] <= dataset["lengths"]["p99"]


def test_two_nodes_train_the_same_result_as_one(finished: Namespace) -> None:
    assert losses(finished, "two") == pytest.approx(losses(finished, "one"), abs=1e-4)
    assert len(losses(finished, "two")) == 8


def test_the_model_is_an_ordinary_one(finished: Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = finished.claim("runs") / "two" / "output"
    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoModelForCausalLM.from_pretrained(output)
    tokens: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**tokens, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > tokens["input_ids"].shape[1]


def test_checkpoints_lie_where_the_status_says(finished: Namespace) -> None:
    found = status(finished, "two")
    root = finished.claim("runs")
    for checkpoint in found["checkpoints"]:
        files = [file for file in (root / checkpoint["path"]).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) >= checkpoint["bytes"] > 0
    assert any((root / found["output"]["path"]).glob("*.safetensors"))


def test_what_kubectl_shows_is_worth_reading(finished: Namespace) -> None:
    header, *rows = finished.kubectl("get", "ftj", "--output", "wide").splitlines()
    assert header.split()[:6] == ["NAME", "METHOD", "PHASE", "PROGRESS", "EPOCH", "LOSS"]
    [row] = [row for row in rows if row.startswith("two ")]
    assert "Succeeded" in row
    assert "8/8 (100%)" in row


def test_events_tell_of_checkpoints_and_the_end(finished: Namespace) -> None:
    events = finished.kubectl(
        "get", "events", "--output", "jsonpath={range .items[*]}{.reason} {end}"
    ).split()
    assert {"Prepared", "Started", "CheckpointSaved", "Succeeded"} <= set(events)


def test_a_wrong_data_path_fails_at_once_naming_it_and_leaves_no_pod(inputs: Namespace) -> None:
    inputs.apply(manifest("typo", nodes=2, data="no-such/typo.jsonl"))
    inputs.wait("typo", "condition=Stalled")
    found = status(inputs, "typo")
    assert found["phase"] == "Failed"
    [message] = [c["message"] for c in found["conditions"] if c["type"] == "Stalled"]
    assert "no-such/typo.jsonl" in message
    assert found["attempts"] == []
    expect_nothing_but_the_preparation(inputs, "typo")


def expect_nothing_but_the_preparation(namespace: Namespace, job: str) -> None:
    """One pod, which has ended, and no sign of a gang: the one Service or Job that there was would be there still."""
    found = namespace.get("jobs,services,networkpolicies,pods", "--selector", f"finetune.dev/job={job}")
    # The policy that keeps others out is the job's, and of no attempt.
    kinds = sorted(
        (item["kind"], item["metadata"]["labels"].get("finetune.dev/attempt", "")) for item in found["items"]
    )
    assert kinds == [("Job", "0"), ("NetworkPolicy", ""), ("Pod", "0")]
    [pod] = [item for item in found["items"] if item["kind"] == "Pod"]
    assert pod["status"]["phase"] == "Failed"


def faulty(namespace: Namespace, *rows: str) -> None:
    """Good rows and, from line 4 on, these."""
    good = (namespace.claim("data") / "train.jsonl").read_text().splitlines()[:12]
    (namespace.claim("data") / "faulty.jsonl").write_text("\n".join([*good[:3], *rows, *good[3:]]) + "\n")


NO_ROLE = '{"messages": [{"role": "user", "content": "hi"}, {"content": "hello"}]}'


def test_a_row_with_a_missing_role_fails_within_a_minute_and_no_training_pod_ever_exists(
    inputs: Namespace,
) -> None:
    faulty(inputs, NO_ROLE)
    started = time.monotonic()
    inputs.apply(manifest("faulty", nodes=2, data="faulty.jsonl"))
    inputs.wait("faulty", "condition=Stalled", seconds=60)
    assert time.monotonic() - started < 60
    found = status(inputs, "faulty")
    assert (found["phase"], found["attempts"]) == ("Failed", [])
    told = {c["type"]: c for c in found["conditions"]}
    assert (told["Prepared"]["status"], told["Prepared"]["reason"]) == ("False", "InvalidData")
    for type_ in ("Prepared", "Ready"):
        assert '"faulty.jsonl" on claim "data"' in told[type_]["message"]
        assert "line 4: messages[1].role: " in told[type_]["message"]
    assert "faulty.jsonl" in inputs.kubectl("get", "ftj", "faulty", "--output", "wide")
    expect_nothing_but_the_preparation(inputs, "faulty")
    assert "line 4" in inputs.kubectl("logs", "job/faulty-prepare")


def test_faulty_rows_are_left_out_and_counted_where_the_spec_says_so(inputs: Namespace) -> None:
    faulty(inputs, NO_ROLE, "no JSON at all")
    job = manifest("lenient", nodes=1, data="faulty.jsonl")
    job["spec"]["dataset"]["invalidRows"] = "Drop"
    inputs.apply(job)
    inputs.wait("lenient", "condition=Succeeded")
    found = status(inputs, "lenient")
    assert found["dataset"]["samples"] + found["dataset"]["dropped"] == 12
    assert found["dataset"]["invalid"] == 2
    [prepared] = [c["message"] for c in found["conditions"] if c["type"] == "Prepared"]
    assert "2 invalid" in prepared


def test_killing_the_operator_in_the_middle_of_training_loses_nothing(inputs: Namespace) -> None:
    inputs.apply(manifest("survivor", nodes=2, numEpochs=60))
    inputs.wait("survivor", "jsonpath={.status.phase}=Running")
    gang = ("pods", "-l", "finetune.dev/job=survivor,finetune.dev/attempt=1")
    pods = {pod["metadata"]["uid"] for pod in inputs.get(*gang)["items"]}
    faults.kill_operator()
    inputs.wait("survivor", "condition=Succeeded")
    found = status(inputs, "survivor")
    assert [attempt["number"] for attempt in found["attempts"]] == [1]
    assert found["progress"]["step"] == found["plan"]["totalSteps"] == 240
    assert {pod["metadata"]["uid"] for pod in inputs.get(*gang)["items"]} == pods
    # More checkpoints than a status lists: the newest are shown, and the result is not lost among them.
    assert found["checkpoints"][-1]["epoch"] == 60
    assert found["output"]["path"] == "survivor/output"


def test_deleting_the_job_removes_all_that_it_owns_and_keeps_the_model(finished: Namespace) -> None:
    finished.kubectl("delete", "finetunejob", "one", "--wait=true", "--timeout=60s")
    selector = ("--selector", "finetune.dev/job=one")
    kinds = "jobs,pods,services,configmaps,networkpolicies"
    poll(lambda: not finished.get(kinds, *selector)["items"], seconds=60)
    assert Path(finished.claim("runs") / "one" / "output" / "config.json").exists()
