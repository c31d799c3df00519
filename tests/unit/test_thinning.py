"""The course of a run in a bounded number of points."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.curve import MAX_POINTS, Curve
from finetune_api.evaluation import VALIDATION
from finetune_api.report import Metrics, Report
from finetune_api.scores import Evaluated, SetScore
from finetune_api.thinning import Course, thinned
from world import report

NUMBERS = st.floats(0, 100) | st.just(math.nan)


def step(number: int, loss: float | None = 1.0, speed: float = 100.0) -> Metrics:
    return Metrics(step=number, loss=loss, learning_rate=number * 1e-6, tokens_per_second=speed)


def evaluated(number: int, loss: float = 1.0, name: str = VALIDATION) -> Evaluated:
    score = SetScore(name=name, loss=loss, tokens=1)
    return Evaluated(step=number, time=datetime(2026, 1, 1, tzinfo=UTC), sets=[score])


def test_a_short_run_is_shown_step_by_step() -> None:
    found = Course(step(number, loss=1 / number) for number in range(1, MAX_POINTS + 1)).curve()
    assert found.steps == list(range(1, MAX_POINTS + 1))
    assert found.loss == [1 / number for number in found.steps]
    assert found.learning_rate == [number * 1e-6 for number in found.steps]


def test_a_point_of_a_longer_one_stands_for_the_steps_since_the_one_before() -> None:
    losses = [float(number) for number in range(1, 67)]
    found = Course(step(number, loss) for number, loss in enumerate(losses, start=1)).curve()
    assert found.steps == [*range(2, 67, 2)]
    assert found.loss == [number - 0.5 for number in found.steps]
    assert found.learning_rate == [number * 1e-6 for number in found.steps]


def test_the_speed_of_a_point_is_that_of_its_tokens_in_its_time() -> None:
    # As many tokens at a third of the speed take three times as long: of four parts of the time, one is at full speed.
    slow = [step(number, speed=300 if number % 2 else 100) for number in range(1, 129)]
    assert Course(slow).curve().tokens_per_second == pytest.approx([150] * 64)


def test_what_is_not_finite_is_a_gap() -> None:
    found = Course([step(1), step(2, math.nan), step(3, speed=math.inf)]).curve([evaluated(0, math.inf)])
    assert found.loss == [1.0, None, 1.0]
    assert found.tokens_per_second == [100.0, 100.0, None]
    assert (found.validation_steps, found.validation_loss) == ([0], [None])
    told = report(curve=found)
    assert Report.from_json(told.to_json()).curve == found


@given(st.lists(st.tuples(st.integers(1, 9), NUMBERS, NUMBERS), max_size=300), st.integers(0, 300))
def test_points_follow_from_the_steps_alone_and_stay_where_they_are_until_there_is_no_room(
    told: list[tuple[int, float, float]], at: int
) -> None:
    """Steps may be missing from a file that was damaged."""
    steps, number = [], 0
    for gap, loss, speed in told:
        number += gap
        steps.append(step(number, loss, speed))
    followed = Course(steps[:at])
    before = followed.curve()
    for metrics in steps[at:]:
        followed.add(metrics)
    found = followed.curve()
    written = [Metrics.model_validate_json(metrics.model_dump_json()) for metrics in steps]
    assert found == Course(written).curve()
    assert len(found.steps) <= MAX_POINTS
    assert found.steps == sorted(set(found.steps))
    assert set(found.steps) <= {metrics.step for metrics in steps}
    if steps:
        assert found.steps[-1] == steps[-1].step
        width = max(1, 2 ** math.ceil(math.log2(number / MAX_POINTS)))
        # All steps of a point are there, and no other.
        start = 0
        for end, mean in zip(found.steps, found.loss, strict=True):
            point = [one for one in steps if start < one.step <= end]
            assert len({(one.step - 1) // width for one in point}) == 1
            finite = [one.loss for one in point if one.loss is not None]
            assert mean == (pytest.approx(sum(finite) / len(finite)) if finite else None)
            start = end
        if number <= MAX_POINTS:
            assert found.steps[: len(before.steps)] == before.steps


def test_a_step_that_was_told_before_counts_once() -> None:
    once = Course([step(1), step(2)]).curve()
    assert Course([step(1), step(2), step(2, 9.0), step(1, 9.0)]).curve() == once


def test_only_evaluations_of_the_validation_data_are_its_points() -> None:
    found = Course().curve([evaluated(0, 3.0), evaluated(2, name="general"), evaluated(4, 2.0)])
    assert (found.validation_steps, found.validation_loss) == ([0, 4], [3.0, 2.0])


@given(st.integers(0, 1000))
def test_of_many_evaluations_the_first_the_latest_and_some_between_are_shown(count: int) -> None:
    made = [evaluated(number) for number in range(count)]
    found = [one.step for one in thinned(made)]
    assert len(found) <= MAX_POINTS
    assert found == sorted(set(found))
    if count <= MAX_POINTS - 1:
        assert found == list(range(count))
    else:
        assert (found[0], found[-1]) == (0, count - 1)
        assert len({later - earlier for earlier, later in pairwise(found[:-1])}) == 1
        assert len(found) > MAX_POINTS // 2


@pytest.mark.parametrize("wire", [{"steps": [1], "loss": [1.0]}, {"validationLoss": [1.0]}])
def test_lists_that_do_not_belong_together_are_no_curve(wire: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError, match="one number for each"):
        Curve.model_validate(wire)
