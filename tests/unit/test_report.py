"""The Report on its three ways."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from finetune_api.report import MAX_REPORT_BYTES, MAX_TERMINATION_BYTES, Failure, Metrics, Report, Stage
from finetune_api.status import MAX_LISTED_CHECKPOINTS, Checkpoint, Choice, DatasetStatus, Output, Plan
from finetune_operator import validation

CHECKPOINT = Checkpoint(
    name="step-00000001",
    step=1,
    epoch=1.0,
    kind="weights",
    path="p" * 200,
    bytes=10**12,
    time=datetime.now(UTC),
)
PLAN = Plan(
    learning_rate=1e-5,
    effective_batch_size=32,
    num_epochs=2,
    max_seq_len=512,
    max_tokens_per_gpu=512,
    world_size=16,
    steps_per_epoch=10,
    total_steps=20,
    trainable_parameters=10**9,
    chosen=[Choice(field=f"f{n}", value=n, reason="r" * 500) for n in range(5)],
)
FULL = Report(
    attempt=3,
    sequence=10**6,
    stage=Stage.FAILED,
    metrics=Metrics(step=7, loss=1.5),
    plan=PLAN,
    dataset=DatasetStatus(samples=1, dropped=1, tokens=1, loss_tokens=1, longest=1, digest="d" * 64),
    checkpoints=[
        CHECKPOINT.model_copy(update={"name": f"step-{n}", "step": n}) for n in range(MAX_LISTED_CHECKPOINTS)
    ],
    output=Output(path="output", format="model", bytes=1),
    failure=Failure(exit_code=79, reason="LossNotFinite", message="m" * 1000),
)


def test_the_fullest_report_fits_into_a_request() -> None:
    assert len(FULL.to_json().encode()) <= MAX_REPORT_BYTES


def test_a_termination_message_fits_and_keeps_what_matters() -> None:
    text = FULL.to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    kept = Report.model_validate_json(text)
    assert kept.failure == FULL.failure
    assert kept.output == FULL.output
    assert kept.metrics == FULL.metrics
    assert kept.checkpoints[-1] == FULL.checkpoints[-1]


def test_a_termination_message_fits_however_much_there_is_to_tell() -> None:
    for length in range(0, 1000, 7):
        for count in (0, 1, 8, 20):
            failure = Failure(exit_code=79, reason="LossNotFinite", message="m" * length)
            report = FULL.model_copy(update={"checkpoints": FULL.checkpoints[:count], "failure": failure})
            assert len(report.to_termination_message().encode()) <= MAX_TERMINATION_BYTES


def test_a_short_report_is_kept_whole() -> None:
    report = FULL.model_copy(update={"checkpoints": [CHECKPOINT], "plan": None})
    assert Report.model_validate_json(report.to_termination_message()) == report


def test_a_termination_message_counts_bytes_not_letters() -> None:
    failure = Failure(exit_code=1, reason="Error", message="\N{SNOWMAN}" * 1000)
    report = FULL.model_copy(
        update={"failure": failure, "output": Output(path="\N{SNOWMAN}" * 900, format="model", bytes=1)}
    )
    assert len(report.to_termination_message().encode()) <= MAX_TERMINATION_BYTES


def test_numbers_that_json_lacks_are_absent() -> None:
    metrics = Metrics(step=1, loss=float("nan"), grad_norm=float("inf"))
    assert metrics.loss is None
    report = Report(attempt=1, sequence=1, stage=Stage.TRAINING, metrics=metrics)
    assert json.loads(report.to_json())["metrics"] == {"step": 1, "samplesSeen": 0}


def test_a_field_of_a_newer_trainer_is_answered_with_the_report_s_own_fields() -> None:
    text = (
        '{"attempt": 1, "sequence": 1, "stage": "Training", "metrics": {"step": 1, "gradNrm": 2}, "steps": 3}'
    )
    with pytest.raises(ValidationError) as refused:
        Report.from_json(text)
    nested, outer = validation.problems(refused.value, Report)
    assert nested == "metrics.gradNrm: there is no such field; did you mean gradNorm?"
    assert outer.startswith("steps: there is no such field; ")
    assert "apiVersion" not in outer
