"""Rules about learning rate, batch size and epochs, row by row of the guide's tables."""

from typing import Any

import pytest

from advice import HUGE, LARGE, MIDDLE, SMALL, data, gpus, named, recipe, told
from finetune_api import guide
from finetune_api.facts import DataFacts, ModelFacts
from world import manifest


def hyper(**values: object) -> dict[str, Any]:
    return {"hyperparameters": values}


@pytest.mark.parametrize("method", ["sft", "osft"])
@pytest.mark.parametrize(
    ("model", "facts", "chosen"),
    [
        (SMALL, data(500), 5e-6),
        (MIDDLE, data(10_000), 5e-6),
        (LARGE, data(500), 2e-6),
        (SMALL, data(10_001), 2e-6),
        (LARGE, data(10_001), 1e-6),
        (None, None, 5e-6),
        (named("some-8b"), None, 2e-6),
    ],
)
def test_sft_and_osft_start_between_5e_6_and_1e_6_lower_for_larger_models_and_data(
    method: str, model: ModelFacts | None, facts: DataFacts | None, chosen: float
) -> None:
    assert guide.learning_rate(recipe(method), model, facts).value == chosen


def test_lora_starts_at_1e_5_whatever_the_size() -> None:
    assert guide.learning_rate(recipe("lora"), HUGE, data(10**6)).value == 1e-5


def test_a_reason_names_what_is_large_and_what_is_not_known() -> None:
    assert "8.03 billion weights" in guide.learning_rate(recipe(), LARGE, data()).reason
    assert "20,000 samples" in guide.learning_rate(recipe(), SMALL, data(20_000)).reason
    unknown = guide.learning_rate(recipe(), None, None).reason
    assert "the model's size" in unknown
    assert "the size of the data" in unknown
    assert "turns out" not in guide.learning_rate(recipe(), SMALL, data()).reason


@pytest.mark.parametrize("method", ["sft", "osft"])
@pytest.mark.parametrize("rate", [5e-6, 2e-6, 1e-6])
def test_rates_of_the_guide_s_range_are_not_warned_of(method: str, rate: float) -> None:
    said = told(method, SMALL, data(), **hyper(learningRate=rate))
    assert not {rule for rule in said if rule.startswith("learning-rate")}


@pytest.mark.parametrize(
    ("method", "rate", "rule"),
    [
        ("sft", 6e-6, "learning-rate-high"),
        ("osft", 1e-5, "learning-rate-high"),
        ("sft", 9e-7, "learning-rate-low"),
        ("osft", 1e-9, "learning-rate-low"),
        ("lora", 1.1e-4, "learning-rate-high"),
        ("lora", 9e-6, "learning-rate-low"),
        ("lora", 2e-5, "learning-rate-lora-raised"),
        ("lora", 1e-4, "learning-rate-lora-raised"),
    ],
)
def test_other_rates_are_told_of_once(method: str, rate: float, rule: str) -> None:
    said = told(method, SMALL, data(), **hyper(learningRate=rate))
    assert [found for found in said if found.startswith("learning-rate")] == [rule]


def test_1e_3_is_warned_of_with_what_is_wrong_and_what_to_set() -> None:
    assert told(**hyper(learningRate=1e-3))["learning-rate-high"] == (
        "1e-3 is 200 times 5e-6, the most to start sft with: training may diverge, or the model forget what it knew. "
        "Set 5e-6, or leave it out"
    )
    assert (
        "10 times 1e-4, the aggressive end" in told("lora", **hyper(learningRate=1e-3))["learning-rate-high"]
    )


def test_a_better_rate_is_given_for_the_job_s_size() -> None:
    said = told("sft", LARGE, **hyper(learningRate=1e-3))["learning-rate-high"]
    assert said.endswith("Set 2e-6 for 8.03 billion weights, or leave it out")
    assert "Set 1e-5, or" in told("lora", HUGE, **hyper(learningRate=1e-3))["learning-rate-high"]


def test_only_1e_4_is_the_aggressive_end_of_lora() -> None:
    assert "aggressive end" in told("lora", **hyper(learningRate=1e-4))["learning-rate-lora-raised"]
    assert "aggressive" not in told("lora", **hyper(learningRate=5e-5))["learning-rate-lora-raised"]
    assert "learning-rate-lora-raised" not in told("lora", **hyper(learningRate=1e-5))


def test_the_upper_end_is_high_for_large_models_and_data() -> None:
    said = told("sft", LARGE, data(20_000), **hyper(learningRate=5e-6))["learning-rate-for-size"]
    assert said.startswith("5e-6 is high for 20,000 samples and 8.03 billion weights")
    assert "1e-6" in said
    assert "learning-rate-for-size" not in told("sft", LARGE, data(20_000), **hyper(learningRate=1e-6))
    assert "learning-rate-for-size" not in told("sft", SMALL, data(), **hyper(learningRate=5e-6))
    guessed = told("sft", named("some-70b"), **hyper(learningRate=5e-6))["learning-rate-for-size"]
    assert "judging by the model's name" in guessed


