"""The planner of batches: exact, fair, within the budget, and a function of the step alone."""

from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_trainer.batches import Schedule, pack

schedules = st.builds(
    Schedule, samples=st.integers(1, 200), batch_size=st.integers(1, 64), seed=st.integers(0, 2**31 - 1)
)


@given(schedule=schedules, epoch=st.integers(0, 3))
def test_every_sample_comes_once_per_epoch_in_batches_of_exactly_the_size(
    schedule: Schedule, epoch: int
) -> None:
    first = epoch * schedule.steps_per_epoch
    batches = [schedule.batch(step) for step in range(first, first + schedule.steps_per_epoch)]
    assert sorted(chain.from_iterable(batch.samples for batch in batches)) == list(range(schedule.samples))
    assert {len(batch.samples) for batch in batches[:-1]} <= {schedule.batch_size}
    assert 0 < len(batches[-1].samples) <= schedule.batch_size
    assert [batch.ends_epoch for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert {batch.epoch for batch in batches} == {epoch}


@given(schedule=schedules, step=st.integers(0, 500))
def test_samples_before_a_step_are_those_of_all_earlier_steps(schedule: Schedule, step: int) -> None:
    assert schedule.samples_before(step) == sum(len(schedule.batch(s).samples) for s in range(step))


def test_epochs_differ_in_order_and_seeds_do_too() -> None:
    schedule = Schedule(samples=100, batch_size=100, seed=7)
    assert schedule.batch(0).samples != schedule.batch(1).samples
    # The permutation of an epoch is that of the seed's sum with it.
    assert schedule.batch(1).samples == Schedule(samples=100, batch_size=100, seed=8).batch(0).samples


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[int], int, int]:
    budget = draw(st.integers(1, 64))
    return (
        draw(st.lists(st.integers(1, budget), min_size=1, max_size=80)),
        budget,
        draw(st.integers(1, 9)),
    )


@given(load=loads())
# Evening the loads out would break the budget: 3+2+2 beside 3+2.
@example(load=([3, 3, 2, 2, 2], 6, 2))
def test_packing_loses_nothing_keeps_the_budget_and_treats_processes_alike(
    load: tuple[list[int], int, int],
) -> None:
    lengths, budget, world_size = load
    shares = pack(range(len(lengths)), lengths, budget=budget, world_size=world_size)
    assert len(shares) == world_size
    assert len({len(share) for share in shares}) == 1
    micro_batches = list(chain.from_iterable(shares))
    assert sorted(chain.from_iterable(micro_batches)) == list(range(len(lengths)))
    assert all(sum(lengths[sample] for sample in members) <= budget for members in micro_batches)
    # No process waits through a round in which nobody has work, and packing is never worse than twice the optimum.
    rounds = len(shares[0])
    assert all(any(share[index] for share in shares) for index in range(rounds))
    assert (rounds - 1) * world_size < 2 * -(-sum(lengths) // budget)


@given(load=loads())
def test_packing_is_a_function_of_its_arguments(load: tuple[list[int], int, int]) -> None:
    lengths, budget, world_size = load
    samples = range(len(lengths))
    assert pack(samples, lengths, budget=budget, world_size=world_size) == pack(
        samples, lengths, budget=budget, world_size=world_size
    )


def test_loads_are_even_where_lengths_allow() -> None:
    lengths = [8, 8, 4, 4, 4, 4]
    [first], [second] = pack(range(6), lengths, budget=100, world_size=2)
    assert sum(lengths[s] for s in first) == sum(lengths[s] for s in second) == 16


def test_a_process_without_samples_still_takes_part() -> None:
    assert pack([5], {5: 3}, budget=4, world_size=3) == [[[5]], [[]], [[]]]  # type: ignore[arg-type]


def test_a_sample_beyond_the_budget_is_an_error() -> None:
    with pytest.raises(ValueError, match="sample 1 has 9 tokens, more than the budget of 8"):
        pack([0, 1], [8, 9], budget=8, world_size=1)
