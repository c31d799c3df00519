"""What earlier processes of a run left behind, and what is told first because of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_api.report import Failure, Metrics, Report, Stage, StepRecord
from finetune_api.status import Subspaces
from finetune_trainer import commit
from finetune_trainer.reports import history
from finetune_trainer.reports.metrics_file import MetricsFile
from finetune_trainer.storage import Storage

TIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


def metrics(step: int) -> Metrics:
    return Metrics(step=step, loss=1 / step)


def train(storage: Storage, steps: int, *, attempt: int = 1) -> None:
    file = MetricsFile(storage)
    for step in range(1, steps + 1):
        file.append(StepRecord.of(metrics(step), attempt, TIME))
    file.close()


def save_state(storage: Storage, step: int) -> None:
    final = storage.resume / f"step-{step:08d}"
    file = commit.start(final) / "x"
    file.touch()
    facts = {"step": step, "epoch": 0.5}
    commit.publish(final, uid=storage.uid, files=commit.sealed([file], lambda: None), facts=facts)


REPORT = Report(
    attempt=1,
    sequence=7,
    stage=Stage.TRAINING,
    metrics=metrics(3),
    resumed_from_step=2,
    initial_loss=1,
    seconds_remaining=60,
    subspaces=Subspaces(decomposed=3, of=3, leak=1e-7),
)


def test_a_run_that_never_reported_begins_at_zero(storage: Storage) -> None:
    assert history.last_report(storage, 2) == Report(attempt=2, sequence=0, stage=Stage.STARTING)


def test_the_last_report_of_an_attempt_is_followed(storage: Storage) -> None:
    history.keep(storage, REPORT)
    assert history.last_report(storage, 1) == REPORT.model_copy(update={"sequence": 8})


def test_the_last_step_is_told_even_if_no_report_of_it_was_kept(storage: Storage) -> None:
    history.keep(storage, REPORT)
    train(storage, 5)
    assert history.last_report(storage, 1).metrics == metrics(5)
    assert history.last_report(storage, 1).initial_loss == 1


def test_the_states_that_are_there_are_told_even_if_no_report_of_them_was_kept(storage: Storage) -> None:
    save_state(storage, 4)
    history.keep(storage, REPORT.model_copy(update={"checkpoints": history.checkpoints(storage)}))
    # What saves makes room for a new state at once; the Report that tells so may find the volume full.
    save_state(storage, 8)
    commit.remove(storage.state_after(4))
    assert [checkpoint.step for checkpoint in history.last_report(storage, 1).checkpoints] == [8]


def test_an_attempt_that_made_no_step_does_not_claim_those_of_the_one_before(storage: Storage) -> None:
    train(storage, 5)
    history.keep(storage, REPORT.model_copy(update={"attempt": 2, "metrics": metrics(3)}))
    assert history.last_report(storage, 2).metrics == metrics(3)
    assert history.last_report(storage, 3).metrics is None


@pytest.mark.parametrize("attempt", [1, 2])
def test_what_starts_again_tells_of_no_step_after_the_newest_state(storage: Storage, attempt: int) -> None:
    train(storage, 5)
    failure = Failure(exit_code=1, reason="Error", message="x")
    history.keep(storage, REPORT.model_copy(update={"failure": failure, "metrics": metrics(5)}))
    save_state(storage, 4)
    found = history.first_report(storage, attempt)
    assert found.metrics == metrics(4)
    assert [checkpoint.step for checkpoint in found.checkpoints] == [4]
    assert (found.stage, found.failure, found.resumed_from_step) == (Stage.STARTING, None, None)
    assert (found.seconds_remaining, found.initial_loss) == (None, 1)
    # The pod's own processes go on counting; another attempt counts anew.
    assert (found.attempt, found.sequence) == (attempt, {1: 8, 2: 0}[attempt])


def test_without_a_state_nothing_of_the_steps_before_is_told(storage: Storage) -> None:
    train(storage, 5)
    history.keep(storage, REPORT)
    found = history.first_report(storage, 2)
    assert (found.metrics, found.subspaces) == (None, None), "it has decomposed nothing yet"


def test_of_a_finished_run_the_last_step_is_told(storage: Storage) -> None:
    train(storage, 3)
    history.keep(storage, REPORT)
    (commit.start(storage.output) / "model").touch()
    files = commit.sealed([commit.temporary(storage.output) / "model"], lambda: None)
    commit.publish(storage.output, uid=storage.uid, files=files, facts={"format": "model"})
    found = history.last_report(storage, 2)
    assert (found.metrics, found.subspaces) == (metrics(3), REPORT.subspaces)


@pytest.mark.parametrize("left", ["", '{"attempt": 1, "sequ', '{"attempt": 1, "ofAnotherVersion": true}'])
def test_a_report_that_cannot_be_read_is_none(storage: Storage, left: str) -> None:
    storage.report.write_text(left)
    assert history.last_report(storage, 1) == Report(attempt=1, sequence=0, stage=Stage.STARTING)


def test_a_report_takes_the_place_of_the_one_before_and_leaves_nothing_else(storage: Storage) -> None:
    for step in (1, 2):
        history.keep(storage, REPORT.model_copy(update={"metrics": metrics(step)}))
    assert Report.from_json(storage.report.read_bytes()).metrics == metrics(2)
    assert [path.name for path in storage.root.iterdir()] == ["report.json"]


def test_paths_are_told_as_they_lie_on_the_claim(storage: Storage) -> None:
    assert storage.on_claim(storage.checkpoints / "step-1") == "runs/demo/checkpoints/step-1"
