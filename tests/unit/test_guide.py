"""The guide's recommendations, in its own numbers."""

from typing import Any

import pytest

from finetune_api import guide
from finetune_api.hyperparameters import Hyperparameters


def plan(stated: Hyperparameters | None = None, **facts: Any) -> Any:
    defaults = {
        "samples": 500,
        "longest": 300,
        "context_length": 2048,
        "world_size": 2,
        "trainable_parameters": 1000,
    }
    return guide.plan(stated or Hyperparameters(), **(defaults | facts))


@pytest.mark.parametrize(
    ("samples", "size"), [(1, 32), (999, 32), (1_000, 128), (10_000, 128), (10_001, 256), (10**6, 256)]
)
def test_batch_size_follows_the_size_of_the_data_set(samples: int, size: int) -> None:
    assert guide.effective_batch_size(samples) == size


def test_what_is_stated_is_used_exactly_and_not_explained() -> None:
    stated = Hyperparameters(
        learning_rate=1e-4, effective_batch_size=7, num_epochs=5, max_seq_len=100, max_tokens_per_gpu=200
    )
    result = plan(stated)
    assert (result.learning_rate, result.effective_batch_size, result.num_epochs) == (1e-4, 7, 5)
    assert (result.max_seq_len, result.max_tokens_per_gpu) == (100, 200)
    assert result.chosen == []


def test_what_is_open_is_chosen_with_a_reason() -> None:
    result = plan()
    assert {choice.field for choice in result.chosen} == {
        "learningRate",
        "effectiveBatchSize",
        "numEpochs",
        "maxSeqLen",
        "maxTokensPerGpu",
    }
    assert all(choice.reason for choice in result.chosen)
    assert (result.learning_rate, result.num_epochs) == (5e-6, 2)


def test_every_sample_is_kept_as_far_as_the_context_reaches() -> None:
    assert plan(longest=300).max_seq_len == 300
    assert plan(longest=5000).max_seq_len == 2048


def test_the_last_short_batch_counts_as_a_step() -> None:
    result = plan(Hyperparameters(effective_batch_size=32, num_epochs=3), samples=65)
    assert (result.steps_per_epoch, result.total_steps) == (3, 9)


def test_max_steps_ends_the_run_early_and_never_prolongs_it() -> None:
    stated = Hyperparameters(effective_batch_size=32, num_epochs=3, max_steps=5)
    assert plan(stated, samples=65).total_steps == 5
    assert plan(stated.model_copy(update={"max_steps": 100}), samples=65).total_steps == 9
