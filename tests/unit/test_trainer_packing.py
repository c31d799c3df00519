"""The packing of a step: nothing lost, nothing over the budget, nobody left waiting."""

import tracemalloc
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from finetune_trainer import packing
from finetune_trainer.batches import Indices, Schedule
from finetune_trainer.packing import Lengths, count, first_fit, pack


@st.composite
def lengths_within(draw: st.DrawFn, budget: int) -> Lengths:
    """Lengths as they come, and the awkward ones: all as long as the budget, many of one token, a giant among them."""
    kinds = [
        st.lists(st.integers(1, budget), min_size=1, max_size=80),
        st.builds(lambda n: [budget] * n, st.integers(1, 40)),
        st.builds(lambda n: [1] * n, st.integers(1, 80)),
        st.builds(lambda n: [budget] + [1] * n, st.integers(1, 80)),
        st.builds(lambda n: [budget // 2 + 1] * n, st.integers(1, 40)),
    ]
    return np.array(draw(st.one_of(kinds)), np.int32).clip(1, budget)


@st.composite
def loads(draw: st.DrawFn) -> tuple[Lengths, int, int]:
    """Lengths of a step's samples, budget, number of processes."""
    budget = draw(st.integers(1, 64))
    return draw(lengths_within(budget)), budget, draw(st.integers(1, 9))


def packed(lengths: Lengths, budget: int, world_size: int) -> list[list[Indices]]:
    """A step of all the samples."""
    return pack(np.arange(len(lengths)), lengths, budget=budget, world_size=world_size)


def naive_first_fit(lengths: list[int], budget: int) -> list[int]:
    """Bins of samples that come longest first, by the book."""
    rooms: list[int] = []
    bins = []
    for length in lengths:
        found = next((at for at, room in enumerate(rooms) if room >= length), len(rooms))
        if found == len(rooms):
            rooms.append(budget)
        rooms[found] -= length
        bins.append(found)
    return bins


@given(load=loads())
# Evening the loads out would break the budget: 3+2+2 beside 3+2.
@example(load=(np.array([3, 3, 2, 2, 2]), 6, 2))
def test_packing_loses_nothing_keeps_the_budget_and_treats_processes_alike(
    load: tuple[Lengths, int, int],
) -> None:
    lengths, budget, world_size = load
    shares = packed(lengths, budget, world_size)
    assert len(shares) == world_size
    # A process with a micro-batch more than the others would wait for them in a collective, for ever.
    assert len({len(share) for share in shares}) == 1
    micro_batches = list(chain.from_iterable(shares))
    assert sorted(chain.from_iterable(micro_batches)) == list(range(len(lengths)))
    assert all(lengths[members].sum() <= budget for members in micro_batches)
    # No process waits through a round in which nobody has work.
    assert all(any(len(share[index]) for share in shares) for index in range(len(shares[0])))


@given(load=loads())
def test_there_are_as_many_micro_batches_as_first_fit_decreasing_finds(
    load: tuple[Lengths, int, int],
) -> None:
    lengths, budget, world_size = load
    bins = naive_first_fit(sorted(lengths.tolist(), reverse=True), budget)
    assert len(packed(lengths, budget, world_size)[0]) == -(-(max(bins) + 1) // world_size)


@given(st.data(), st.integers(1, 64), st.integers(1, 5), st.integers(1, 90))
def test_many_steps_at_a_time_are_placed_as_each_is_alone(
    data: st.DataObject, budget: int, steps: int, samples: int
) -> None:
    lengths = st.lists(st.integers(1, budget), min_size=samples, max_size=samples)
    longest_first = [sorted(data.draw(lengths), reverse=True) for _ in range(steps)]
    bins = first_fit(np.array(longest_first).T, budget)
    assert bins.T.tolist() == [naive_first_fit(of_step, budget) for of_step in longest_first]


@given(
    data=st.data(),
    budget=st.integers(1, 64),
    size=st.integers(1, 16),
    world_size=st.integers(1, 5),
    at_a_time=st.integers(1, 4),
)
def test_what_is_counted_is_what_will_be_packed(
    data: st.DataObject, budget: int, size: int, world_size: int, at_a_time: int
) -> None:
    lengths = data.draw(lengths_within(budget))
    schedule = Schedule(len(lengths), size, seed=data.draw(st.integers(0, 9)))
    counts = [
        len(pack(schedule.batch(step).samples, lengths, budget=budget, world_size=world_size)[0])
        for step in range(schedule.steps_per_epoch)
    ]
    ticks: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_STEPS_AT_A_TIME", at_a_time)
        found = count(lengths, schedule, budget, world_size, lambda: ticks.append(None))
    assert (found.min, found.max) == (min(counts), max(counts))
    assert found.mean == pytest.approx(sum(counts) / len(counts))
    assert len(ticks) >= schedule.steps_per_epoch // at_a_time


@given(load=loads())
def test_a_step_is_the_same_samples_however_many_processes_there_are(load: tuple[Lengths, int, int]) -> None:
    """The batch never shrinks: what one process trains on, nine train on."""
    lengths, budget, world_size = load
    schedule = Schedule(len(lengths), max(1, len(lengths) // 3), seed=1)
    for step in range(schedule.steps_per_epoch):
        samples = schedule.batch(step).samples
        one, many = (
            Counter(
                chain.from_iterable(chain.from_iterable(pack(samples, lengths, budget=budget, world_size=n)))
            )
            for n in (1, world_size)
        )
        assert one == many == Counter(samples.tolist())


@given(load=loads())
def test_packing_is_a_function_of_its_arguments(load: tuple[Lengths, int, int]) -> None:
    lengths, budget, world_size = load
    first, second = (
        [[members.tolist() for members in share] for share in packed(lengths, budget, world_size)]
        for _ in range(2)
    )
    assert first == second


@given(load=loads())
def test_the_costliest_micro_batches_come_first(load: tuple[Lengths, int, int]) -> None:
    lengths, budget, world_size = load
    shares = packed(lengths, budget, world_size)
    costs = np.array([[packing.costs_of(lengths[members]).sum() for members in share] for share in shares])
    assert (costs[:, :-1].min(axis=0) >= costs[:, 1:].max(axis=0)).all()


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60).map(lambda values: sorted(values, reverse=True)),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_levels_hold_all_that_there_is_and_no_more_than_must_be(
    values: list[int], rounds: int, world_size: int
) -> None:
    assume(len(values) <= rounds * world_size * 10)
    costs = np.array(values, np.float64)
    levels = packing._levels(costs, rounds, world_size)
    largest = np.zeros(rounds)
    largest[: len(costs[::world_size][:rounds])] = costs[::world_size][:rounds]
    assert (levels >= largest - 1e-9).all()
    assert world_size * levels.sum() >= costs.sum() - 1e-6
    # Nothing above what a round needs is given to it while another has less.
    above = levels > largest + 1e-9
    assert not above.any() or np.allclose(levels[above], levels.min())


def test_loads_are_even_where_lengths_allow() -> None:
    lengths = np.array([8, 8, 4, 4, 4, 4])
    [first], [second] = packed(lengths, 100, 2)
    assert lengths[first].sum() == lengths[second].sum() == 16


def test_beside_a_giant_the_others_get_as_much_work() -> None:
    """The first micro-batch takes as long as the giant anyway, so the other process fills it; the rest is for later."""
    lengths = np.array([100] + [10] * 14)
    shares = packed(lengths, 100, 2)
    assert [[lengths[members].sum() for members in share] for share in shares] == [[100, 20], [100, 20]]


def test_long_samples_count_for_more_than_their_tokens() -> None:
    """Attention: at equal tokens, one long sample is slower than many short ones."""
    long, short = 8192, 256
    lengths = np.array([long] + [short] * 96)
    [first], [second] = packed(lengths, 32768, 2)
    with_long, without = (first, second) if 0 in first else (second, first)
    assert lengths[with_long].sum() < lengths[without].sum()


def test_a_process_without_samples_still_takes_part() -> None:
    shares = packed(np.array([3]), 4, 3)
    assert [[members.tolist() for members in share] for share in shares] == [[[0]], [[]], [[]]]


def test_a_sample_beyond_the_budget_is_an_error_and_never_left_out() -> None:
    lengths = np.array([8, 9])
    with pytest.raises(ValueError, match="sample 1 has 9 tokens, more than the budget of 8"):
        pack(np.array([1, 0]), lengths, budget=8, world_size=1)
    with pytest.raises(ValueError, match="sample 1 has 9 tokens, more than the budget of 8"):
        count(lengths, Schedule(2, 1, 0), 8, 1, lambda: None)


def test_a_million_samples_are_counted_in_little_memory() -> None:
    """A few numbers of 8 bytes per sample: ten millions fit into any pod."""
    samples = 1_000_000
    lengths = np.random.default_rng(0).integers(8, 2048, samples).astype(np.int32)
    tracemalloc.start()
    count(lengths, Schedule(samples, 128, seed=0), 16384, 8, lambda: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * samples
