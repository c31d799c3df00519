"""Scores of evaluations, and what follows from a history of them."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.evaluation import EarlyStopping
from finetune_api.scores import (
    Evaluated,
    SetScore,
    best,
    since_improvement,
    status_of,
    summary,
    why_to_stop,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def history(*losses: float | None, baseline: float | None = 5.0) -> list[Evaluated]:
    return [
        Evaluated(step=10 * index, time=NOW, sets=[SetScore(name="validation", loss=loss, tokens=1)])
        for index, loss in enumerate((baseline, *losses))
    ]


def test_a_score_is_weighed_by_tokens() -> None:
    score = SetScore.of("general", loss_sum=20.0, correct=4, tokens=10)
    assert (score.loss, score.token_accuracy) == (2.0, 0.4)
    assert score.perplexity == pytest.approx(math.e**2)


@pytest.mark.parametrize("loss_sum", [math.nan, math.inf, 1e6])
def test_what_is_not_finite_is_absent(loss_sum: float) -> None:
    score = SetScore.of("general", loss_sum=loss_sum, correct=0, tokens=1)
    assert score.perplexity is None
    assert (score.loss is None) == (not math.isfinite(loss_sum))


def test_a_set_without_tokens_has_no_loss() -> None:
    score = SetScore.of("general", loss_sum=0.0, correct=0, tokens=0, answered=0.5)
    assert (score.loss, score.perplexity, score.token_accuracy, score.answered) == (None, None, None, 0.5)


def test_the_best_is_the_first_of_the_lowest_after_a_step() -> None:
    found = best(history(4.0, 3.0, None, 3.0, baseline=1.0))
    assert found is not None
    assert found.step == 20
    assert best(history(baseline=1.0)) is None
    assert best(history(None)) is None


@pytest.mark.parametrize(
    ("losses", "min_delta", "since"),
    [
        ((), 0.0, 0),
        ((4.0, 3.0), 0.0, 0),
        ((4.0, 4.0, 4.5), 0.0, 2),
        ((4.0, 3.9, 3.8, 3.7), 0.2, 0),
        ((4.0, 3.9, 3.85), 0.2, 2),
        ((6.0, 5.5), 0.0, 2),
        ((4.0, None, None), 0.0, 2),
    ],
)
def test_evaluations_without_an_improvement_are_counted(
    losses: tuple[float | None, ...], min_delta: float, since: int
) -> None:
    assert since_improvement(history(*losses), EarlyStopping(min_delta=min_delta)) == since


@given(st.lists(st.floats(0, 10), max_size=30), st.floats(0, 1))
def test_a_longer_history_never_forgets(losses: list[float], min_delta: float) -> None:
    rule = EarlyStopping(min_delta=min_delta)
    counts = [since_improvement(history(*losses[:length]), rule) for length in range(len(losses) + 1)]
    assert all(after in (0, before + 1) for before, after in pairwise(counts))


def test_a_summary_leaves_out_what_is_not_known() -> None:
    [before, after] = history(4.0)
    assert summary(before, after) == "validation loss 5 → 4"
    assert summary(None, after) == "validation loss 4"
    assert summary(before, before) == "validation loss 5"
    assert summary(before, None) is None


def test_a_baseline_that_is_not_finite_is_no_failed_try() -> None:
    assert since_improvement(history(baseline=None), EarlyStopping()) == 0
    assert since_improvement(history(None, 4.0, baseline=None), EarlyStopping()) == 0


def test_a_status_is_made_of_the_whole_history() -> None:
    assert status_of([]) is None
    made = history(4.0, 3.0, 3.5)
    found = status_of(made, final_step=20)
    assert found is not None
    assert (found.baseline, found.latest, found.best, found.final) == (made[0], made[3], made[2], made[2])
    # What people want to know of in the end is the output.
    assert (found.validation_loss, found.summary) == (3.0, "validation loss 5 → 3")
    under_way = status_of(made)
    assert under_way is not None
    assert (under_way.validation_loss, under_way.summary) == (3.5, "validation loss 5 → 3.5")
    without = status_of(made[1:])
    assert without is not None
    assert (without.baseline, without.final, without.summary) == (None, None, "validation loss 3.5")


@pytest.mark.parametrize(
    ("losses", "rule", "why"),
    [
        ((4.0, 4.5, 4.1), {"patience": 3}, None),
        (
            (4.0, 4.5, 4.0),
            {"patience": 2},
            "no improvement of the validation loss in 2 evaluations: best 4 at step 10",
        ),
        (
            (4.0, 3.95),
            {"patience": 1, "min_delta": 0.1},
            "no improvement of the validation loss by more than 0.1 in 1 evaluation: best 3.95 at step 20",
        ),
        (
            (6.0,),
            {"patience": 1},
            "no improvement of the validation loss in 1 evaluation: best 5 before training",
        ),
        ((None, None), {"patience": 3}, None),
    ],
)
def test_training_ends_when_patience_does(
    losses: tuple[float | None, ...], rule: dict[str, float], why: str | None
) -> None:
    assert why_to_stop(history(*losses), EarlyStopping.model_validate(rule)) == why


def test_a_loss_that_never_was_finite_ends_training() -> None:
    why = why_to_stop(history(None, baseline=None), EarlyStopping(patience=1))
    assert why == "no improvement of the validation loss in 1 evaluation: it was never finite"
