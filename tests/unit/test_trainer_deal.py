"""Matrices are dealt to processes: each to one, and the work about equally."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.subspaces.deal import deal, decomposition_cost

COSTS = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


@given(COSTS, st.integers(1, 9))
def test_each_goes_to_one_hand_the_dearest_first(costs: list[int], hands: int) -> None:
    dealt = deal(costs, hands)
    assert len(dealt) == hands
    assert sorted(thing for hand in dealt for thing in hand) == list(range(len(costs)))
    for hand in dealt:
        assert [costs[thing] for thing in hand] == sorted((costs[thing] for thing in hand), reverse=True)


@given(COSTS, st.integers(1, 9))
def test_no_hand_has_much_more_than_its_share(costs: list[int], hands: int) -> None:
    """Whatever is dealt last goes to a hand with at most the average of all others."""
    fullest = max(sum(costs[thing] for thing in hand) for hand in deal(costs, hands))
    assert fullest * hands <= sum(costs) + max(costs) * (hands - 1)


def test_llama_on_eight_gpus_is_dealt_evenly() -> None:
    shapes = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), *[(14336, 4096)] * 3] * 32
    costs = [decomposition_cost(*shape) for shape in shapes]
    totals = [sum(costs[thing] for thing in hand) for hand in deal(costs, 8)]
    assert max(totals) <= 1.01 * sum(totals) / 8


def test_it_is_the_cost_that_is_dealt_evenly_not_the_number() -> None:
    assert deal([1, 1, 1, 5, 1, 1], 2) == [[3], [0, 1, 2, 4, 5]]


def test_a_wide_matrix_costs_what_a_tall_one_costs() -> None:
    assert decomposition_cost(3, 5) == decomposition_cost(5, 3) == 45
