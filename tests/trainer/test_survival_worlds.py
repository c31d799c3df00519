"""A run goes on with another number of processes: with the same samples in the same order, and to the same weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.faults import Fault, Moment
from trainer.survival import Course, Result

TOLERANCE = 1e-5


def test_the_number_of_processes_changes_at_every_restart(
    survivors: Path, undisturbed: dict[int, Result]
) -> None:
    alone = Course(survivors)
    alone.finish()
    course = Course(survivors, {"everySteps": 1})
    for world_size in (1, 2, 1, 2):
        # The second state is complete when the third is begun.
        assert course.attempt(world_size, Fault(course.storage, Moment.BEGUN, nth=3))[0] == -9
    assert course.newest_state() >= 8
    found, expected = course.finish().steps, undisturbed[1].steps
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.step, ours.epoch, ours.samples, ours.samples_seen) == (
            theirs.step,
            theirs.epoch,
            theirs.samples,
            theirs.samples_seen,
        )
        assert ours.learning_rate == theirs.learning_rate
        assert ours.loss == pytest.approx(theirs.loss, abs=TOLERANCE)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    for name in undisturbed[1].models:
        one, other = (
            load_file(base / name / "model.safetensors") for base in (course.storage, alone.storage)
        )
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)
