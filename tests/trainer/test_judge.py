"""How long evaluations will take, from how long they took."""

import time
from types import SimpleNamespace
from typing import cast

import pytest

from finetune_api.evaluation import VALIDATION, Evaluation
from finetune_api.scores import SetScore
from finetune_trainer.checkpoints.safekeeping import Safekeeping
from finetune_trainer.distributed import Gang
from finetune_trainer.judging.judge import Judge, Outlook, Scores
from finetune_trainer.judging.timing import Timing
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.step import Guard
from finetune_trainer.trackers import Trackers

SECONDS = 0.3


class Slow:
    """An evaluator that takes its time, and may be interrupted."""

    interrupted = False

    def evaluate(self, budget: int, guarding: Guard) -> list[SetScore] | None:
        time.sleep(SECONDS)
        return None if self.interrupted else [SetScore(name=VALIDATION, tokens=9, loss=1.0)]


def judge(evaluator: Scores | None) -> Judge:
    """Of one process, of which another one tells."""
    return Judge(
        Timing(Evaluation(), 4, 12),
        rule=None,
        keeps_best=False,
        evaluator=evaluator,
        gang=cast("Gang", SimpleNamespace(is_first=False)),
        reporter=cast(
            "Reporter", SimpleNamespace(stage=lambda stage: None, evaluated=lambda evaluated: None)
        ),
        trackers=Trackers(),
        adviser=None,
        epoch=lambda steps: steps / 4,
    )


def after(made: Judge, step: int) -> Outlook:
    return made.after(step, 100, cast("Guard", None), cast("Safekeeping", None))


def test_each_that_is_left_is_taken_to_last_as_long_as_the_last_one() -> None:
    made = judge(Slow())
    assert made.seconds_left(0) == 0, "nobody knows yet"
    assert after(made, 0) is Outlook.ON
    assert 3 * SECONDS <= made.seconds_left(0) < 30 * SECONDS
    assert made.seconds_left(4) == pytest.approx(2 / 3 * made.seconds_left(3))
    assert made.seconds_left(12) == 0


def test_one_that_was_interrupted_tells_nothing() -> None:
    slow = Slow()
    slow.interrupted = True
    made = judge(slow)
    assert after(made, 0) is Outlook.INTERRUPTED
    assert made.seconds_left(0) == 0


def test_nothing_is_left_where_nothing_is_evaluated() -> None:
    made = judge(None)
    assert after(made, 0) is Outlook.ON
    assert made.seconds_left(0) == 0
