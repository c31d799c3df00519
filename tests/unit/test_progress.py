"""Reports as fields of the status."""

from datetime import timedelta

import pytest

from finetune_api.curve import Curve
from finetune_api.report import Metrics, Stage
from finetune_api.status import Advice, Attempt, Choice, FineTuneJobStatus, Plan, Progress, Subspaces
from finetune_operator.status.progress import (
    decomposing,
    duration,
    last_step,
    percent,
    progress,
    summary,
    with_report,
    without_forecast,
)
from world import DATASET, PLAN, START, SUBSPACES, checkpoint, report

ADVISED = PLAN.model_copy(
    update={
        "chosen": [Choice(field="spec.hyperparameters.numEpochs", value=2, reason="a good start")],
        "warnings": [
            Advice(rule="learning-rate-high", field="spec.hyperparameters.learningRate", message="high")
        ],
    }
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (12, "12s"),
        (250, "4m10s"),
        (60, "1m"),
        (10260, "2h51m"),
        (7200, "2h"),
        (7205, "2h"),
        (273600, "3d4h"),
        (-3, "0s"),
    ],
)
def test_durations_are_read_by_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_are_read_by_people() -> None:
    assert summary(12, 36) == "12/36 (33%)"
    assert summary(35, 36) == "35/36 (97%)"
    assert summary(12, None) == "12"
    assert percent(999, 1000) == 99
    assert percent(40, 36) == 100
    assert percent(1, None) is None


@pytest.mark.parametrize("total", [0, -1, -(2**63)])
def test_of_no_steps_nothing_is_a_share(total: int) -> None:
    assert percent(2**63 - 1, total) is None
    assert summary(3, total) == "3"
    assert percent(-3, 10) == 0


@pytest.mark.parametrize("seconds", [-1, 1e9, 1e300])
def test_what_is_no_forecast_is_not_told(seconds: float) -> None:
    told = progress(report(seconds_remaining=seconds), START, total_steps=36)
    assert (told.remaining, told.estimated_finish) == (None, None)


def test_a_report_of_a_step() -> None:
    metrics = Metrics(
        step=12,
        epoch=0.6666,
        loss=1.23456789,
        learning_rate=4.56789e-6,
        grad_norm=0.000123456,
        tokens_per_second=1234.5678,
        mfu=0.43219,
        samples_seen=72,
        peak_memory=1 << 30,
    )
    found = progress(
        report(metrics=metrics, initial_loss=2.5, seconds_remaining=250.7), START, total_steps=36
    )
    assert found.model_dump(exclude_none=True) == {
        "step": 12,
        "total_steps": 36,
        "epoch": 0.67,
        "percent": 33,
        "summary": "12/36 (33%)",
        "loss": 1.2346,
        "initial_loss": 2.5,
        "learning_rate": 4.5679e-6,
        "grad_norm": 0.00012346,
        "tokens_per_second": 1234.6,
        "mfu": 0.432,
        "samples_seen": 72,
        "peak_memory": 1 << 30,
        "estimated_finish": START + timedelta(seconds=250),
        "remaining": "4m11s",
        "last_report_time": START,
    }


def test_before_its_first_step_an_attempt_stands_where_it_resumes() -> None:
    assert progress(report(step=None, resumed_from_step=8), START, total_steps=36).summary == "8/36 (22%)"
    assert progress(report(step=None), START, total_steps=None).summary == "0"


def test_the_first_loss_is_remembered_over_restarts() -> None:
    first = progress(report(initial_loss=3.0), START, total_steps=36)
    second = progress(report(attempt=2), START, total_steps=36, known=first)
    assert second.initial_loss == 3.0


def test_a_gang_that_has_ended_is_not_expected_to_finish() -> None:
    found = without_forecast(progress(report(seconds_remaining=10), START, total_steps=36))
    assert found is not None
    assert (found.remaining, found.estimated_finish, found.step) == (None, None, 1)
    assert without_forecast(None) is None


def status(**fields: object) -> FineTuneJobStatus:
    attempts = [Attempt(number=1, start_time=START, resumed_from_step=4), Attempt(number=2, start_time=START)]
    return FineTuneJobStatus.model_validate({"attempts": attempts} | fields)


