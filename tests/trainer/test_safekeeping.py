"""What is saved along the way and before leaving, and what the Report says of it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import Checkpoints as Wanted
from finetune_trainer.checkpoints.cadence import Cadence
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.safekeeping import Safekeeping
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.methods import sft
from finetune_trainer.model import load_config
from finetune_trainer.reports.reporter import Reporter
from tiny import save_tiny_model
from trainer.states import advance, alone, assert_same, checkpoints_in, content, small, state_of

PER_EPOCH, TOTAL = 4, 10

Make = Callable[..., Safekeeping]


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """A gang of this process alone."""
    with alone() as made:
        yield made


@pytest.fixture
def checkpoints(gang: Gang, tmp_path: Path) -> Checkpoints:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "run").mkdir()
    return checkpoints_in(tmp_path / "run", gang, tmp_path / "model")


@pytest.fixture
def reporter(checkpoints: Checkpoints) -> Iterator[Reporter]:
    found = Reporter(checkpoints.storage, 1, None, silent=False)
    yield found
    found.close()


@pytest.fixture
def make(gang: Gang, checkpoints: Checkpoints, reporter: Reporter) -> Make:
    """Makes that of a run which went on from the state after the step `newest`."""

    def made(state: State, newest: int = 0, **wanted: Any) -> Safekeeping:
        return Safekeeping(
            Cadence(Wanted(**{"every_epoch": False, **wanted}), PER_EPOCH, TOTAL),
            checkpoints,
            state,
            gang,
            reporter,
            epoch=lambda step: step / PER_EPOCH,
            newest=newest,
        )

    return made


def listed(keeping: Safekeeping) -> list[tuple[str, int]]:
    """Kind and step of the checkpoints in the Report."""
    return [(found.kind, found.step) for found in keeping.reporter.report.checkpoints]


def test_states_are_listed_once_they_are_complete(gang: Gang, checkpoints: Checkpoints, make: Make) -> None:
    state = small(gang)
    keeping = make(state, every_steps=2)
    for step in range(1, TOTAL + 1):
        advance(state)
        keeping.after(step, overdue=step == 7)
        assert all(
            (checkpoints.storage.root / found.name).exists() for found in keeping.reporter.report.checkpoints
        )
    # That after step 10 is the result.
    assert keeping.before_leaving(8, 0) == "the state after step 8 is saved"
    assert listed(keeping) == [("resume", 7), ("resume", 8)]


def test_a_state_on_its_way_is_waited_for_and_not_saved_twice(
    gang: Gang, checkpoints: Checkpoints, make: Make
) -> None:
    state = small(gang)
    keeping = make(state, every_steps=1)
    advance(state)
    keeping.after(1, overdue=False)
    # Of the step that is abandoned nothing gets into it, and no time is left for another.
    expected = content(state)
    assert keeping.before_leaving(1, 0) == "the state after step 1 is saved"
    assert listed(keeping) == [("resume", 1)]
    restored = small(gang)
    assert checkpoints.restore(restored).step == 1
    assert_same(content(restored), expected)


def test_a_state_that_would_not_fit_into_the_time_that_is_left_is_not_begun(
    gang: Gang, checkpoints: Checkpoints, make: Make
) -> None:
    state = small(gang)
    keeping = make(state, every_steps=2)
    advance(state)
    keeping.after(2, overdue=False)
    advance(state)
    said = keeping.before_leaving(3, 0.001)
    assert re.fullmatch(
        r"the state after step 3 is not saved: that takes \d\.\d s, and 0\.0 s are left of "
        r"spec\.failurePolicy\.gracePeriodSeconds; the newest is that after step 2",
        said,
    )
    assert [path.name for path in checkpoints.storage.resume.iterdir()] == ["step-00000002"]
    assert keeping.before_leaving(3, 60) == "the state after step 3 is saved"


def test_a_first_state_is_tried_whatever_time_is_left(
    gang: Gang, checkpoints: Checkpoints, make: Make
) -> None:
    state = small(gang)
    keeping = make(state)
    advance(state)
    assert keeping.before_leaving(1, 0.001) == "the state after step 1 is saved"
    assert listed(keeping) == [("resume", 1)]


def test_before_the_first_step_there_is_nothing_to_save(
    gang: Gang, checkpoints: Checkpoints, make: Make
) -> None:
    keeping = make(small(gang))
    assert keeping.before_leaving(0, 60) == "there is nothing to save before step 1"
    assert not checkpoints.storage.resume.exists()


def test_a_model_that_an_earlier_attempt_did_not_get_to_is_made_up_for(
    gang: Gang, checkpoints: Checkpoints, make: Make
) -> None:
    base = checkpoints.storage.root.with_name("model")
    state = state_of(sft.build(base, load_config(base), gang, activation_checkpointing=False))
    for step, expected in ((3, []), (4, [("weights", 4)])):
        keeping = make(state, newest=step, every_epoch=True)
        keeping.make_up()
        assert listed(keeping) == expected
    [model] = checkpoints.storage.checkpoints.iterdir()
    before = (model / "manifest.json").read_text()
    make(state, newest=4, every_epoch=True).make_up()
    assert (model / "manifest.json").read_text() == before
