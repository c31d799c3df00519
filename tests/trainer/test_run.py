"""A whole run on one node and on two: the same result, and everything that it leaves behind."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.report import Stage
from trainer.conftest import BATCH, EPOCHS, HYPERPARAMETERS, OVERLONG, SAMPLES, STEPS, STEPS_PER_EPOCH, Run
from trainer.gangs import config, kept_report, losses, manifest, metrics, running


def weights(directory: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(directory)
    return dict(model.named_parameters())


@pytest.mark.parametrize("kept", [f"checkpoints/step-{STEPS_PER_EPOCH:08d}", "output"])
def test_two_nodes_train_the_same_result_as_one(whole: Run, two: Run, kept: str) -> None:
    assert losses(two.storage) == pytest.approx(losses(whole.storage), abs=1e-4)
    # AdamW would hide a gradient that is too large by a factor.
    norms = [[step.grad_norm for step in metrics(run.storage)] for run in (two, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    ours, theirs = weights(whole.storage / kept), weights(two.storage / kept)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        # Stored in bfloat16, whose neighbours differ by 2^-8.
        torch.testing.assert_close(weight, theirs[name], rtol=2**-7, atol=1e-4)


def test_it_learns(whole: Run) -> None:
    curve = losses(whole.storage)
    first, last = curve[0], curve[-1]
    assert first is not None
    assert last is not None
    assert last < first - 1
    assert whole.ends[0].report.initial_loss == curve[0]


@pytest.mark.parametrize("name", ["whole", "two"])
def test_every_step_takes_exactly_the_batch_and_every_epoch_all_samples(
    name: str, request: pytest.FixtureRequest
) -> None:
    seen = [step.samples_seen for step in metrics(request.getfixturevalue(name).storage)]
    last_of_epoch = SAMPLES - (STEPS_PER_EPOCH - 1) * BATCH
    expected = np.cumsum(([BATCH] * (STEPS_PER_EPOCH - 1) + [last_of_epoch]) * EPOCHS)
    assert seen == expected.tolist()


@pytest.mark.parametrize("name", ["whole", "two"])
def test_the_last_report_tells_the_whole_story(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    report = run.ends[-1].report
    assert report.stage is Stage.FINISHED
    assert report.dataset is not None
    assert (report.dataset.samples, report.dataset.dropped) == (SAMPLES, OVERLONG)
    assert report.dataset.longest <= 128
    assert report.plan is not None
    assert report.plan.total_steps == STEPS
    assert report.metrics is not None
    assert (report.metrics.step, report.metrics.epoch) == (STEPS, EPOCHS)
    assert [(c.kind, c.step, c.epoch) for c in report.checkpoints] == [
        ("weights", STEPS_PER_EPOCH, 1),
        ("weights", STEPS, 2),
    ]
    assert report.output is not None
    assert report.output.path == f"{name}/output"
    kept = [(found.path, found.bytes) for found in report.checkpoints]
    for path, size in (*kept, (report.output.path, report.output.bytes)):
        directory = run.storage.parent / path
        assert size == sum((directory / file).stat().st_size for file in manifest(directory)["files"])


def test_inputs_are_told_where_no_pod_came_before_that_looked_at_them(whole: Run) -> None:
    assert [one.name for one in whole.ends[-1].report.inputs] == ["model", "train"]


def test_two_nodes_report_as_one_and_the_second_says_no_more_than_how_it_ended(two: Run) -> None:
    first, second = (end.report for end in two.attempts[1])
    assert first.plan is not None
    assert first.plan.world_size == 2
    assert (second.stage, second.metrics, second.checkpoints) == (Stage.FAILED, None, [])


@pytest.mark.parametrize("name", ["whole", "two"])
def test_the_last_report_is_kept_on_the_volume(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    kept = kept_report(run.storage)
    # The curve has no room in a termination message, and needs none: it is on the volume, and was POSTed.
    assert kept.model_copy(update={"curve": None}) == run.ends[-1].report
    assert kept.curve is not None
    assert kept.metrics is not None
    assert kept.curve.steps[-1] == kept.metrics.step


def test_the_output_is_an_ordinary_model_in_the_base_model_s_type(whole: Run) -> None:
    output = whole.storage / "output"
    model = AutoModelForCausalLM.from_pretrained(output)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(output)
    question = [{"role": "user", "content": "say x"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    answer = model.generate(prompt, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > prompt.shape[1]


def test_what_every_node_printed_is_kept(two: Run) -> None:
    for attempt, nodes in enumerate(two.attempts, start=1):
        for node, end in enumerate(nodes):
            kept = two.storage / "logs" / f"attempt-{attempt}" / f"node-{node}.log"
            assert kept.read_text() == end.output


def test_prepared_data_opens_with_the_datasets_library(whole: Run) -> None:
    dataset = whole.ends[0].report.dataset
    assert dataset is not None
    found = datasets.load_from_disk(str(whole.storage.parent / str(dataset.path)))
    assert len(found) == SAMPLES
    assert {"input_ids", "labels", "sample"} <= set(found.column_names)
    # Numbers of the rows in the file, some of which were left out.
    assert found["sample"][-1] >= SAMPLES


def test_a_later_start_finds_the_result_and_does_no_work(whole: Run) -> None:
    with running(config(whole.storage.parent, name="whole", **HYPERPARAMETERS), attempt=2) as gang:
        [end] = gang.wait()
    assert end.exit_code == 0
    assert (end.report.stage, end.report.attempt) == (Stage.FINISHED, 2)
    assert end.report.output == whole.ends[0].report.output
    assert end.report.metrics == whole.ends[0].report.metrics
    assert end.output == ""
