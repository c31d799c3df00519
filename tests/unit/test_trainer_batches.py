"""The order of samples: exact batches, the same for everybody and for ever, and a function of the step alone."""

from collections import Counter
from itertools import chain, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer import batches
from finetune_trainer.batches import Schedule
from finetune_trainer.splitmix import INCREMENT, finalized

schedules = st.builds(
    Schedule, samples=st.integers(1, 200), batch_size=st.integers(1, 64), seed=st.integers(0, 2**31 - 1)
)


@given(schedule=schedules, epoch=st.integers(0, 3))
def test_every_sample_comes_once_per_epoch_in_batches_of_exactly_the_size(
    schedule: Schedule, epoch: int
) -> None:
    """Also in the epochs after the first: steps count on, and do not begin anew with each epoch."""
    first = epoch * schedule.steps_per_epoch
    taken = [schedule.batch(step) for step in range(first, first + schedule.steps_per_epoch)]
    assert sorted(chain.from_iterable(batch.samples for batch in taken)) == list(range(schedule.samples))
    assert {len(batch.samples) for batch in taken[:-1]} <= {schedule.batch_size}
    assert len(taken[-1].samples) == (schedule.samples - 1) % schedule.batch_size + 1
    assert [batch.ends_epoch for batch in taken] == [False] * (len(taken) - 1) + [True]
    assert {batch.epoch for batch in taken} == {epoch}


@given(schedule=schedules, step=st.integers(0, 500))
def test_samples_before_a_step_are_those_of_all_earlier_steps(schedule: Schedule, step: int) -> None:
    assert schedule.samples_before(step) == sum(len(schedule.batch(s).samples) for s in range(step))


@given(schedule=schedules, step=st.integers(0, 500))
def test_a_step_is_the_same_whatever_was_asked_for_before(schedule: Schedule, step: int) -> None:
    """Going on from a step is asking for it."""
    for earlier in range(max(0, step - 5), step):
        schedule.batch(earlier)
    after = schedule.batch(step).samples.copy()
    batches._permutation.cache_clear()
    assert (schedule.batch(step).samples == after).all()


def test_epochs_differ_in_order_and_seeds_do_too() -> None:
    schedule = Schedule(samples=100, batch_size=100, seed=7)
    assert (schedule.batch(0).samples != schedule.batch(1).samples).any()
    # The permutation of an epoch is that of the seed's sum with it.
    other = Schedule(samples=100, batch_size=100, seed=8)
    assert (schedule.batch(1).samples == other.batch(0).samples).all()


def test_the_generator_is_splitmix64() -> None:
    """The outputs that its authors' program prints for seed 0."""
    states = np.arange(1, 5, dtype=np.uint64) * np.uint64(INCREMENT)
    assert [hex(output) for output in finalized(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
        "0xf88bb8a8724c81ec",
    ]


def test_the_order_is_the_same_for_ever() -> None:
    assert Schedule(samples=12, batch_size=12, seed=42).order(0).tolist() == [
        3,
        7,
        1,
        2,
        5,
        9,
        6,
        0,
        8,
        10,
        11,
        4,
    ]


def test_all_orders_are_as_likely() -> None:
    drawn = Counter(tuple(Schedule(samples=4, batch_size=4, seed=seed).order(0)) for seed in range(24_000))
    assert set(drawn) == set(permutations(range(4)))
    # Five standard deviations of a fair draw.
    assert all(abs(times - 1000) < 5 * 1000**0.5 for times in drawn.values())


def test_the_order_cannot_be_changed_by_whoever_reads_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Schedule(samples=4, batch_size=2, seed=0).batch(0).samples[0] = 3
