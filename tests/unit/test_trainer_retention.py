"""Which states for restarts are kept."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.checkpoints.retention import superseded

STEPS = st.integers(1, 50)


@st.composite
def shelves(draw: st.DrawFn) -> tuple[set[int], set[int], int]:
    """Steps of states that are there, those of them that are damaged, and the one that has just been added."""
    there = draw(st.sets(STEPS, min_size=1))
    newest = draw(st.sampled_from(sorted(there)))
    damaged = draw(st.sets(st.sampled_from(sorted(there)))) - {newest}
    return there, damaged, newest


@given(shelf=shelves(), keep=st.integers(1, 60))
def test_as_many_good_ones_are_kept_as_are_wanted(shelf: tuple[set[int], set[int], int], keep: int) -> None:
    there, damaged, newest = shelf
    gone = superseded(there, damaged=damaged, newest=newest, keep=keep)
    kept, good = there - gone, there - damaged
    assert newest in kept
    assert gone <= there
    assert not kept & damaged
    assert len(kept) == min(keep, len(good))
    # Nothing goes that is later than something that stays, but for the newest.
    assert all(stays > goes for stays in kept - {newest} for goes in gone - damaged)


def test_the_oldest_goes() -> None:
    assert superseded([10, 20, 30], damaged=[], newest=30, keep=2) == {10}


def test_a_damaged_one_takes_nobody_s_place() -> None:
    assert superseded([10, 20, 30], damaged=[20], newest=30, keep=2) == {20}