def test_only_the_reporting_attempt_learns_where_it_resumed() -> None:
    found = with_report(status(), report(attempt=2, resumed_from_step=8), START)
    assert [attempt.resumed_from_step for attempt in found.attempts] == [4, 8]


def test_what_a_new_attempt_says_before_it_has_restored_does_not_step_back_and_forth() -> None:
    known = with_report(status(), report(attempt=1, step=12, resumed_from_step=4), START)
    later = START + timedelta(minutes=1)
    for stage in (Stage.STARTING, Stage.PREPARING, Stage.LOADING):
        for step in (None, 3, 12):
            found = with_report(known, report(attempt=2, step=step, stage=stage), later).progress
            assert known.progress is not None
            assert found == known.progress.model_copy(update={"last_report_time": later})
    restored = with_report(known, report(attempt=2, step=8, stage=Stage.LOADING, resumed_from_step=8), later)
    assert restored.progress is not None
    assert restored.progress.step == 8


def test_the_last_step_of_an_attempt_is_one_that_it_did_itself() -> None:
    def last(number: int, resumed: int | None, step: int | None) -> int | None:
        attempt = Attempt(number=number, start_time=START, resumed_from_step=resumed)
        return last_step(attempt, None if step is None else Progress(step=step))

    assert [last(1, None, 12), last(1, None, 0), last(1, None, None)] == [12, None, None]
    assert [last(2, 8, 12), last(2, 8, 8), last(2, 0, 3)] == [12, None, 3]
    assert last(2, None, 12) is None, "that was the first one, and the second never came so far as to restore"


def test_where_an_attempt_goes_on_tells_how_far_the_one_before_had_come() -> None:
    def steps(resumed: int, *, heard: int | None) -> list[int | None]:
        attempts = [Attempt(number=1, start_time=START, last_step=heard), Attempt(number=2, start_time=START)]
        known = FineTuneJobStatus(attempts=attempts)
        found = with_report(known, report(attempt=2, step=None, resumed_from_step=resumed), START)
        return [attempt.last_step for attempt in found.attempts]

    assert steps(8, heard=5) == [8, None]
    assert steps(8, heard=None) == [8, None]
    assert steps(8, heard=11) == [11, None], "what it did after its last state is lost, and was done"
    assert steps(0, heard=None) == [None, None]


def test_a_state_that_was_gone_on_from_before_is_no_attempt_s_work() -> None:
    attempts = [
        Attempt(number=1, start_time=START, last_step=8),
        Attempt(number=2, start_time=START, resumed_from_step=8),
        Attempt(number=3, start_time=START),
    ]
    found = with_report(
        FineTuneJobStatus(attempts=attempts), report(attempt=3, step=None, resumed_from_step=8), START
    )
    assert [attempt.last_step for attempt in found.attempts] == [8, None, None]


def test_what_a_report_leaves_out_is_kept() -> None:
    known = status(plan=PLAN, dataset=DATASET)
    found = with_report(known, report(plan=None), START)
    assert (found.plan, found.dataset) == (PLAN, DATASET)
    assert found.progress is not None
    assert found.progress.total_steps == 36


def test_what_osft_trains_is_kept_until_a_later_attempt_tells_its_own() -> None:
    leaking = SUBSPACES.model_copy(update={"leak": 1.23456e-7, "trainable_share": 0.123456})
    known = with_report(status(), report(subspaces=leaking), START)
    readable = leaking.model_copy(update={"leak": 1.2e-7, "trainable_share": 0.1235})
    assert known.subspaces == readable
    for final in (False, True):
        assert with_report(known, report(attempt=2), START, final=final).subspaces == readable
    begun = Subspaces(decomposed=3, of=14)
    assert with_report(known, report(attempt=2, subspaces=begun), START).subspaces == begun


CURVE = Curve(
    steps=[2, 4],
    loss=[2.345678901, None],
    learning_rate=[1.23456789e-6, 0.0],
    tokens_per_second=[1234.5678, None],
    validation_steps=[0],
    validation_loss=[3.456789],
)


