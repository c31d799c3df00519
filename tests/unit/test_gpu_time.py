"""For how long jobs have GPUs, and what restarts throw away of it."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.queueing import Queueing
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.monitoring.gpu_time import gpu_time
from world import START


def attempt(
    number: int, begin: int, end: int | None, resumed: int | None = None, last: int | None = None
) -> Attempt:
    """An attempt from one second to another, which went on from a step and came to another."""
    return Attempt(
        number=number,
        start_time=START + timedelta(seconds=begin),
        end_time=None if end is None else START + timedelta(seconds=end),
        resumed_from_step=resumed,
        last_step=last,
    )


def told(*attempts: Attempt, at: int = 1000, queue: Queueing | None = None) -> tuple[float, float]:
    """GPU-seconds used and wasted of a gang with 8 GPUs."""
    status = FineTuneJobStatus(phase=Phase.RUNNING, attempts=list(attempts), queue=queue)
    time = gpu_time(status, 8, START + timedelta(seconds=at))
    return time.used, time.wasted


def test_nothing_is_used_before_the_first_attempt() -> None:
    assert told() == (0, 0)


def test_an_open_attempt_is_counted_up_to_now() -> None:
    assert told(attempt(1, 100, None), at=150) == (8 * 50, 0)


@pytest.mark.parametrize(
    ("resumed", "wasted"), [(100, 0), (80, 8 * 100 * 0.2), (0, 8 * 100), (120, 0)], ids=str
)
def test_what_is_done_again_is_wasted(resumed: int, wasted: float) -> None:
    first = attempt(1, 0, 100, last=100)
    assert told(first, attempt(2, 200, 300, resumed))[1] == pytest.approx(wasted)


def test_nothing_is_wasted_before_it_is_known_where_the_next_attempt_goes_on() -> None:
    assert told(attempt(1, 0, 100, last=100), attempt(2, 200, None))[1] == 0


def test_an_attempt_without_a_step_is_wasted_whole() -> None:
    first = attempt(1, 0, 100, last=100)
    second, third = attempt(2, 100, 150, resumed=100), attempt(3, 150, None, resumed=100)
    assert told(first, second, third)[1] == pytest.approx(8 * 50)


def test_a_state_that_is_found_to_be_damaged_makes_earlier_work_wasted_too() -> None:
    first = attempt(1, 0, 100, last=100)
    second = attempt(2, 100, 200, resumed=100, last=200)
    assert told(first, second, attempt(3, 200, None, resumed=50), at=200)[1] == pytest.approx(8 * (50 + 100))


def test_time_in_the_queue_is_not_used() -> None:
    waits = Queueing(name="q", waited_seconds=30, waiting_since=START + timedelta(seconds=60))
    assert told(attempt(1, 0, None), at=100, queue=waits) == (8 * 30, 0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.integers(0, 5000),
            st.one_of(st.none(), st.integers(0, 200)),
            st.one_of(st.none(), st.integers(0, 200)),
        ),
        max_size=8,
    ),
    st.integers(0, 20000),
)
def test_no_more_is_wasted_than_used(
    runs: list[tuple[int, int, int | None, int | None]], waited: int
) -> None:
    attempts, now = [], 0
    for number, (pause, length, resumed, last) in enumerate(runs, start=1):
        attempts.append(attempt(number, now + pause, now + pause + length, resumed, last))
        now += pause + length
    used, wasted = told(*attempts, at=now, queue=Queueing(name="q", waited_seconds=waited))
    assert 0 <= wasted <= used * (1 + 1e-9)
