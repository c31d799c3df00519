"""The examples of lora on pods: an adapter trained on two, one of which is killed, and one in 4 bits that is merged."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from e2e import faults
from e2e.jobs import example, losses, save_inputs, status, weights
from e2e.namespace import Namespace
from tiny import save_tiny_model

# Of two nodes each; of one node each, and merged in the end.
JOB, SISTER = "adapter", "adapter-sister"
MERGED, UNMERGED = "merged", "unmerged"


@pytest.fixture(scope="module")
def jobs(namespace: Namespace) -> Namespace:
    """All jobs are under way, and what happens to two of them has happened.

    A pod of JOB was killed. The model that UNMERGED trains beside was replaced by another one, for those to come.
    """
    save_inputs(namespace, samples=120)
    models = namespace.claim("models")
    save_tiny_model(models / "replaced")
    save_tiny_model(models / "other", seed=1)

    for name in (JOB, SISTER):
        namespace.apply(_example("lora-cpu.yaml", name, numEpochs=30))
    namespace.follow(JOB, _has_a_state)
    faults.signal_training(namespace, faults.gang(namespace, JOB)[1], signal.SIGKILL)

    # What 4 bits stand for is computed anew in every micro-batch: few of them.
    merged, unmerged = (
        _example("qlora-cpu.yaml", name, numEpochs=60, maxTokensPerGpu=512) for name in (MERGED, UNMERGED)
    )
    namespace.apply(merged)
    unmerged["spec"]["model"]["volume"]["path"] = "replaced"
    namespace.apply(unmerged)
    namespace.follow(UNMERGED, _has_loaded_its_model)
    (models / "other" / "model.safetensors").replace(models / "replaced" / "model.safetensors")
    return namespace


@pytest.fixture(scope="module")
def finished(jobs: Namespace) -> Namespace:
    """The jobs of two nodes have come to their ends."""
    for name in (JOB, SISTER):
        jobs.wait(name, "condition=Succeeded")
    return jobs


@pytest.fixture(scope="module")
def merged(jobs: Namespace) -> Namespace:
    """The jobs whose adapters are to be merged have come to their ends."""
    jobs.wait(MERGED, "condition=Succeeded")
    jobs.wait(UNMERGED, "condition=Stalled")
    return jobs


def _example(file: str, name: str, **hyperparameters: Any) -> dict[str, Any]:
    """One of the examples, long enough that it is not over before something has happened to it."""
    job = example(file, name, learningRate=1e-2, effectiveBatchSize=20, **hyperparameters)
    job["spec"]["checkpoints"] = {"everySteps": 8, "everyEpoch": False}
    return job


def _has_a_state(found: dict[str, Any]) -> bool:
    return any(checkpoint["kind"] == "resume" for checkpoint in found.get("checkpoints", []))


def _has_loaded_its_model(found: dict[str, Any]) -> bool:
    return bool(found.get("progress", {}).get("step"))


def _output(namespace: Namespace, name: str) -> Path:
    return namespace.claim("runs") / str(status(namespace, name)["output"]["path"])


def _loaded(directory: Path) -> Any:
    """A model as people load it, to compute with in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def _with_adapter(model: Any, directory: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(directory))


