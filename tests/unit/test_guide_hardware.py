"""Rules about memory, space and what holds for every job."""

from typing import Any

import pytest

import advice
from advice import HUGE, LARGE, SMALL, data, gpus, named, told
from finetune_api.facts import ModelFacts
from finetune_api.guide.case import Case
from finetune_api.guide.hardware import MAX_WARNING, memory_exceeded
from finetune_api.plan import plan
from finetune_api.units import GIB


def test_a_70b_sft_on_one_gpu_of_24_gib_is_told_what_fits() -> None:
    said = told("sft", named("llama-70b"), resources=gpus("24Gi"))["memory-exceeded"]
    assert "judging by the model's name" in said
    assert "more than 90% of 24 GiB" in said
    assert "Fits: " in said
    assert "GiB each)" in said


def test_what_fits_is_not_told_of() -> None:
    assert "memory-exceeded" not in told("lora", SMALL, resources=gpus("80Gi"))
    assert "memory-exceeded" not in told("sft", HUGE, resources=gpus(None))
    assert "memory-exceeded" not in told("sft", HUGE, resources={"gpusPerNode": 0, "gpuMemory": "1Gi"})
    assert "memory-exceeded" not in told("sft", None, resources=gpus("1Gi"))


def test_as_many_remedies_are_named_as_a_warning_has_room_for() -> None:
    job = advice.recipe(resources=gpus("24Gi"))
    remedies = [f"remedy {number} of no small length indeed" for number in range(20)]
    case = Case(job, plan(job, LARGE), LARGE, None, remedies)
    finding = memory_exceeded(case)
    assert finding is not None
    assert len(str(finding)) <= MAX_WARNING
    assert remedies[0] in finding.message
    assert remedies[1] in finding.message
    assert remedies[19] not in finding.message


def test_without_remedy_a_larger_gpu_or_a_smaller_model_is_needed() -> None:
    job = advice.recipe(resources=gpus("24Gi"))
    finding = memory_exceeded(Case(job, plan(job, LARGE), LARGE, None))
    assert finding is not None
    assert finding.message.endswith("take larger GPUs or a smaller model")


def test_memory_that_may_just_suffice_is_a_note() -> None:
    lengths: dict[str, Any] = {"hyperparameters": {"maxTokensPerGpu": 512, "maxSeqLen": 512}}
    need = plan(advice.recipe("lora", resources=gpus("80Gi"), **lengths), SMALL).memory_per_gpu
    assert need is not None
    between = int((need.estimate / 0.9 + need.high) / 2)
    assert need.estimate / 0.9 < between < need.high
    said = told("lora", SMALL, resources=gpus(str(between)), **lengths)
    assert "lower maxTokensPerGpu or maxSeqLen" in said["memory-short"]
    assert "memory-exceeded" not in said
    assert "memory-short" not in told("lora", SMALL, resources=gpus("80Gi"), **lengths)
    assert "memory-short" not in told("lora", SMALL, resources=gpus("2Gi"), **lengths)


def test_a_gpu_that_was_filled_on_purpose_is_not_short_of_memory() -> None:
    facts = data(5_000, lengths=(100, 300, 400, 512))
    planned = plan(advice.recipe("lora", resources=gpus("24Gi")), SMALL, facts)
    assert planned.memory_per_gpu is not None
    assert planned.memory_per_gpu.high > 24 * GIB
    assert "memory-short" not in told("lora", SMALL, facts, resources=gpus("24Gi"))


def test_memory_of_gpus_is_asked_for_where_there_are_any() -> None:
    assert "gpu-memory-unknown" in told(resources=gpus(None))
    assert "gpu-memory-unknown" not in told(resources=gpus("80Gi"))
    assert "gpu-memory-unknown" not in told(resources={"gpusPerNode": 0})


FULL: dict[str, Any] = {"checkpoints": {"fullStateAtEpoch": True}}


def test_a_full_state_of_an_8b_model_is_about_108_gb_per_epoch() -> None:
    said = told("sft", LARGE, **FULL)["full-state-cost"]
    assert "each epoch keeps 105 GiB: 15 GiB of model and 90 GiB of state, in all 209 GiB" in said


@pytest.mark.parametrize(
    ("facts", "speaks"), [(None, "14 bytes per weight"), (named("some-8b"), "judging by")]
)
def test_a_full_state_is_told_of_with_what_is_known(facts: ModelFacts | None, speaks: str) -> None:
    assert speaks in told("sft", facts, **FULL)["full-state-cost"]


def test_no_full_state_costs_nothing() -> None:
    assert "full-state-cost" not in told("sft", LARGE)


def test_every_job_is_told_to_evaluate_before() -> None:
    for method in ("sft", "osft", "lora"):
        assert "before training" in told(method)["baseline-evaluation"]


@pytest.mark.parametrize(
    ("name", "documents", "speaks"),
    [
        ("llama-8b-instruct", True, True),
        ("gemma-2-9b-it", True, True),
        ("gemma-2-9b-it", False, False),
        ("llama-8b", True, False),
        ("italian-8b", True, False),
    ],
)
def test_documents_loosen_what_an_instruction_tuned_model_learnt(
    name: str, documents: bool, speaks: bool
) -> None:
    hyperparameters = {"pretraining": {"blockSize": 2048}} if documents else {}
    said = told("sft", named(name), data(), hyperparameters=hyperparameters)
    assert ("instruction-tuned-model" in said) == speaks
