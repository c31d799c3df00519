"""The trainer's Report, as `finetune run` reads it."""

import os
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.report import Report, Stage
from finetune_operator.cli.local.report_file import ReportFile
from finetune_trainer.reports import history
from finetune_trainer.storage import Storage

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)


def keep(storage: Storage, sequence: int, seconds: float) -> Report:
    """Leave a Report as the trainer does, so many seconds later."""
    report = Report(attempt=1, sequence=sequence, stage=Stage.TRAINING)
    history.keep(storage, report)
    time = WRITTEN.timestamp() + seconds
    os.utime(storage.report, (time, time))
    return report


def test_what_an_earlier_command_left_is_not_this_one_s(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "runs/demo", "uid-1")
    assert ReportFile(storage.report).newest() is None
    keep(storage, 5, 0)
    file = ReportFile(storage.report)
    assert file.newest() is None
    new = keep(storage, 6, 1)
    assert file.newest() == (new, WRITTEN.replace(second=1))


def test_a_report_is_as_old_as_it_is_however_often_it_is_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "runs/demo", "uid-1")
    file = ReportFile(storage.report)
    for seconds in (1.5, 2.25):
        report = keep(storage, 1, seconds)
        for _ in range(2):
            assert file.newest() == (report, WRITTEN.replace(second=int(seconds)))
    storage.report.unlink()
    assert file.newest() == (report, WRITTEN.replace(second=2))
