"""What is found on the volume may be damaged: nothing of it is believed, and nothing good is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api import names
from trainer.faults import OUTPUT, Fault, Moment
from trainer.survival import STEPS, Course, Result, is_intact, manifest


def flip_a_bit(state: Path) -> None:
    [file] = state.glob("__0_*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(state: Path) -> None:
    [file] = state.glob("__0_*")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def take_a_file(state: Path) -> None:
    (state / ".metadata").unlink()


def empty_the_manifest(state: Path) -> None:
    (state / "manifest.json").write_bytes(b"")


def another_run_s(state: Path) -> None:
    file = state / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"uid": "another"}))


DAMAGES = [flip_a_bit, cut_off, take_a_file, empty_the_manifest, another_run_s]


def states(course: Course) -> list[Path]:
    return sorted(course.storage.glob("resume/step-*"))


@pytest.fixture(scope="module")
def late(survivors: Path) -> Course:
    """A run that was killed when its result was to be written; it has the states of two steps."""
    course = Course(survivors, {"everySteps": 3, "keepLast": 2, "everyEpoch": False})
    assert course.attempt(1, Fault(course.storage, Moment.START, OUTPUT)) == [-9]
    assert len(states(course)) == 2
    shutil.copytree(course.storage, survivors / "late")
    return course


@pytest.fixture
def course(survivors: Path, late: Course) -> Course:
    """That run, as it was then."""
    shutil.rmtree(late.storage)
    shutil.copytree(survivors / "late", late.storage)
    return late


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over_for_the_next_older(
    course: Course, undisturbed: dict[int, Result], damage: Callable[[Path], None]
) -> None:
    older, newer = states(course)
    step = manifest(older)["facts"]["step"]
    damage(newer)
    # Killed before there is another state: nothing is given up until then.
    assert course.attempt(1, Fault(course.storage, Moment.STEP)) == [-9]
    assert states(course) == [older, newer]
    assert is_intact(older)
    assert course.newest_state() == step
    result = course.finish()
    assert result.steps == undisturbed[1].steps
    assert result.models["output"] == undisturbed[1].models["output"]


def test_without_an_intact_state_it_begins_anew_and_says_so_loudly(
    course: Course,
    undisturbed: dict[int, Result],
) -> None:
    for state in states(course):
        flip_a_bit(state)
    assert course.finish().steps == undisturbed[1].steps
    output = (course.storage.with_name(f".{course.name}-{course.attempts}") / "output-0").read_text()
    assert "ERROR none of the 2 states of this run is intact: it begins anew, at step 0" in output
    repeated = (course.storage / names.LOGS_DIR / "attempt-1" / "repeated-steps.jsonl").read_text()
    assert [json.loads(line)["step"] for line in repeated.splitlines()] == list(range(1, STEPS + 1))


def test_metrics_after_the_newest_state_may_be_lost_with_the_power(
    course: Course, undisturbed: dict[int, Result]
) -> None:
    [*_, newest] = states(course)
    known = manifest(newest)["facts"]["metrics_bytes"]
    assert 0 < known < course.metrics.stat().st_size
    with course.metrics.open("r+b") as file:
        file.truncate(known)
    assert course.finish().steps == undisturbed[1].steps


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_a_metrics_file_that_lost_steps_is_gone_on_with(
    course: Course, undisturbed: dict[int, Result], length: int
) -> None:
    with course.metrics.open("r+b") as file:
        file.truncate(length)
    course.finish()
    found, all_steps = Result.of(course.storage).steps, undisturbed[1].steps
    # Those that are there are right, in order, and those that were made after it are all there.
    assert [step for step in all_steps if step in found] == found
    assert found[-3:] == all_steps[-3:]


@pytest.mark.parametrize("content", [b"", b'{"attempt": 1'])
@pytest.mark.parametrize("name", [names.REPORT_FILE, "plan.json"])
def test_small_files_may_be_cut_off(
    course: Course, undisturbed: dict[int, Result], name: str, content: bytes
) -> None:
    (course.storage / name).write_bytes(content)
    assert course.finish().steps == undisturbed[1].steps
