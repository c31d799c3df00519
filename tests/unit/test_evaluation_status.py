"""What the status and the events tell of evaluations."""

from datetime import UTC, datetime

from finetune_api.report import Metrics, Report, Stage
from finetune_api.scores import Evaluated, EvaluationStatus, SetScore, with_changes
from finetune_api.status import FineTuneJobStatus, Plan
from finetune_operator.status.evaluation import outcome, with_evaluation
from finetune_operator.status.progress import with_report
from finetune_operator.status.transitions import events

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def evaluated(step: int, **losses: float | None) -> Evaluated:
    sets = [SetScore(name=name, loss=loss, tokens=10) for name, loss in losses.items()]
    return Evaluated(step=step, time=NOW, sets=sets)


BEFORE = evaluated(0, validation=2.3123456, general=2.05)
GOOD = evaluated(20, validation=1.87, general=2.07)
WORSE = evaluated(30, validation=1.9, general=2.2)


def of(latest: Evaluated, best: Evaluated | None = None, **more: object) -> EvaluationStatus:
    found = {"baseline": BEFORE, "latest": latest, "best": best, "validation_loss": latest.validation_loss}
    return EvaluationStatus.model_validate(found | more)


PLAN = Plan(learning_rate=0.1, num_epochs=2, world_size=1, total_steps=36)


def report(evaluation: EvaluationStatus | None) -> Report:
    metrics = Metrics(step=20)
    return Report(attempt=1, sequence=1, stage=Stage.TRAINING, metrics=metrics, evaluation=evaluation)


def told(old: EvaluationStatus | None, new: EvaluationStatus | None) -> list[tuple[str, str, str]]:
    found = events(FineTuneJobStatus(evaluation=old), FineTuneJobStatus(evaluation=new))
    return [(event.reason, event.type, event.message) for event in found]


def test_numbers_are_those_that_people_read() -> None:
    found = with_report(FineTuneJobStatus(), report(of(BEFORE)), NOW).evaluation
    assert found is not None
    assert found.baseline is not None
    assert (found.validation_loss, found.baseline.validation_loss) == (2.3123, 2.3123)


def test_a_report_without_evaluations_takes_nothing_back() -> None:
    known = with_evaluation(None, report(of(GOOD, GOOD)))
    assert with_evaluation(known, report(None)) == known


def test_last_words_that_were_cut_short_keep_what_is_known() -> None:
    known = with_evaluation(None, report(of(GOOD, GOOD)))
    short = EvaluationStatus(baseline=BEFORE, final=WORSE)
    found = with_evaluation(known, report(short), final=True)
    assert known is not None
    assert found is not None
    assert (found.final, found.best, found.latest) == (WORSE, known.best, known.latest)
    assert with_evaluation(known, report(short)).best is None  # type: ignore[union-attr]


def test_what_training_changed_is_told_in_words() -> None:
    assert outcome(of(GOOD, GOOD, final=GOOD)) == "validation loss 2.312 → 1.87; general 2.05 → 2.07"
    assert outcome(of(GOOD, GOOD)) is None
    lone = EvaluationStatus(latest=GOOD, final=GOOD)
    assert outcome(lone) == "validation loss 1.87; general 2.07"


def test_events_tell_the_baseline_and_what_follows() -> None:
    assert told(None, of(BEFORE)) == [
        ("Baseline", "Normal", "before training: validation loss 2.312; general 2.05")
    ]
    words = "after step 20: validation loss 2.312 → 1.87; general 2.05 → 2.07. The best so far"
    assert told(of(BEFORE), of(GOOD, GOOD)) == [("Improved", "Normal", words)]
    assert told(of(GOOD, GOOD), of(GOOD, GOOD)) == []
    [(reason, kind, words)] = told(of(GOOD, GOOD), of(WORSE, GOOD))
    assert (reason, kind) == ("NotImproved", "Warning")
    assert words.endswith("The best validation loss is 1.87, after step 20")
    # A quick job may have come so far before anybody looked.
    assert [reason for reason, _, _ in told(None, of(GOOD, GOOD))] == ["Baseline", "Improved"]


def test_the_best_is_told_though_another_followed_before_anybody_looked() -> None:
    found = told(of(BEFORE), of(WORSE, GOOD))
    assert [(reason, words.split(":")[0]) for reason, _, words in found] == [
        ("Improved", "after step 20"),
        ("NotImproved", "after step 30"),
    ]
    base_is_best = told(of(BEFORE), of(WORSE, BEFORE))
    assert [reason for reason, _, _ in base_is_best] == ["NotImproved"]


def test_without_validation_data_nothing_is_called_better() -> None:
    skill = evaluated(20, general=2.07)
    assert [reason for reason, _, _ in told(of(BEFORE), of(skill))] == ["Evaluated"]
    lost = evaluated(20, general=None)
    assert told(of(BEFORE), of(lost)) == [("Evaluated", "Normal", "after step 20: no set has a finite loss")]


def test_an_early_end_is_told_once_and_is_no_job_half_done() -> None:
    why = "no improvement in 3 evaluations"
    stopped = of(WORSE, GOOD, stopped_early=why)
    assert ("StoppedEarly", "Normal", why) in told(of(WORSE, GOOD), stopped)
    assert told(stopped, stopped) == []
    found = with_report(FineTuneJobStatus(plan=PLAN), report(stopped), NOW).progress
    assert found is not None
    assert (found.percent, found.summary) == (100, "20/36 (stopped early)")


def test_a_change_is_the_difference_from_the_baseline() -> None:
    changed = with_changes(evaluated(20, validation=1.5, other=1.0), BEFORE)
    assert [score.change for score in changed.sets] == [1.5 - 2.3123456, None]
    assert [score.change for score in with_changes(evaluated(20, validation=1.5), None).sets] == [None]