def test_the_curve_has_numbers_that_people_read() -> None:
    assert with_report(status(), report(curve=CURVE), START).curve == Curve(
        steps=[2, 4],
        loss=[2.3457, None],
        learning_rate=[1.2346e-6, 0.0],
        tokens_per_second=[1234.6, None],
        validation_steps=[0],
        validation_loss=[3.4568],
    )
    assert with_report(status(), report(curve=Curve()), START).curve is None


def test_a_known_curve_is_not_lost_until_an_attempt_begins_anew() -> None:
    known = with_report(status(), report(attempt=1, curve=CURVE), START)
    # A termination message without room for it, and one of a trainer that refuses to start.
    for told in (report(attempt=2, step=8), report(attempt=2, step=None, stage=Stage.FAILED)):
        assert with_report(known, told, START, final=True).curve == known.curve
    # It cannot say yet how much it starts with.
    loading = report(attempt=2, stage=Stage.LOADING, curve=Curve())
    assert with_report(known, loading, START).curve == known.curve
    begun = report(attempt=2, step=None, resumed_from_step=0, curve=Curve())
    assert with_report(known, begun, START).curve is None


def test_a_decomposition_is_told_as_long_as_it_goes_on() -> None:
    assert decomposing(Subspaces(decomposed=1037, of=1210)) == "decomposing weight matrices: 1,037 of 1,210"
    assert decomposing(SUBSPACES) is None
    assert decomposing(None) is None


def test_a_report_by_post_knows_all_checkpoints() -> None:
    known = status(checkpoints=[checkpoint(10), checkpoint(10, "resume"), checkpoint(20)])
    found = with_report(known, report(checkpoints=[checkpoint(20), checkpoint(20, "resume")]), START)
    assert [(c.step, c.kind) for c in found.checkpoints] == [(20, "weights"), (20, "resume")]


def test_a_last_word_that_had_no_room_loses_no_model() -> None:
    known = status(checkpoints=[checkpoint(10), checkpoint(10, "resume"), checkpoint(20)])
    found = with_report(known, report(checkpoints=[checkpoint(20), checkpoint(30)]), START, final=True)
    assert [(c.step, c.kind) for c in found.checkpoints] == [
        (10, "weights"),
        (20, "weights"),
        (30, "weights"),
    ]


def test_a_trainer_that_refuses_to_start_takes_nothing_back() -> None:
    known = with_report(status(), report(step=12, checkpoints=[checkpoint(10, "resume")]), START)
    refusal = report(attempt=2, sequence=0, step=None, stage=Stage.FAILED, plan=None)
    assert with_report(known, refusal, START, final=True) == known


def test_the_newest_fifty_checkpoints_are_listed_once_each() -> None:
    found = with_report(
        status(checkpoints=[checkpoint(step) for step in range(1, 51)]),
        report(checkpoints=[checkpoint(step) for step in range(40, 71)]),
        START,
        final=True,
    )
    steps = [c.step for c in found.checkpoints]
    assert steps == list(range(21, 71))


def test_reasons_and_warnings_of_the_plan_outlive_a_termination_message_without_room_for_them() -> None:
    known = with_report(FineTuneJobStatus(), report(plan=ADVISED), START)
    terse = ADVISED.model_copy(update={"chosen": [], "warnings": []})
    assert with_report(known, report(plan=terse), START, final=True).plan == ADVISED


def test_what_the_last_word_advises_is_not_lost() -> None:
    """The last steps may be those that show it, and no other Report have arrived since."""
    known = with_report(FineTuneJobStatus(), report(plan=PLAN), START)
    assert with_report(known, report(plan=ADVISED), START, final=True).plan == ADVISED


def test_what_was_planned_before_the_data_were_known_gives_way_to_the_trainer_s_plan() -> None:
    early = FineTuneJobStatus(plan=Plan(learning_rate=1e-6, num_epochs=1, world_size=2))
    for final in (False, True):
        assert with_report(early, report(), START, final=final).plan == PLAN


def test_a_checkpoint_that_a_report_names_twice_is_listed_once() -> None:
    found = with_report(status(), report(checkpoints=[checkpoint(1), checkpoint(1)]), START)
    assert len(found.checkpoints) == 1
