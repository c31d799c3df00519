"""Runs of osft whose processes are killed: they go on with a state and with decompositions from the volume."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_api import names
from tiny import save_chat_data, save_tiny_model
from trainer.faults import OUTPUT, STATE, Fault, Moment
from trainer.survival import SAMPLES, Course

TOLERANCE = 1e-5
IN_TRAINING = [
    (Moment.GRADIENTS, "", 2),
    # The factors are changed, and the matrices not yet made of them.
    (Moment.STEP, "", 2),
    (Moment.FILE, STATE, 2),
    (Moment.RENAME, STATE, 1),
    (Moment.RENAME, OUTPUT, 1),
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory with a model of which nothing is decomposed, and data."""
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=SAMPLES)
    return tmp_path


def decompositions(base: Path) -> dict[str, int]:
    """When each of those that are complete came to be."""
    made = (base / names.DECOMPOSITIONS_DIR).glob("*/manifest.json")
    return {
        file.parent.name: file.stat().st_mtime_ns for file in made if ".incomplete" not in file.parent.name
    }


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(base: Path) -> None:
    course = Course(base, {"everySteps": 1, "keepLast": 1}, method="osft")
    directory = base / names.DECOMPOSITIONS_DIR
    # Each leaves what it had finished to the next.
    for rank, moment in enumerate((Moment.START, Moment.RENAME)):
        before = decompositions(base)
        assert course.attempt(2, Fault(directory, moment, nth=3, rank=rank))[rank] == -9
        assert before.items() < decompositions(base).items()
    for moment, kind, nth in IN_TRAINING:
        fault = Fault(course.storage, moment, kind, nth)
        assert course.attempt(2, fault)[0] == -9, f"not hit: {fault}"
    found, made = course.finish(2), decompositions(base)
    assert len(made) == 14
    assert not list(directory.glob("*.incomplete*"))
    undisturbed = Course(base, method="osft").finish(2)
    assert found == undisturbed
    assert decompositions(base) == made


def test_neither_the_decompositions_nor_the_number_of_processes_must_stay(base: Path) -> None:
    course = Course(base, {"everySteps": 1, "everyEpoch": False}, method="osft")
    for world_size in (1, 2, 3):
        # The second state is complete when the third is begun.
        assert course.attempt(world_size, Fault(course.storage, Moment.BEGUN, nth=3))[0] == -9
        shutil.rmtree(base / names.DECOMPOSITIONS_DIR)
    assert course.newest_state() >= 6
    found, alone = course.finish(2), Course(base, method="osft")
    expected = alone.finish()
    for ours, theirs in zip(found.steps, expected.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=TOLERANCE)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    one, other = (load_file(each.storage / "output/model.safetensors") for each in (course, alone))
    torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


def test_it_does_not_go_on_with_what_another_model_froze(base: Path) -> None:
    course = Course(base, {"everySteps": 1}, method="osft")
    course.expect_another_model_refused(base / "model")
    save_tiny_model(base / "model")
    course.attempts += 1
    course.finish()
