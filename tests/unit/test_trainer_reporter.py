"""What is told of a run while it goes on, to whom and how often."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_api.curve import Curve
from finetune_api.evaluation import VALIDATION
from finetune_api.report import Metrics, Report, Stage
from finetune_api.scores import Evaluated, SetScore
from finetune_api.status import Checkpoint, Subspaces
from finetune_trainer import commit
from finetune_trainer.reports import history
from finetune_trainer.reports import reporter as module
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


Start = Callable[[int], Reporter]


@pytest.fixture
def start(storage: Storage) -> Iterator[Start]:
    """Starts the reporter of an attempt."""
    started = []

    def start(attempt: int) -> Reporter:
        started.append(Reporter(storage, attempt, None, silent=False))
        return started[-1]

    yield start
    for reporter in started:
        reporter.close()


def kept(storage: Storage) -> Report:
    return Report.from_json(storage.report.read_bytes())


def test_every_step_has_a_line_and_the_report_is_replaced_once_a_second(
    storage: Storage, start: Start
) -> None:
    reporter = start(1)
    reporter.stage(Stage.TRAINING)
    for step in (1, 2, 3):
        reporter.update(metrics=Metrics(step=step), seconds_remaining=9)
    assert storage.metrics.read_text().count("\n") == 3
    assert kept(storage).metrics is None
    reporter.stage(Stage.SAVING)
    assert (kept(storage).metrics, kept(storage).seconds_remaining) == (Metrics(step=3), 9)


def test_no_report_that_was_passed_on_is_newer_than_the_one_on_the_volume(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PASS_ON_SECONDS", 0.0)
    told: list[Report] = []

    class Poster:
        def offer(self, report: str, *, urgent: bool) -> None:
            told.append(Report.from_json(report))

        def close(self) -> None:
            pass

    reporter = Reporter(storage, 1, Poster(), silent=False)  # type: ignore[arg-type]
    for step in (1, 2):
        reporter.update(metrics=Metrics(step=step))
    assert [report.sequence for report in told] == [0, 1, 2]
    assert kept(storage) == told[-1]
    reporter.close()


def test_the_leak_of_the_last_step_that_measured_it_is_told(storage: Storage, start: Start) -> None:
    reporter = start(1)
    reporter.update(subspaces=Subspaces(decomposed=2, of=2, trainable_share=0.5))
    for step, leak in ((1, 1e-7), (2, 2e-7), (3, None)):
        reporter.update(metrics=Metrics(step=step, subspace_leak=leak))
    reporter.stage(Stage.SAVING)
    assert kept(storage).subspaces == Subspaces(decomposed=2, of=2, trainable_share=0.5, leak=2e-7)
    lines = [json.loads(line) for line in storage.metrics.read_text().splitlines()]
    assert [line.get("subspaceLeak") for line in lines] == [1e-7, 2e-7, None]


def test_a_restored_run_tells_of_the_step_that_it_goes_on_from(storage: Storage, start: Start) -> None:
    before = start(1)
    positions = [before.position]
    for step in (1, 2, 3):
        before.update(metrics=Metrics(step=step), initial_loss=4.0)
        positions.append(before.position)
    before.stage(Stage.FAILED)
    again = start(2)
    again.rewind(2, positions[2])
    again.stage(Stage.TRAINING)
    assert (kept(storage).metrics, kept(storage).initial_loss) == (Metrics(step=2), 4.0)
    assert again.position == positions[2]
    again.rewind(0, None)
    again.stage(Stage.TRAINING)
    assert (kept(storage).metrics, kept(storage).initial_loss, again.position) == (None, None, 0)


def step(number: int) -> Metrics:
    return Metrics(
        step=number, loss=1 / number, learning_rate=1e-6 / number, tokens_per_second=100.0 + number
    )


def judged(number: int) -> Evaluated:
    score = SetScore(name=VALIDATION, loss=2 / (1 + number), tokens=1)
    return Evaluated(step=number, time=datetime(2026, 1, 1, tzinfo=UTC), sets=[score])


def curve(storage: Storage) -> Curve:
    found = kept(storage).curve
    assert found is not None
    return found


def test_a_run_that_was_killed_and_resumed_is_drawn_as_an_undisturbed_one(
    storage: Storage, start: Start, tmp_path: Path
) -> None:
    def train(reporter: Reporter, first: int, last: int) -> None:
        for number in range(first, last + 1):
            reporter.update(metrics=step(number))
            if number % 30 == 0:
                reporter.evaluated(judged(number))

    elsewhere = Storage(tmp_path / "undisturbed", "runs/undisturbed", "uid-2")
    elsewhere.root.mkdir()
    undisturbed = Reporter(elsewhere, 1, None, silent=False)
    undisturbed.evaluated(judged(0))
    train(undisturbed, 1, 150)
    undisturbed.stage(Stage.SAVING)
    undisturbed.close()
    killed = start(1)
    killed.evaluated(judged(0))
    train(killed, 1, 140)
    # Its state is that after step 70, on the other side of where points became twice as wide, and of evaluations.
    again = start(2)
    again.rewind(70, None)
    again.stage(Stage.TRAINING)
    assert curve(storage).steps[-1] == 70
    assert curve(storage).validation_steps == [0, 30, 60]
    train(again, 71, 150)
    again.stage(Stage.SAVING)
    assert curve(storage) == curve(elsewhere)
    assert curve(storage).validation_steps == [0, 30, 60, 90, 120, 150]
    again.rewind(0, None)
    again.stage(Stage.TRAINING)
    assert curve(storage) == Curve(validation_steps=[0], validation_loss=[2.0])


def test_before_it_has_restored_an_attempt_draws_no_step_that_it_will_do_again(
    storage: Storage, start: Start
) -> None:
    before = start(1)
    for number in (1, 2, 3):
        before.update(metrics=step(number))
    state = storage.resume / "step-2"
    file = commit.start(state) / "x"
    file.touch()
    files = commit.sealed([file], lambda: None)
    commit.publish(state, uid=storage.uid, files=files, facts={"step": 2, "epoch": 1.0})
    again = start(2)
    again.stage(Stage.LOADING)
    assert curve(storage).steps == [1, 2]


def test_what_was_not_drawn_when_a_process_was_killed_is_drawn_of_the_metrics_file(
    storage: Storage, start: Start
) -> None:
    reporter = start(1)
    for number in (1, 2):
        reporter.update(metrics=step(number))
    assert kept(storage).curve is None
    told = history.last_report(storage, 1).curve
    assert told is not None
    assert told.steps == [1, 2]


def test_states_that_were_removed_are_listed_no_more_and_others_are(storage: Storage, start: Start) -> None:
    def saved(kind: str, step: int) -> Checkpoint:
        directory = "resume" if kind == "resume" else "checkpoints"
        name = f"{directory}/step-{step}"
        (storage.root / name).mkdir(parents=True)
        time = datetime(2026, 1, 1, tzinfo=UTC)
        return Checkpoint.model_validate(
            {"name": name, "step": step, "epoch": 1, "kind": kind, "path": name, "bytes": 1, "time": time}
        )

    reporter = start(1)
    for kind, step in (("resume", 1), ("weights", 2), ("resume", 3)):
        reporter.checkpoint(saved(kind, step))
    (storage.root / "resume/step-1").rmdir()
    reporter.checkpoint(saved("resume", 4))
    listed = [(checkpoint.kind, checkpoint.step) for checkpoint in kept(storage).checkpoints]
    assert listed == [("weights", 2), ("resume", 3), ("resume", 4)]


def test_threads_that_report_at_once_lose_nothing(
    storage: Storage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.0)
    reporter = start(1)
    over = threading.Event()

    def tick() -> None:
        while not over.is_set():
            reporter.tick()

    helpers = [threading.Thread(target=tick) for _ in range(3)]
    for helper in helpers:
        helper.start()
    for step in range(1, 201):
        reporter.update(metrics=Metrics(step=step))
        assert reporter.report.metrics == Metrics(step=step)
    over.set()
    for helper in helpers:
        helper.join()
    assert storage.metrics.read_text().count("\n") == 200


def test_other_ranks_are_silent(storage: Storage) -> None:
    reporter = Reporter(storage, 1, None, silent=True)
    reporter.update(metrics=Metrics(step=1))
    reporter.rewind(1, 5)
    assert reporter.position == 0
    reporter.close()
    assert list(storage.root.iterdir()) == []
