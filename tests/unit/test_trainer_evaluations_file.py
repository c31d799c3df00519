"""A line for each evaluation, whatever happened to the file in between, and what is told of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_api.report import EvaluationRecord, Report
from finetune_api.scores import Evaluated, SetScore
from finetune_api.status import MAX_LISTED_CHECKPOINTS, Checkpoint
from finetune_trainer.reports import evaluations_file, history
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.storage import Storage

TIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


def evaluated(step: int, loss: float | None = 2.0) -> Evaluated:
    sets = [SetScore(name="validation", loss=loss, tokens=5), SetScore(name="general", loss=1.0, tokens=7)]
    return Evaluated(step=step, epoch=step / 10, time=TIME, sets=sets)


def add(storage: Storage, *steps: int, attempt: int = 1) -> None:
    for step in steps:
        evaluations_file.append(storage, EvaluationRecord.of(evaluated(step), attempt))


def found(storage: Storage) -> list[tuple[int, int]]:
    return [(record.attempt, record.step) for record in evaluations_file.records(storage)]


def test_what_is_added_is_found(storage: Storage) -> None:
    assert found(storage) == []
    add(storage, 0, 10)
    add(storage, 20, attempt=2)
    assert found(storage) == [(1, 0), (1, 10), (2, 20)]
    assert history.evaluations(storage)[1] == evaluated(10)


@pytest.mark.parametrize("cut", [2, 3, 30, 100])
def test_a_line_that_was_cut_off_is_none_and_spoils_no_other(storage: Storage, cut: int) -> None:
    add(storage, 0, 10)
    whole = storage.evaluations.read_bytes()
    storage.evaluations.write_bytes(whole[:-cut])
    assert found(storage) == [(1, 0)]
    add(storage, 10, attempt=2)
    assert found(storage) == [(1, 0), (2, 10)]


def test_a_line_that_lacks_only_its_end_counts(storage: Storage) -> None:
    add(storage, 0, 10)
    storage.evaluations.write_bytes(storage.evaluations.read_bytes()[:-1])
    assert found(storage) == [(1, 0), (1, 10)]
    add(storage, 20, attempt=2)
    assert found(storage) == [(1, 0), (1, 10), (2, 20)]


def test_what_came_after_the_restored_step_is_set_aside(storage: Storage) -> None:
    add(storage, 0, 10, 20)
    add(storage, 30, 40, attempt=2)
    evaluations_file.rewind(storage, 15)
    assert found(storage) == [(1, 0), (1, 10)]
    aside = {attempt: storage.repeated_evaluations(attempt).read_text() for attempt in (1, 2)}
    assert {attempt: text.count("\n") for attempt, text in aside.items()} == {1: 1, 2: 2}
    assert '"step":20' in aside[1]


def test_a_run_without_evaluations_has_no_file(storage: Storage) -> None:
    evaluations_file.rewind(storage, 0)
    reporter = Reporter(storage, 1, None, silent=False)
    reporter.rewind(0, None)
    reporter.close()
    assert reporter.report.evaluation is None
    assert not storage.evaluations.exists()


def reported(storage: Storage) -> Report:
    return Report.from_json(storage.report.read_bytes())


def test_the_report_tells_all_evaluations_up_to_the_newest_state(storage: Storage) -> None:
    reporter = Reporter(storage, 1, None, silent=False)
    for step, loss in ((0, 3.0), (10, 2.0), (20, 2.5)):
        reporter.evaluated(evaluated(step, loss))
    reporter.stopped_early("no improvement")
    told = reported(storage).evaluation
    assert told is not None
    assert told.baseline
    assert told.latest
    assert told.best
    assert (told.baseline.step, told.latest.step, told.best.step) == (0, 20, 10)
    assert (told.validation_loss, told.stopped_early, told.final) == (2.5, "no improvement", None)
    assert told.summary == "validation loss 3 → 2.5; general 1 → 1"
    assert reported(storage).seconds_remaining == 0
    reporter.rewind(10, None)
    told = reporter.report.evaluation
    assert told is not None
    assert (told.validation_loss, told.stopped_early) == (2.0, None)
    reporter.close()


def test_a_restart_tells_no_evaluation_after_the_newest_state(storage: Storage) -> None:
    add(storage, 0, 10)
    first = history.first_report(storage, 2).evaluation
    assert first is not None
    assert first.latest is not None
    assert first.latest.step == 0, "there is no state: it begins anew"


def checkpoint(step: int, kind: str = "weights") -> Checkpoint:
    return Checkpoint.model_validate(
        {
            "name": f"{kind}-{step}",
            "step": step,
            "kind": kind,
            "path": "p",
            "bytes": 1,
            "time": TIME + timedelta(seconds=step),
        }
    )


def test_checkpoints_tell_their_validation_loss_and_which_is_the_best() -> None:
    known = [evaluated(0, 1.0), evaluated(10, 3.0), evaluated(20, 2.0)]
    listed = history.listed([checkpoint(20, "resume"), checkpoint(5), checkpoint(10), checkpoint(20)], known)
    assert [(one.step, one.kind, one.validation_loss, one.best) for one in listed] == [
        (5, "weights", None, None),
        (10, "weights", 3.0, None),
        (20, "resume", 2.0, None),
        (20, "weights", 2.0, True),
    ]
    assert all(one.best is None for one in history.listed(listed, [])), "what is no longer so is taken back"


def test_the_best_is_listed_however_old_it_is() -> None:
    many = [checkpoint(step) for step in range(1, MAX_LISTED_CHECKPOINTS + 10)]
    steps = [one.step for one in history.listed(many, [evaluated(3)])]
    assert steps == [3, *range(11, MAX_LISTED_CHECKPOINTS + 10)]
    assert len(steps) == MAX_LISTED_CHECKPOINTS
