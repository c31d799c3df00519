"""Runs that end before their last step, and deliver the best of what they had: whatever hits them on their way."""

import signal
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from finetune_api.report import Stage
from trainer.faults import WEIGHTS, Fault, Moment
from trainer.gangs import kept_report
from trainer.judged import EVERY, PATIENCE, STEPS, Judged, save_inputs
from trainer.survival import Result, digest

DELIVERS = {"everyEpoch": False, "deliverBest": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("judged")
    save_inputs(base)
    return base


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> tuple[Judged, Result]:
    """A run that nothing hits, which delivers the best."""
    course = Judged(base, DELIVERS)
    return course, course.finish()


def expected_end(scores: dict[int, float]) -> tuple[int, int]:
    """The steps with the lowest loss and the one at which patience ends, by plain counting."""
    lowest, best, since = float("inf"), 0, 0
    for step, loss in scores.items():
        if loss < lowest:
            lowest, best, since = loss, step, 0
        elif step:
            since += 1
        if since == PATIENCE:
            return best, step
    raise AssertionError("the data of this test let it get better all the time")


def output(course: Judged) -> str:
    """Digest of the weights that a run delivers."""
    [file] = (course.storage / "output").glob("*.safetensors")
    return digest(file)


def plain(base: Path, steps: int, world_size: int = 1) -> str:
    """Digest of what comes out of so many steps when nobody evaluates anything."""
    course = Judged(base, evaluation=None, hyperparameters={"maxSteps": steps})
    course.finish(world_size)
    assert not course.evaluations.exists()
    return output(course)


def test_training_ends_when_nothing_gets_better_and_says_so(undisturbed: tuple[Judged, Result]) -> None:
    course, result = undisturbed
    best, last = expected_end(course.scores())
    assert 0 < best < last < STEPS
    assert list(course.scores()) == list(range(0, last + 1, EVERY))
    assert len(result.steps) == last
    report = kept_report(course.storage)
    told = report.evaluation
    assert told is not None
    lowest = course.scores()[best]
    assert told.stopped_early == (
        f"no improvement of the validation loss in {PATIENCE} evaluations: best {lowest:.4g} at step {best}"
    )
    steps = [one and one.step for one in (told.baseline, told.latest, told.best, told.final)]
    assert steps == [0, last, best, best]
    assert (report.stage, report.seconds_remaining) == (Stage.FINISHED, 0)
    assert report.plan is not None
    assert report.plan.total_steps == STEPS


def test_the_best_is_kept_alone_and_delivered(base: Path, undisturbed: tuple[Judged, Result]) -> None:
    course, _ = undisturbed
    best, _ = expected_end(course.scores())
    assert course.kept() == [f"step-{best:08d}"]
    [listed] = kept_report(course.storage).checkpoints
    assert (listed.step, listed.best, listed.validation_loss) == (best, True, course.scores()[best])
    assert output(course) == plain(base, best)


def test_evaluating_changes_nothing_of_what_is_trained(base: Path) -> None:
    course = Judged(base)
    course.finish()
    best, last = expected_end(course.scores())
    assert output(course) == plain(base, last)
    told = kept_report(course.storage).evaluation
    assert told is not None
    assert told.final is not None
    assert told.final.step == last
    assert course.kept() == [f"step-{best:08d}"]


def test_two_processes_come_to_the_same_end(base: Path, undisturbed: tuple[Judged, Result]) -> None:
    course = Judged(base, DELIVERS)
    # In the middle of an evaluation, between the passes of steps 3 and 4.
    course.attempt(2, Fault(course.storage, Moment.CHANGE, nth=1))
    course.finish(2)
    assert course.scores() == pytest.approx(undisturbed[0].scores(), abs=1e-5)
    best, _ = expected_end(course.scores())
    assert output(course) == plain(base, best, 2)


def before_record(course: Judged, nth: int) -> Fault:
    """Between an evaluation and its line."""
    return Fault(course.evaluations, Moment.CHANGE, nth=nth)


HITS = {
    "before the baseline is taken down": lambda course: before_record(course, 1),
    "before the evaluation of the best is": lambda course: before_record(course, 3),
    "before the last one is": lambda course: before_record(course, 6),
    "before the first best is saved": lambda course: Fault(course.storage, Moment.START, WEIGHTS),
    "in the middle of saving a better one": lambda course: Fault(
        course.storage, Moment.MANIFEST, WEIGHTS, nth=2
    ),
    "once the better one is there": lambda course: Fault(course.storage, Moment.VISIBLE, WEIGHTS, nth=2),
    "before the former best goes": lambda course: Fault(course.storage, Moment.REMOVE, WEIGHTS),
    "before the result is there": lambda course: Fault(course.storage, Moment.RENAME, "output"),
    "once the result is there": lambda course: Fault(course.storage, Moment.VISIBLE, "output"),
}


@pytest.mark.parametrize("hit", HITS)
def test_whenever_it_is_killed_it_ends_as_if_it_was_not(
    base: Path, undisturbed: tuple[Judged, Result], hit: str
) -> None:
    course = Judged(base, DELIVERS)
    assert course.attempt(1, HITS[hit](course)) == [-9]
    result = course.finish()
    assert result == undisturbed[1]
    assert course.scores() == undisturbed[0].scores()
    told, expected = (kept_report(each.storage).evaluation for each in (course, undisturbed[0]))
    if hit == "once the result is there":
        # The first process of the container tells it then, with its last words.
        return
    assert told is not None
    assert expected is not None
    assert (told.stopped_early, told.final and told.final.sets) == (
        expected.stopped_early,
        expected.final and expected.final.sets,
    )


def test_whoever_is_asked_to_stop_in_an_evaluation_leaves_it_to_the_next_attempt(
    base: Path, undisturbed: tuple[Judged, Result]
) -> None:
    course = Judged(base, DELIVERS)
    fault = Fault(course.storage, Moment.MICRO_BATCH, nth=2, number=signal.SIGTERM)
    assert course.attempt(1, fault) == [ExitCode.TERMINATED]
    assert not course.evaluations.exists()
    assert course.finish() == undisturbed[1]
    assert course.scores() == undisturbed[0].scores()


@pytest.mark.parametrize(("method", "rate"), [("osft", 1e-2), ("lora", 1e-1)])
def test_every_method_delivers_its_best(base: Path, method: str, rate: float) -> None:
    # The models of epochs that were not the best are there, too.
    course = Judged(base, {"deliverBest": True}, method=method, hyperparameters={"learningRate": rate})
    course.finish()
    told = kept_report(course.storage).evaluation
    assert told is not None
    assert told.final is not None
    assert told.latest is not None
    assert told.final == told.best
    assert told.final.step < told.latest.step
    best = f"step-{told.final.step:08d}"
    assert len(course.kept()) > 1
    [file] = (course.storage / "checkpoints" / best).glob("*.safetensors")
    assert output(course) == digest(file)
