"""What the rule book says of a run by its evaluations."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice import recipe, told
from finetune_api import guide
from finetune_api.guide.loss_curve import StepLoss
from finetune_api.scores import Evaluated, SetScore
from finetune_api.status import Plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = 10
PLAN = Plan(learning_rate=1e-5, num_epochs=3, world_size=1, steps_per_epoch=30)
VALIDATED = {
    "train": {"volume": {"claimName": "data", "path": "train.jsonl"}},
    "validation": {"volume": {"claimName": "data", "path": "validation.jsonl"}},
}


def steps(count: int, fall: float = 0.01) -> list[StepLoss]:
    return [StepLoss(2.001 - fall * number, 1e-5, 8) for number in range(count)]


def evaluations(*losses: float | None) -> list[Evaluated]:
    """The first one is the baseline."""
    return [
        Evaluated(step=EVERY * number, time=NOW, sets=[SetScore(name="validation", loss=loss, tokens=1)])
        for number, loss in enumerate(losses)
    ]


def said(*losses: float | None, fall: float = 0.01, **spec: Any) -> str | None:
    """What is said of overfitting after these evaluations, and the steps between them."""
    made = steps(EVERY * (len(losses) - 1), fall)
    found = guide.advise_on_course(recipe(**spec), PLAN, made, evaluations(*losses))
    return next((finding.message for finding in found if finding.rule == "overfitting"), None)


def test_it_tells_what_rose_since_when_and_what_to_do() -> None:
    assert said(3.0, 2.0, 2.1, 2.2, 2.3) == (
        "the model overfits: while the training loss fell from 1.86 to 1.66, the validation loss rose in 3 evaluations "
        "in a row, to 2.30; it was lowest after step 10, at 2.00. In another run, set earlyStopping; or train for "
        "fewer epochs; or lower learningRate; or train on more data"
    )


def test_whoever_stops_early_is_not_told_to() -> None:
    stopping: dict[str, Any] = {"evaluation": {"earlyStopping": {"patience": 5}}, "dataset": VALIDATED}
    message = said(3.0, 2.0, 2.1, 2.2, 2.3, **stopping)
    assert message is not None
    assert "earlyStopping" not in message


def test_a_model_that_only_gets_worse_overfits_too() -> None:
    message = said(2.0, 2.1, 2.2, 2.3)
    assert message is not None
    assert "lowest before training, at 2.00" in message


@pytest.mark.parametrize(
    "losses",
    [
        (3.0, 2.0, 2.1, 2.2),
        (3.0, 2.0, 2.1, 2.05, 2.2, 2.15),
        (3.0, 2.0, 2.1, 2.1, 2.2),
        (3.0, 2.0, 2.1, 2.2, 2.3, 1.9),
        (3.0, 2.0, None, 2.1, None, 2.2),
        (None, None, None, None, None),
        (),
    ],
)
def test_a_loss_that_has_not_risen_three_times_in_a_row_or_has_recovered_is_none(
    losses: tuple[float | None, ...],
) -> None:
    assert said(*losses) is None


def test_what_was_so_stays_said_until_there_is_a_better_evaluation() -> None:
    assert said(3.0, 2.0, 2.1, 2.2, 2.3, 2.25) is not None


def test_a_training_loss_that_rises_too_is_another_trouble() -> None:
    assert said(3.0, 2.0, 2.1, 2.2, 2.3, fall=-0.01) is None


@given(
    st.lists(st.none() | st.floats(0.01, 20), max_size=9), st.integers(0, 60), st.sampled_from([0.01, -0.01])
)
def test_whatever_evaluations_show_it_is_told_in_words(
    losses: list[float | None], count: int, fall: float
) -> None:
    for finding in guide.advise_on_course(recipe(), PLAN, steps(count, fall), evaluations(*losses)):
        assert "nan" not in finding.message


def test_before_training_it_says_how_a_run_can_be_judged() -> None:
    nothing = told()["baseline-evaluation"]
    assert "dataset.validationSplit" in nothing
    assert "baseline-evaluation" not in told(dataset=VALIDATED)
    without = told(dataset=VALIDATED, evaluation={"baseline": False})["baseline-evaluation"]
    assert "remove baseline: false" in without
