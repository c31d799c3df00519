"""`finetune plot`: the course of a run, from its files and from its status, in the terminal and as an image."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.curve import Curve
from finetune_api.report import EvaluationRecord, StepRecord
from finetune_api.scores import SetScore
from finetune_operator.cli import run_files
from finetune_operator.cli.plotting import files, panels, series
from terminal import finetune

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def step(number: int, attempt: int = 1, loss: float | None = 2.0) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        time=START + timedelta(seconds=number),
        step=number,
        epoch=number / 10,
        loss=loss,
        learning_rate=1e-5,
        tokens_per_second=50_000,
    )


def evaluation(number: int, loss: float, attempt: int = 1) -> EvaluationRecord:
    scores = [
        SetScore(name="general", loss=9.0, tokens=10),
        SetScore(name="validation", loss=loss, tokens=10),
    ]
    return EvaluationRecord(attempt=attempt, step=number, time=START, sets=scores)


def write(
    directory: Path, steps: list[StepRecord], evaluations: list[EvaluationRecord] | None = None
) -> Path:
    directory.mkdir(exist_ok=True)
    for name, records in (("metrics.jsonl", steps), ("evaluations.jsonl", evaluations or [])):
        lines = [record.model_dump_json(by_alias=True, exclude_none=True) for record in records]
        (directory / name).write_text("".join(f"{line}\n" for line in lines))
    return directory


def test_a_later_attempt_takes_back_what_an_earlier_one_did_after_the_step_it_goes_on_from(
    tmp_path: Path,
) -> None:
    # The first one came to step 8; the second went on from step 5, and has made one step.
    made = [*(step(number) for number in range(1, 9)), step(6, attempt=2, loss=1.5)]
    evaluated = [evaluation(0, 3.0), evaluation(8, 2.0), evaluation(6, 1.9, 2)]
    course = files.read(write(tmp_path / "run", made, evaluated))
    assert course.loss == (*((number, 2.0) for number in range(1, 6)), (6, 1.5))
    assert course.validation == ((0, 3.0), (6, 1.9))


@given(st.lists(st.integers(min_value=0, max_value=30), max_size=60))
def test_what_is_in_force_rises_to_the_newest_and_lacks_nothing_that_was_not_taken_back(
    steps: list[int],
) -> None:
    kept = [record.step for record in run_files.in_force([step(number) for number in steps])]
    assert kept == sorted(set(kept))
    assert kept[-1:] == steps[-1:]
    assert all(
        number in kept for index, number in enumerate(steps) if min(steps[index + 1 :], default=99) > number
    )


def test_what_was_not_finite_has_no_point_and_leaves_no_zero() -> None:
    curve = Curve(
        steps=[10, 20, 30], loss=[3.0, None, 2.0], learning_rate=[1e-5] * 3, tokens_per_second=[None] * 3
    )
    course = series.of_curve("demo", curve)
    assert course.loss == ((10, 3.0), (30, 2.0))
    assert [panel.title for panel in panels.panels([course])] == ["loss per token", "learning rate"]


@given(
    st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=10**9), st.integers(2, 20)
)
def test_marks_of_an_axis_are_round_and_few(low: int, length: int, most: int) -> None:
    marks = panels.ticks(low, low + length, most)
    assert len(marks) <= most + 1
    assert all(low <= mark <= low + length for mark in marks)
    widths = {after - before for before, after in pairwise(marks)}
    assert len(widths) <= 1
    assert all(str(width).rstrip("0") in ("1", "2", "5") for width in widths)


def test_a_run_is_drawn_in_the_terminal_from_its_directory(tmp_path: Path) -> None:
    made = [step(number, loss=3 - number / 10) for number in range(1, 21)]
    run = write(tmp_path / "support", made, [evaluation(0, 3.1), evaluation(20, 1.2)])
    # As of a trainer that is being killed.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"attempt": 1, "st')
    drawn = finetune("plot", run)
    assert drawn.exit_code == 0, drawn.output
    titles = [line for line in drawn.stdout.splitlines() if line[:1].isalpha()]
    assert titles == [
        "loss per token   ━ support   ● validation",
        "learning rate   ━ support",
        "tokens per second   ━ support",
    ]
    assert "●" in drawn.stdout.split("learning rate")[0].split("validation", 1)[1]
    assert "50,000┤" in drawn.stdout
    assert "\x1b" not in drawn.stdout


def test_several_runs_are_compared_and_told_apart_without_colors(tmp_path: Path) -> None:
    one, other = (
        write(tmp_path / name, [step(number, loss=loss) for number in range(1, 9)])
        for name, loss in (("one", 1.0), ("other", 2.0))
    )
    drawn = finetune("plot", one, other / "metrics.jsonl").stdout
    assert "loss per token   1 one   2 other\n" in drawn
    chart = drawn.split("learning rate")[0].splitlines()[2:-2]
    signs = [set(row[5:]) & {"1", "2"} for row in chart]
    assert (signs[0], signs[-1]) == ({"2"}, {"1"})


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_written_as_the_image_that_its_name_says(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    run = write(tmp_path / "run", [step(number) for number in range(1, 5)], [evaluation(4, 1.0)])
    image = (tmp_path / "plot").with_suffix(suffix)
    drawn = finetune("plot", run, run / "metrics.jsonl", "--log", "-o", image)
    assert drawn.exit_code == 0, drawn.output
    assert image.read_bytes().startswith(begins)


def test_without_matplotlib_it_is_said_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    drawn = finetune("plot", write(tmp_path / "run", [step(1)]), "-o", tmp_path / "plot.png")
    assert drawn.exit_code == 1
    assert "pip install 'finetune-operator[operator,plot]'" in drawn.stderr


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    write(tmp_path / "young", [])
    for arguments, code, words in (
        ([tmp_path], 1, "there is no metrics.jsonl in"),
        ([tmp_path / "young"], 1, "has no optimizer step (yet)"),
        (["no/where"], 1, "there is no file or directory no/where"),
        ([tmp_path, "-o", "plot.bmp"], 2, "plot.bmp does not end in one of .png, .svg"),
    ):
        refused = finetune("plot", *arguments)
        assert (refused.exit_code, words in refused.stderr) == (code, True), refused.output
