"""After which steps a run is evaluated."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.evaluation import Evaluation
from finetune_trainer.judging.timing import Timing

PER_EPOCH, TOTAL = 4, 10


def steps(*, per_epoch: int = PER_EPOCH, total: int = TOTAL, **wanted: Any) -> list[int]:
    timing = Timing(Evaluation(**wanted), per_epoch, total)
    return [step for step in range(total + 1) if timing.due(step)]


def test_before_training_after_each_epoch_and_in_the_end() -> None:
    assert steps() == [0, 4, 8, 10]


def test_without_the_baseline() -> None:
    assert steps(baseline=False) == [4, 8, 10]


def test_after_every_so_many_steps_too() -> None:
    assert steps(every_steps=3) == [0, 3, 4, 6, 8, 9, 10]
    assert steps(every_steps=3, every_epoch=False) == [0, 3, 6, 9, 10]


WANTED: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict, baseline=st.booleans(), every_epoch=st.booleans(), every_steps=st.none() | st.integers(1, 70)
)


@given(st.integers(1, 20), st.integers(1, 60), WANTED)
def test_how_many_are_left_is_what_counting_them_gives(
    per_epoch: int, total: int, wanted: dict[str, Any]
) -> None:
    timing = Timing(Evaluation(**wanted), per_epoch, total)
    due = steps(per_epoch=per_epoch, total=total, **wanted)
    for step in range(total + 2):
        assert timing.left(step) == sum(one > step for one in due)


@given(st.integers(1, 20), st.integers(1, 60), WANTED)
def test_the_result_is_always_judged(per_epoch: int, total: int, wanted: dict[str, Any]) -> None:
    found = steps(per_epoch=per_epoch, total=total, **wanted)
    assert found[-1] == total
    assert (0 in found) == wanted["baseline"]
