"""What is saved after which step."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import Checkpoints
from finetune_trainer.checkpoints.cadence import Cadence

PER_EPOCH, TOTAL = 4, 10


def steps(kind: str, *, overdue: frozenset[int] = frozenset(), **wanted: Any) -> list[int]:
    """The steps of a run after which one kind is saved; after some of them the newest state is too old."""
    cadence = Cadence(Checkpoints(**wanted), PER_EPOCH, TOTAL)
    return [step for step in range(1, TOTAL + 1) if getattr(cadence.due(step, overdue=step in overdue), kind)]


def test_models_and_states_are_saved_at_the_end_of_each_epoch() -> None:
    assert steps("weights") == steps("resume") == [4, 8]
    assert steps("full_state") == []


def test_models_only_if_wanted() -> None:
    assert steps("weights", every_epoch=False) == []
    assert steps("resume", every_epoch=False) == [4, 8]


def test_states_after_every_so_many_steps_too() -> None:
    assert steps("resume", every_steps=3) == [3, 4, 6, 8, 9]
    assert steps("weights", every_steps=3) == [4, 8]


def test_states_when_the_newest_is_too_old() -> None:
    assert steps("resume", overdue=frozenset({2, 10})) == [2, 4, 8]


def test_a_full_state_is_one_to_go_on_from() -> None:
    assert steps("full_state", full_state_at_epoch=True) == [4, 8]
    assert steps("resume", full_state_at_epoch=True, every_steps=2) == [2, 6]
    assert steps("weights", full_state_at_epoch=True) == [4, 8]


def test_age_is_counted_in_minutes() -> None:
    cadence = Cadence(Checkpoints(every_minutes=2), PER_EPOCH, TOTAL)
    assert not cadence.overdue(119.9)
    assert cadence.overdue(120)


@given(
    wanted=st.builds(
        Checkpoints,
        every_epoch=st.booleans(),
        every_steps=st.none() | st.integers(1, 12),
        full_state_at_epoch=st.booleans(),
    ),
    per_epoch=st.integers(1, 6),
    total=st.integers(1, 20),
    overdue=st.booleans(),
)
def test_no_epoch_ends_without_a_state_to_go_on_from_and_the_last_step_needs_none(
    wanted: Checkpoints, per_epoch: int, total: int, overdue: bool
) -> None:
    cadence = Cadence(wanted, per_epoch, total)
    assert not cadence.due(total, overdue=overdue).resume
    for step in range(per_epoch, total, per_epoch):
        due = cadence.due(step, overdue=overdue)
        # One of them is enough.
        assert due.resume != due.full_state
