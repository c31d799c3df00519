"""What the steps of real runs say of themselves."""

import pytest

from finetune_api.report import Metrics
from trainer.conftest import BATCH, HYPERPARAMETERS, Run
from trainer.gangs import metrics


@pytest.fixture(params=["whole", "two"])
def steps(request: pytest.FixtureRequest) -> list[Metrics]:
    run: Run = request.getfixturevalue(request.param)
    return metrics(run.storage)


def test_every_step_is_measured(steps: list[Metrics]) -> None:
    for step in steps:
        assert step.learning_rate is not None
        assert step.loss is not None
        assert step.loss > 0
        assert step.samples is not None
        assert 0 < step.samples <= BATCH
        assert step.samples_seen == sum(earlier.samples or 0 for earlier in steps[: step.step])
        assert step.peak_memory is not None
        assert step.peak_memory > 50 * 2**20
        # There is no peak to compare with on the CPU.
        assert step.mfu is None


def test_micro_batches_are_full_and_have_no_padding(steps: list[Metrics]) -> None:
    for step in steps:
        assert step.micro_batches is not None
        assert step.tokens_per_second is not None
        assert step.seconds is not None
        # Saving stands between the steps.
        seconds = sum(step.seconds.model_dump(exclude={"checkpoint"}).values())
        tokens = step.tokens_per_second * seconds
        processes = 2 if step.seconds.communication else 1
        assert tokens <= step.micro_batches * processes * HYPERPARAMETERS["maxTokensPerGpu"] * 1.001
        # Tokens of the step, told by what it took: a sample has 40 to 128.
        assert 30 * (step.samples or 0) < tokens < 128 * (step.samples or 0)
        assert step.padding == 0


def test_one_process_does_not_communicate_and_two_do(whole: Run, two: Run) -> None:
    assert all(step.seconds and step.seconds.communication == 0 for step in metrics(whole.storage))
    together = metrics(two.storage)[:10]
    assert all(step.seconds and step.seconds.communication for step in together)


def test_every_attempt_adds_a_file_for_tensorboard(two: Run) -> None:
    files = sorted((two.storage / "tensorboard").iterdir())
    assert [file.suffix for file in files] == [".attempt-1", ".attempt-2", ".attempt-3"]