def _answers(model: Any, tokens_of: Path) -> list[list[int]]:
    """What a model says to questions like those of its data, always the likeliest; `tokens_of` has its tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens_of)
    found = []
    for length in (0, 3, 7):
        question: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": "say " + "x" * length}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        answer = model.generate(**question, max_new_tokens=12, do_sample=False)[0]
        found.append(answer[question["input_ids"].shape[1] :].tolist())
    return found


def test_the_adapter_is_that_of_the_job_that_nothing_happened_to(finished: Namespace) -> None:
    killed, completed = status(finished, JOB)["attempts"]
    assert (killed["reason"], completed["reason"]) == ("Killed", "Completed")
    assert 0 < completed["resumedFromStep"] <= killed["lastStep"]
    assert losses(finished, JOB) == losses(finished, SISTER)
    assert weights(_output(finished, JOB)) == weights(_output(finished, SISTER))


@pytest.mark.parametrize(("name", "processes"), [(SISTER, 2), (MERGED, 1)])
def test_the_plan_is_what_was_measured(
    finished: Namespace, merged: Namespace, name: str, processes: int
) -> None:
    found = status(finished, name)
    plan, progress = found["plan"], found["progress"]
    assert (plan["worldSize"], progress["step"]) == (processes, plan["totalSteps"])
    file = _output(finished, name) / "adapter_model.safetensors"
    assert plan["trainableParameters"] == sum(weight.size for weight in load_file(file).values())
    # Names come in addition.
    assert plan["checkpointBytes"] <= file.stat().st_size <= plan["checkpointBytes"] + 8192
    memory = plan["memoryPerGpu"]
    assert memory["low"] <= progress["peakMemory"] <= memory["high"]


def test_the_loss_falls(finished: Namespace) -> None:
    progress = status(finished, JOB)["progress"]
    # Most of what is wrong with the tiny model is in its head, which is frozen.
    assert progress["loss"] < 0.8 * progress["initialLoss"]


def test_the_result_is_an_adapter_that_peft_loads(finished: Namespace) -> None:
    found = status(finished, JOB)["output"]
    assert (found["format"], "merged" in found) == ("adapter", False)
    base, output = finished.claim("models") / "tiny", _output(finished, JOB)
    assert not list(output.glob("model*"))
    assert _answers(_with_adapter(_loaded(base), output), output) != _answers(_loaded(base), base)


def test_an_adapter_is_merged_on_a_pod_of_its_own_after_the_gang(merged: Namespace) -> None:
    found = status(merged, MERGED)
    [pod] = merged.get("pods", "-l", f"finetune.dev/job={MERGED},finetune.dev/attempt=merge")["items"]
    assert pod["metadata"]["labels"]["job-name"] == f"{MERGED}-merge"
    assert pod["metadata"]["creationTimestamp"] >= found["attempts"][-1]["endTime"]
    claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["spec"]["volumes"]}
    assert claims - {None} == {"models", "runs"}
    [container] = pod["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == str(found["plan"]["mergeMemory"])
    assert _events(merged, MERGED) >= {"Prepared", "Started", "Merging", "Succeeded"}
    [told] = [c["message"] for c in found["conditions"] if c["type"] == "Succeeded"]
    assert (
        told == f"the merged model is in {MERGED}/merged, and the adapter in {MERGED}/output, on claim runs"
    )


def test_the_merged_model_answers_as_the_model_with_the_adapter_does(merged: Namespace) -> None:
    output = status(merged, MERGED)["output"]
    base, place = merged.claim("models") / "tiny", merged.claim("runs") / output["merged"]["path"]
    assert sum(file.stat().st_size for file in place.iterdir()) >= output["merged"]["bytes"] > 0
    assert json.loads((place / "config.json").read_text())["dtype"] == "bfloat16"
    answers = _answers(_loaded(place), place)
    assert answers == _answers(_with_adapter(_loaded(base), _output(merged, MERGED)), place)
    assert answers != _answers(_loaded(base), base)


def test_a_merging_that_fails_costs_neither_the_adapter_nor_a_word(merged: Namespace) -> None:
    found = status(merged, UNMERGED)
    assert (found["phase"], [attempt["reason"] for attempt in found["attempts"]]) == ("Failed", ["Completed"])
    [told] = [c["message"] for c in found["conditions"] if c["type"] == "Stalled"]
    assert "the base model changed since the adapter was trained beside it: restore the model" in told
    assert f"The adapter is untouched, in {UNMERGED}/output on claim runs" in told
    assert "finetune-trainer merge --model DIR --adapter DIR --output DIR" in told
    assert "merged" not in found["output"]
    assert not list((merged.claim("runs") / UNMERGED).glob("*merged*"))
    assert weights(_output(merged, UNMERGED)) == weights(_output(merged, MERGED))


def _events(namespace: Namespace, name: str) -> set[str]:
    about = ("--field-selector", f"involvedObject.name={name}")
    return {event["reason"] for event in namespace.get("events", *about)["items"]}
