"""What a run is told by the losses of its steps, and that it outlives restarts."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from advice import recipe
from finetune_api.report import Metrics
from finetune_api.scores import Evaluated, SetScore
from finetune_api.status import Advice
from finetune_trainer.adviser import Adviser, lasting
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.storage import Storage

OF_EPOCH = 10
RULE = "lora-underfits"
OTHER = Advice(rule="learning-rate-low", field="spec.hyperparameters.learningRate", message="too low")
PLAN = ExactPlan(
    learning_rate=1e-5,
    effective_batch_size=4,
    num_epochs=4,
    max_seq_len=128,
    max_tokens_per_gpu=128,
    activation_checkpointing=False,
    accumulate_locally=False,
    world_size=1,
    steps_per_epoch=OF_EPOCH,
    total_steps=4 * OF_EPOCH,
    warnings=[OTHER],
)


class Run:
    """Attempts at a run, each of which goes on from a step."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._attempt = 0
        self._reporter: Reporter | None = None

    def start(self, step: int = 0) -> None:
        self.close()
        self._attempt += 1
        self._reporter = Reporter(self._storage, self._attempt, None, silent=False)
        plan = lasting(PLAN, self._reporter.report.plan)
        self._reporter.update(urgent=True, plan=plan)
        self.said_at_first = self.said
        self._adviser = Adviser(recipe("lora"), plan, self._reporter)
        self._reporter.rewind(step, None)
        self._adviser.recall(self._reporter.steps(), self._reporter.evaluations())
        self._step = step

    def train(self, *losses: float) -> None:
        assert self._reporter is not None
        for loss in losses:
            self._step += 1
            metrics = Metrics(step=self._step, loss=loss, learning_rate=1e-5, samples=4)
            self._reporter.update(metrics=metrics)
            self._adviser.hear(metrics)

    def judge(self, loss: float) -> None:
        """An evaluation shows this loss."""
        assert self._reporter is not None
        score = SetScore(name="validation", loss=loss, tokens=1)
        time = datetime(2026, 1, 1, tzinfo=UTC)
        self._reporter.evaluated(Evaluated(step=self._step, time=time, sets=[score]))
        self._adviser.judge(self._reporter.evaluations())

    def replan(self) -> None:
        assert self._reporter is not None
        self._reporter.update(urgent=True, plan=self._adviser.advised(PLAN))

    @property
    def said(self) -> list[str]:
        assert self._reporter is not None
        plan = self._reporter.report.plan
        assert plan is not None
        assert plan.warnings.count(OTHER) == 1
        return [f"{each.rule}: {each.message}" for each in plan.warnings if each != OTHER]

    def close(self) -> None:
        if self._reporter:
            self._reporter.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(Storage(tmp_path, "runs/demo", "uid-1"))
    run.start()
    yield run
    run.close()


def test_a_loss_that_rests_too_high_is_told_at_the_end_of_an_epoch_and_logged_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.train(*[2.5] * (2 * OF_EPOCH - 1))
    assert run.said == []
    run.train(2.5)
    [said] = run.said
    assert said.startswith(f"{RULE}: ")
    assert "2.50 over as many later ones" in said
    run.train(*[2.45] * OF_EPOCH)
    [said] = run.said
    assert "2.45 over as many later ones" in said
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.partition(":")[0] for warning in warnings] == [f"after step {2 * OF_EPOCH}"]


def test_what_is_no_longer_so_is_taken_back(run: Run) -> None:
    run.train(*[2.5] * (2 * OF_EPOCH))
    assert run.said
    run.train(*[1.5] * OF_EPOCH)
    assert run.said == []


def test_it_outlives_a_plan_that_is_made_anew(run: Run) -> None:
    run.train(*[2.5] * (2 * OF_EPOCH))
    said = run.said
    run.replan()
    assert run.said == said
    run.train(*[1.5] * OF_EPOCH)
    assert run.said == []


@pytest.mark.parametrize("step", [2 * OF_EPOCH, 2 * OF_EPOCH + 3, 3 * OF_EPOCH - 1])
def test_a_restart_knows_what_was_told_from_its_first_report_on(run: Run, step: int) -> None:
    run.train(*[2.5] * (2 * OF_EPOCH), *[2.0] * (OF_EPOCH - 1))
    said = run.said
    assert said
    run.start(step)
    assert run.said_at_first == run.said == said
    run.train(*[1.0] * (3 * OF_EPOCH - step))
    assert run.said == []


def test_a_restart_from_before_takes_it_back_and_finds_it_again(run: Run) -> None:
    run.train(*[2.5] * (2 * OF_EPOCH))
    said = run.said
    run.start(OF_EPOCH + 5)
    assert (run.said_at_first, run.said) == (said, [])
    run.train(*[2.5] * 5)
    assert run.said == said


def test_evaluations_are_judged_as_they_come(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for number, loss in enumerate((2.0, 2.1, 2.2, 2.3, 1.9)):
        run.judge(loss)
        assert [said.partition(":")[0] for said in run.said] == (["overfitting"] if number == 3 else [])
        run.train(*[2.0 - number / 2] * 5)
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("after step 15: spec.evaluation.earlyStopping: the model overfits: ")


def test_a_restart_knows_of_evaluations_from_its_first_report_on(run: Run) -> None:
    for number, loss in enumerate((2.0, 2.1, 2.2, 2.3)):
        run.judge(loss)
        run.train(*[2.0 - number / 2] * 5)
    said = run.said
    assert said
    run.start(16)
    assert run.said_at_first == run.said == said
    run.start(14)
    assert run.said == []


def test_others_than_the_first_process_have_nothing_to_recall(tmp_path: Path) -> None:
    reporter = Reporter(Storage(tmp_path, "demo", "uid"), 1, None, silent=True)
    assert list(reporter.steps()) == []
