"""What is told of each step: the log, beside what tests of the Reporter and of the trackers see."""

import logging
from pathlib import Path

import pytest

from finetune_api.report import Stage, StepSeconds
from finetune_api.status import Subspaces
from finetune_trainer.batches import Schedule
from finetune_trainer.feed import MicroBatches, Step
from finetune_trainer.progress import Progress, leak_warning
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.step import Measured
from finetune_trainer.storage import Storage
from finetune_trainer.trackers import Trackers

SCHEDULE = Schedule(samples=12, batch_size=4, seed=42)
# What rounding makes.
SOUND = 1e-7
PARTS = StepSeconds(data=0.1, compute=0.8, communication=0.1, checkpoint=0)


def step(index: int) -> Step:
    return Step(
        index,
        SCHEDULE.batch(index),
        MicroBatches(_feed=None, _number=1),  # type: ignore[arg-type]
        members=[],
        tokens=100,
        loss_tokens=50,
        padding=0,
    )


def measured(leak: float | None) -> Measured:
    return Measured(
        loss=2.0,
        grad_norm=1.0,
        learning_rate=1e-5,
        peak_memory=1,
        padding=0,
        stop=False,
        overdue=False,
        leak=leak,
    )


def telling(reporter: Reporter, *, speaks: bool = False) -> Progress:
    """Of a run of six steps."""
    return Progress(
        samples=None,  # type: ignore[arg-type]
        schedule=SCHEDULE,
        total_steps=6,
        hardware=None,
        reporter=reporter,
        trackers=Trackers(),
        adviser=None,
        speaks=speaks,
    )


@pytest.mark.parametrize("speaks", [True, False])
def test_a_leak_that_rounding_does_not_explain_is_told_once_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, speaks: bool
) -> None:
    reporter = Reporter(Storage(tmp_path, "demo", "uid"), 1, None, silent=False)
    reporter.update(subspaces=Subspaces(decomposed=1, of=1))
    told = telling(reporter, speaks=speaks)
    for index, leak in enumerate((SOUND, None, 2e-3, None, 3e-3)):
        told.tell(step(index), measured(leak), 1.0, PARTS)
    reporter.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.partition(" into")[0] for warning in warnings] == [
        "step 3: what osft trains reaches by 2.0e-03"
    ] * speaks
    assert reporter.report.subspaces == Subspaces(decomposed=1, of=1, leak=3e-3)


def test_what_is_left_counts_the_evaluations_to_come(tmp_path: Path) -> None:
    reporter = Reporter(Storage(tmp_path, "demo", "uid"), 1, None, silent=False)
    told = telling(reporter)
    told.tell(step(0), measured(None), 2.0, PARTS)
    assert reporter.report.seconds_remaining == 10
    reporter.stage(Stage.TRAINING)
    told.tell(step(1), measured(None), 2.0, PARTS, evaluating=7.0)
    reporter.stage(Stage.TRAINING)
    assert reporter.report.seconds_remaining == 15
    reporter.close()


def test_what_rounding_makes_is_no_leak() -> None:
    assert leak_warning(None) is leak_warning(0.0) is leak_warning(SOUND) is leak_warning(1e-4) is None
    assert leak_warning(1.1e-4) is not None


def test_a_save_that_training_waits_for_is_spread_over_the_steps(tmp_path: Path) -> None:
    reporter = Reporter(Storage(tmp_path, "demo", "uid"), 1, None, silent=False)
    told = telling(reporter)
    for index in range(3):
        told.tell(step(index), measured(None), 1.0, PARTS)
    assert reporter.report.seconds_remaining == 3
    told.tell(step(3), measured(None), 1.0, PARTS.model_copy(update={"checkpoint": 60.0}))
    assert reporter.report.seconds_remaining == 2 * (1 + 60 / 4)
    told.tell(step(4), measured(None), 1.0, PARTS)
    assert reporter.report.seconds_remaining == 1 + 60 / 5
    reporter.close()
