"""What earlier processes of a run left behind."""

from pathlib import Path

import pytest

from finetune_api.report import Failure, Metrics, Report, Stage
from finetune_trainer import history
from finetune_trainer.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


def append(storage: Storage, report: Report) -> None:
    with history.open_metrics(storage) as metrics:
        history.append(metrics, report)


REPORT = Report(
    attempt=1, sequence=7, stage=Stage.TRAINING, metrics=Metrics(step=3, loss=1.5), resumed_from_step=2
)


def test_a_run_that_never_reported_begins_at_zero(storage: Storage) -> None:
    assert history.last_report(storage, 2) == Report(attempt=2, sequence=0, stage=Stage.STARTING)


def test_the_same_attempt_goes_on_counting(storage: Storage) -> None:
    append(storage, REPORT)
    assert history.last_report(storage, 1) == REPORT.model_copy(update={"sequence": 8})


def test_a_later_attempt_counts_anew_and_keeps_what_holds_for_the_run(storage: Storage) -> None:
    append(storage, REPORT.model_copy(update={"failure": Failure(exit_code=1, reason="Error", message="x")}))
    found = history.last_report(storage, 2)
    assert (found.attempt, found.sequence, found.failure, found.resumed_from_step) == (2, 0, None, None)
    assert found.metrics == REPORT.metrics


def test_a_line_that_was_cut_off_is_passed_over_and_ended(storage: Storage) -> None:
    append(storage, REPORT)
    whole = storage.metrics.read_text()
    storage.metrics.write_text(whole + whole[:20])
    assert history.last_report(storage, 1).sequence == 8
    append(storage, REPORT)
    assert storage.metrics.read_text() == f"{whole}{whole[:20]}\n{whole}"


def test_paths_are_told_as_they_lie_on_the_claim(storage: Storage) -> None:
    assert storage.on_claim(storage.checkpoints / "step-1") == "runs/demo/checkpoints/step-1"