@pytest.mark.parametrize(
    ("samples", "low", "high"),
    [
        (1, 32, 64),
        (999, 32, 64),
        (1_000, 128, 128),
        (10_000, 128, 128),
        (10_001, 256, None),
        (10**6, 256, None),
    ],
)
@pytest.mark.parametrize("method", ["sft", "osft"])
def test_batch_size_follows_the_size_of_the_data(
    method: str, samples: int, low: int, high: int | None
) -> None:
    facts = data(samples)
    chosen = guide.effective_batch_size(recipe(method), facts)
    assert chosen is not None
    assert chosen.value == min(low, samples)
    rule = "batch-size-for-data"
    assert rule not in told(method, data=facts, **hyper(effectiveBatchSize=chosen.value))
    if samples > high if high else samples > 300:
        assert rule not in told(method, data=facts, **hyper(effectiveBatchSize=high or 300))
        assert rule in told(method, data=facts, **hyper(effectiveBatchSize=low - 1))
    if high and samples > high:
        assert rule in told(method, data=facts, **hyper(effectiveBatchSize=high + 1))


def test_the_guide_s_batch_sizes_are_not_for_lora() -> None:
    assert "batch-size-for-data" not in told("lora", data=data(5_000), **hyper(effectiveBatchSize=8))


def test_a_batch_is_chosen_once_the_number_of_samples_is_known() -> None:
    assert guide.effective_batch_size(recipe(), None) is None


@pytest.mark.parametrize(
    ("samples", "gpus_per_node", "nodes", "size"),
    [(500, 8, 5, 40), (500, 8, 32, 64), (5_000, 8, 32, 128), (50_000, 8, 64, 512)],
)
def test_a_chosen_batch_has_a_sample_for_each_process_as_far_as_that_suits_the_data(
    samples: int, gpus_per_node: int, nodes: int, size: int
) -> None:
    job = recipe(resources=gpus(None, nodes=nodes, per_node=gpus_per_node))
    chosen = guide.effective_batch_size(job, data(samples))
    assert chosen is not None
    assert chosen.value == size


def test_a_batch_over_the_data_is_warned_of() -> None:
    said = told(data=data(50), **hyper(effectiveBatchSize=64))
    assert said["batch-size-over-data"].startswith("64 is more than the 50 samples that there are")
    assert "Set 32 or less" in said["batch-size-over-data"]
    assert "batch-size-for-data" not in said
    assert "batch-size-over-data" not in told(data=data(64), **hyper(effectiveBatchSize=64))
    assert "batch-size-over-data" not in told(data=data(5))


def test_a_batch_under_the_number_of_processes_is_warned_of_before_the_data_are_known() -> None:
    sixteen = gpus(None, nodes=2, per_node=8)
    said = told(resources=sixteen, **hyper(effectiveBatchSize=10))["batch-size-under-processes"]
    assert "leave 6 of 16 processes without work: set 16 or more" in said
    assert "batch-size-under-processes" not in told(resources=sixteen, **hyper(effectiveBatchSize=16))


def test_where_the_data_do_not_suffice_for_all_processes_fewer_are_the_remedy() -> None:
    few = told(data=data(5), resources=gpus(None, per_node=8))["batch-size-under-processes"]
    assert few.endswith("leave 3 of 8 processes without work: ask for fewer nodes and GPUs")
    many = gpus(None, nodes=32, per_node=8)
    for samples in (100, 500):
        said = told(data=data(samples), resources=many)["batch-size-under-processes"]
        assert said.endswith("of 256 processes without work: ask for fewer nodes and GPUs")
    said = told(data=data(50_000), resources=many, **hyper(effectiveBatchSize=128))[
        "batch-size-under-processes"
    ]
    assert "set 256 or more" in said


def test_many_micro_batches_per_step_are_slow_on_small_hardware() -> None:
    rule = "batch-size-on-small-hardware"
    said = told(data=data(5_000, micro_batches=64), **hyper(effectiveBatchSize=128))
    assert "128 samples takes 64 micro-batches" in said[rule]
    assert rule not in told(data=data(5_000, micro_batches=15), **hyper(effectiveBatchSize=128))
    # Bounds alone tell nothing: all samples may be short.
    assert rule not in told(**hyper(effectiveBatchSize=4096, maxSeqLen=512))


@pytest.mark.parametrize("method", ["sft", "osft"])
def test_two_or_three_epochs_are_where_to_start(method: str) -> None:
    assert guide.num_epochs(recipe(method)).value in (2, 3)
    for epochs, rules in {
        1: {"epochs-few"},
        2: set(),
        3: set(),
        4: {"epochs-many"},
        50: {"epochs-many"},
    }.items():
        said = told(method, **hyper(numEpochs=epochs))
        assert {rule for rule in said if rule.startswith("epochs")} == rules


def test_many_epochs_are_worse_on_few_samples() -> None:
    assert "the more so with 300 samples" in told(data=data(300), **hyper(numEpochs=10))["epochs-many"]
    assert "more so" not in told(data=data(3_000), **hyper(numEpochs=10))["epochs-many"]


def test_many_epochs_are_no_more_than_a_bound_where_training_stops_by_itself() -> None:
    dataset = {"train": manifest()["spec"]["dataset"]["train"], "validationSplit": 0.1}
    judged = hyper(numEpochs=10) | {"dataset": dataset}
    assert "epochs-many" in told(**judged)
    assert "epochs-many" not in told(**judged, evaluation={"earlyStopping": {}})


def test_the_guide_s_epochs_are_not_for_lora() -> None:
    assert not {rule for rule in told("lora", **hyper(numEpochs=10)) if rule.startswith("epochs")}
