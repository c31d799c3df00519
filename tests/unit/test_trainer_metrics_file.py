"""A line for each step: in order, once each, whatever happened to the file in between."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Metrics, Report, Stage, StepRecord
from finetune_trainer.reports.metrics_file import MetricsFile, last_record
from finetune_trainer.storage import Storage

TIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


def record(step: int, attempt: int = 1) -> StepRecord:
    return StepRecord.of(Metrics(step=step, loss=1 / step), attempt, TIME)


def add(storage: Storage, first: int, last: int, attempt: int = 1) -> list[int]:
    """Add steps; returns where each line ends."""
    file = MetricsFile(storage)
    ends = []
    for step in range(first, last + 1):
        file.append(record(step, attempt))
        ends.append(file.position)
    file.close()
    return ends


def rewind(storage: Storage, step: int, position: int | None, attempt: int) -> None:
    file = MetricsFile(storage)
    file.rewind(step, position, attempt=attempt)
    assert file.position == storage.metrics.stat().st_size
    file.close()


def steps(file: Path) -> list[tuple[int, int]]:
    lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
    found = [StepRecord.model_validate_json(line) for line in lines]
    return [(each.attempt, each.step) for each in found]


def test_a_line_has_the_measurements_and_whose_they_are_and_nothing_that_is_absent(storage: Storage) -> None:
    add(storage, 4, 4, attempt=2)
    line = json.loads(storage.metrics.read_text())
    assert line == {
        "step": 4,
        "loss": 0.25,
        "samplesSeen": 0,
        "attempt": 2,
        "time": "2026-01-01T00:00:00Z",
    }
    assert record(4).metrics == Metrics(step=4, loss=0.25)


@pytest.mark.parametrize("known", [True, False])
def test_steps_that_are_done_again_are_moved_to_the_attempt_that_made_them(
    storage: Storage, known: bool
) -> None:
    ends = add(storage, 1, 5)
    rewind(storage, 3, ends[2] if known else None, attempt=2)
    assert steps(storage.metrics) == [(1, 1), (1, 2), (1, 3)]
    add(storage, 4, 6, attempt=2)
    # To a state that is older than the first attempt's last: steps of both are done again.
    rewind(storage, 2, ends[1] if known else None, attempt=3)
    assert steps(storage.metrics) == [(1, 1), (1, 2)]
    assert steps(storage.repeated_steps(1)) == [(1, 4), (1, 5), (1, 3)]
    assert steps(storage.repeated_steps(2)) == [(2, 4), (2, 5), (2, 6)]


def test_from_the_beginning_all_is_done_again(storage: Storage) -> None:
    add(storage, 1, 2)
    rewind(storage, 0, None, attempt=2)
    assert storage.metrics.read_bytes() == b""
    assert steps(storage.repeated_steps(1)) == [(1, 1), (1, 2)]


def test_a_file_that_is_as_the_state_left_it_stays_as_it_is(storage: Storage) -> None:
    [*_, end] = add(storage, 1, 2)
    rewind(storage, 2, end, attempt=2)
    assert steps(storage.metrics) == [(1, 1), (1, 2)]
    assert not (storage.root / "logs").exists()


@pytest.mark.parametrize("position", [1_000_000, 7])
def test_a_position_that_is_no_longer_true_is_not_believed(storage: Storage, position: int) -> None:
    add(storage, 1, 3)
    rewind(storage, 2, position, attempt=2)
    assert steps(storage.metrics) == [(1, 1), (1, 2)]
    assert steps(storage.repeated_steps(1)) == [(1, 3)]


def test_a_line_that_was_cut_off_is_passed_over_and_ended(storage: Storage) -> None:
    add(storage, 1, 2)
    with storage.metrics.open("a") as file:
        file.write('{"step": 3, "lo')
    assert last_record(storage) == record(2)
    add(storage, 3, 3, attempt=2)
    assert last_record(storage) == record(3, attempt=2)
    assert len(storage.metrics.read_text().splitlines()) == 4
    # It goes with the line before it.
    rewind(storage, 1, None, attempt=3)
    assert storage.repeated_steps(1).read_text().endswith('\n{"step": 3, "lo\n')


def test_of_a_file_that_lost_its_end_no_part_of_a_line_stays(storage: Storage) -> None:
    ends = add(storage, 1, 4)
    os.truncate(storage.metrics, ends[2] - 7)
    rewind(storage, 4, ends[3], attempt=2)
    assert steps(storage.metrics) == [(1, 1), (1, 2)]
    assert storage.metrics.stat().st_size == ends[1]
    # Whose it was is cut off, too: it is the attempt's that found it.
    assert storage.repeated_steps(2).read_text().startswith('{"step":3')


def test_the_last_record_up_to_a_step(storage: Storage) -> None:
    assert last_record(storage) is None
    add(storage, 1, 900)
    assert last_record(storage) == record(900)
    assert last_record(storage, up_to=400) == record(400)
    assert last_record(storage, up_to=0) is None


def test_reports_that_an_earlier_version_kept_there_are_left_where_they_are(storage: Storage) -> None:
    report = Report(attempt=1, sequence=1, stage=Stage.TRAINING, metrics=Metrics(step=4)).to_json()
    storage.metrics.write_text(f"{report}\n")
    assert last_record(storage) is None
    add(storage, 4, 6, attempt=2)
    rewind(storage, 5, None, attempt=3)
    assert storage.metrics.read_text().startswith(f"{report}\n")
    assert last_record(storage) == record(5, attempt=2)


@given(
    attempts=st.lists(
        # Where the run goes on, how many steps it makes, where it is cut off, and whether the state knows the position.
        st.tuples(st.integers(0, 30), st.integers(1, 8), st.integers(0, 20), st.booleans()),
        max_size=6,
    )
)
def test_whatever_is_killed_where_the_run_s_steps_are_there_once_and_none_is_lost(
    attempts: list[tuple[int, int, int, bool]],
) -> None:
    with TemporaryDirectory() as directory:
        storage = Storage(Path(directory), "runs/demo", "uid-1")
        positions, made = {0: 0}, 0
        for attempt, (state, count, torn, known) in enumerate(attempts, start=1):
            # Any state may be the newest that is intact.
            restored = max(step for step in positions if step <= state)
            file = MetricsFile(storage)
            file.rewind(restored, positions[restored] if known else None, attempt=attempt)
            positions = {step: end for step, end in positions.items() if step <= restored}
            for step in range(restored + 1, restored + count + 1):
                file.append(record(step, attempt))
                positions[step] = file.position
                made += 1
            file.close()
            assert [step for _, step in steps(storage.metrics)] == list(range(1, restored + count + 1))
            with storage.metrics.open("ab") as killed:
                killed.write(b'{"step": 1000, "lo'[:torn])
        files = [storage.metrics, *storage.root.glob("logs/*/repeated-steps.jsonl")] if made else []
        assert sum(file.read_text().count('"time"') for file in files) == made
