"""The Report on its three ways."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.curve import MAX_POINTS, Curve
from finetune_api.report import MAX_REPORT_BYTES, MAX_TERMINATION_BYTES, Failure, Metrics, Report, Stage
from finetune_api.status import (
    MAX_LISTED_CHECKPOINTS,
    MAX_LOG_LENGTH,
    Checkpoint,
    Choice,
    DatasetStatus,
    DecomposedMatrices,
    Output,
    Plan,
    Subspaces,
    last_lines,
)
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
# No number is longer.
LONG_NUMBERS = [-2.2250738585072014e-308] * MAX_POINTS
LONG_CURVE = Curve(
    steps=[10**15] * MAX_POINTS,
    loss=LONG_NUMBERS,
    learning_rate=LONG_NUMBERS,
    tokens_per_second=LONG_NUMBERS,
    validation_steps=[10**15] * MAX_POINTS,
    validation_loss=LONG_NUMBERS,
)
FULL = Report(
    attempt=3,
    sequence=10**6,
    stage=Stage.FAILED,
    metrics=Metrics(step=7, loss=1.5),
    curve=LONG_CURVE,
    plan=PLAN,
    dataset=DatasetStatus(samples=1, dropped=1, tokens=1, loss_tokens=1, longest=1, digest="d" * 64),
    subspaces=Subspaces(
        decomposed=210,
        of=210,
        matrices=[DecomposedMatrices(module="mlp.up_proj", count=30, directions=4096, trained=2048)],
        trainable_share=0.5,
        leak=1.2e-7,
    ),
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


def test_subspaces_have_no_room_in_a_termination_message_before_plan_and_data_do() -> None:
    kinds = [
        DecomposedMatrices(module=f"experts.{n}.{'m' * 100}", count=9, directions=9, trained=9)
        for n in range(32)
    ]
    report = FULL.model_copy(update={"subspaces": Subspaces(decomposed=9, of=9, matrices=kinds)})
    kept = Report.from_json(report.to_termination_message())
    terse = PLAN.model_copy(update={"chosen": []})
    assert (kept.subspaces, kept.plan, kept.dataset) == (None, terse, FULL.dataset)


# As files and native libraries have it: any script, control characters, and what no text can encode.
WORDS = st.lists(st.characters() | st.just("\udcff"), max_size=40).map(lambda text: "".join(text) * 60)


@given(
    message=WORDS,
    details=st.lists(WORDS, max_size=3).map(lambda found: found * 40),
    log=st.none() | WORDS,
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: text * 51),
    checkpoints=st.integers(0, MAX_LISTED_CHECKPOINTS),
    output=st.booleans(),
)
def test_a_termination_message_fits_and_can_be_read_however_much_there_is_to_tell(
    message: str, details: list[str], log: str | None, path: str, checkpoints: int, output: bool
) -> None:
    listed = [saved.model_copy(update={"path": path}) for saved in FULL.checkpoints[:checkpoints]]
    report = FULL.model_copy(
        update={
            "checkpoints": listed,
            "output": Output(path=path, format="model", bytes=1) if output else None,
            "failure": Failure.of(79, message, details, log),
        }
    )
    text = report.to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    kept = Report.from_json(text)
    assert kept.failure is not None
    assert (kept.failure.exit_code, kept.metrics) == (79, FULL.metrics)


def test_the_log_of_a_failure_goes_after_its_details_and_before_its_message() -> None:
    def kept(message: str, log: str, details: int) -> Failure:
        failure = Failure.of(79, message, ["d" * 200] * details, log)
        text = FULL.model_copy(update={"failure": failure}).to_termination_message()
        found = Report.from_json(text).failure
        assert found is not None
        return found

    roomy = kept("m" * 1000, "l" * 1000, 30)
    assert (roomy.message, roomy.log) == ("m" * 1000, "l" * 1000)
    assert 0 < len(roomy.details) < 30
    # Three bytes each.
    tight = kept("\N{SNOWMAN}" * 900, "l" * 900 + "the end", 30)
    assert tight.message == "\N{SNOWMAN}" * 900
    assert tight.details == []
    assert tight.log is not None
    assert 100 < len(tight.log) < 900
    assert tight.log.endswith("lthe end")
    assert kept("\N{SNOWMAN}" * 1000, "\N{SNOWMAN}" * 1000, 0).message == "\N{SNOWMAN}" * 1000


def test_of_a_long_log_the_end_is_kept() -> None:
    failure = Failure.of(1, "x", log="beginning" + "." * MAX_LOG_LENGTH + "end")
    assert failure.log is not None
    assert len(failure.log) == MAX_LOG_LENGTH
    assert failure.log.endswith("...end")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("one\ntwo\nthree", "two\nthree"),
        ("\ntwo\nthree", "two\nthree"),
        ("a single long line", "long line"),
        ("all of it", "all of it"),
    ],
)
def test_the_end_of_a_log_begins_with_a_line(text: str, kept: str) -> None:
    assert last_lines(text, 9) == kept


def test_a_short_report_is_kept_whole() -> None:
    short = Curve(steps=[1], loss=[2.0], learning_rate=[1e-5], tokens_per_second=[None])
    report = FULL.model_copy(update={"curve": short, "checkpoints": [CHECKPOINT], "plan": None})
    assert Report.model_validate_json(report.to_termination_message()) == report


def test_numbers_that_json_lacks_are_absent() -> None:
    metrics = Metrics(step=1, loss=float("nan"), grad_norm=float("inf"))
    assert metrics.loss is None
    report = Report(attempt=1, sequence=1, stage=Stage.TRAINING, metrics=metrics)
    assert json.loads(report.to_json())["metrics"] == {"step": 1, "samplesSeen": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 60_000, "recursion limit"),
        (b'{"transfer":' * 5_000, "recursion limit"),
        (rb'{"attempt": 1, "sequence": 1, "stage": "\ud800"}', "hex escape"),
        ('{"attempt": 1, "sequence": 1, "stage": "\udfff"}', "surrogates not allowed"),
        (b"\xff\xfe{\x00}\x00", "expected value"),
        (b'{"attempt": 1, "sequence": 9223372036854775808, "stage": "Failed"}', "64 bits"),
        (b'{"attempt": 1, "sequence": -9223372036854775809, "stage": "Failed"}', "64 bits"),
        (b'{"attempt": 1, "sequence": ' + b"9" * 60_000 + b', "stage": "Failed"}', "out of range"),
        (b'{"attempt": 1, "sequence": "99999999999999999999", "stage": "Failed"}', "sequence"),
        (b'{"attempt": 1, "sequence": 1e30, "stage": "Failed"}', "sequence"),
        (b'{"attempt": 1, "sequence": 1, "stage": "Failed", "resumed_from_step": 1}', "resumed_from_step"),
        (b'{"attempt": true, "sequence": 1, "stage": "Failed"}', "attempt"),
    ],
    ids=lambda text: repr(text)[:60],
)
def test_what_cannot_be_read_or_stored_is_no_report(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Report.from_json(text)


def test_of_many_faults_the_first_are_told() -> None:
    many = {f"x{number}": 1 for number in range(1000)}
    with pytest.raises(ValidationError) as refused:
        Report.from_json(json.dumps(many))
    assert len(validation.problems(refused.value, Report, most=10)) == 10
    assert len(validation.problems(refused.value, Report)) == 1003


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**30, 1e30, "9" * 30])
    | st.floats()
    | st.text()
    | st.just("\udcff")
)
PARTS = {
    "failure": {"exitCode": 1, "reason": "r", "message": "m"},
    "transfer": {"of": "f", "bytes": 1, "totalBytes": 1},
}


@given(
    path=st.sampled_from(
        [
            ("attempt",),
            ("sequence",),
            ("initialLoss",),
            ("failure", "exitCode"),
            ("failure", "message"),
            ("transfer", "of"),
            ("transfer", "bytes"),
        ]
    ),
    value=SCALARS | st.lists(SCALARS, max_size=2),
)
def test_what_is_accepted_can_be_stored(path: tuple[str, ...], value: object) -> None:
    wire: Any = {
        "attempt": 1,
        "sequence": 1,
        "stage": "Failed",
        **{name: dict(part) for name, part in PARTS.items()},
    }
    part = wire
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    try:
        report = Report.from_json(json.dumps(wire))
    except ValueError:
        return
    report.to_json().encode()
    for number in (report.attempt, report.sequence, report.failure.exit_code if report.failure else 0):
        assert -(2**63) <= number < 2**63


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
