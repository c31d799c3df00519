"""The live view of `finetune watch`: what is in it, and that it fits whatever terminal there is."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from finetune_api.curve import Curve
from finetune_api.failure import PodEnd
from finetune_api.queueing import Queueing
from finetune_api.scores import EvaluationStatus
from finetune_api.status import Attempt, Checkpoint, FineTuneJobStatus, Phase, Progress
from finetune_operator.cli.display import Display
from finetune_operator.cli.watching.panel import Panel
from finetune_operator.cli.watching.pods import Gang, gang
from finetune_operator.cli.watching.sparkline import sparkline
from finetune_operator.observation.observed import Pod
from world import START, checkpoint

NOW = datetime(2026, 1, 1, 15, tzinfo=UTC)
BEST = checkpoint(1100).model_copy(
    update={"best": True, "validation_loss": 1.4, "time": NOW - timedelta(hours=9)}
)
STATE = checkpoint(1200, "resume").model_copy(update={"time": NOW - timedelta(hours=2, minutes=5)})
STATUS = FineTuneJobStatus(
    phase=Phase.RUNNING,
    progress=Progress(
        step=1240,
        total_steps=3600,
        summary="1240/3600 (34%)",
        loss=1.234,
        initial_loss=2.31,
        learning_rate=4.2e-6,
        tokens_per_second=52_100,
        estimated_finish=NOW + timedelta(hours=2, minutes=10),
    ),
    curve=Curve(
        steps=[10, 20, 30, 40],
        loss=[2.4, 2.0, 1.6, 1.2],
        learning_rate=[1e-6] * 4,
        tokens_per_second=[5e4] * 4,
        validation_steps=[0, 40],
        validation_loss=[3.0, 1.5],
    ),
    evaluation=EvaluationStatus(summary="validation loss 3 → 1.5"),
    checkpoints=[BEST, STATE],
    restarts=1,
    queue=Queueing(name="team-a", waited_seconds=200, preemptions=2),
    attempts=[Attempt(number=1, start_time=START, end_time=START, reason="Killed", counted=True)],
)
RUNS = Pod("demo-2-0", "job-2", 0, running=True, node="gpu-1", created=NOW)
WAITS = Pod(
    "demo-2-1", "job-2", 1, running=False, waiting=("Unschedulable", "0/3 nodes are available"), created=NOW
)


def drawn(status: FineTuneJobStatus, pods: Gang | None = None, *, width: int = 100) -> list[str]:
    panel = Panel(lambda: NOW)
    panel.status, panel.gang, panel.message = status, pods, "training"
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(panel)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def rows(lines: list[str]) -> dict[str, str]:
    return {line[:13].strip(): line[15:] for line in lines[1:] if line[:1].strip()}


def test_everything_that_matters_while_a_job_trains_is_in_view() -> None:
    lines = drawn(STATUS, gang([WAITS, RUNS]))
    assert lines[0].endswith("Running training")
    shown = rows(lines)
    assert shown["steps"].endswith("1240/3600 (34%)  ETA 2h10m")
    assert shown["loss"] == "1.2340  from 2.3100  █▆▃▁"
    assert shown["validation"] == "1.5000  █▁"
    assert shown["speed"] == "52,100 tokens/s  learning rate 4.2e-06"
    assert shown["evaluation"] == "validation loss 3 → 1.5"
    assert shown["checkpoints"] == "newest resume of step 1200 (2h5m ago), best of step 1100 (1.4)"
    assert shown["interruptions"] == "1 restart, 2 preemptions; the last: attempt 1, Killed"
    assert shown["queue"] == "team-a, admitted after 3m20s in all"
    assert shown["pods"] == "demo-2-0  gpu-1  Running"
    assert lines[-1].split() == ["demo-2-1", "-", "Unschedulable:", "0/3", "nodes", "are", "available"]


def test_what_there_is_nothing_to_say_of_has_no_line() -> None:
    waiting = Queueing(name="team-a", waiting_since=NOW - timedelta(hours=2, minutes=5))
    assert rows(drawn(FineTuneJobStatus(phase=Phase.QUEUED, queue=waiting))) == {
        "queue": "team-a, waiting for 2h5m"
    }
    assert drawn(FineTuneJobStatus()) == []
    hidden = drawn(FineTuneJobStatus(phase=Phase.STARTING), Gang(hidden="you may not list pods"))
    assert rows(hidden) == {"pods": "you may not list pods"}


@given(st.integers(min_value=16, max_value=200))
def test_it_fits_every_terminal_and_loses_no_line(width: int) -> None:
    lines = drawn(STATUS, gang([RUNS, WAITS]), width=width)
    assert len(lines) == 11
    assert all(cell_len(line) <= width for line in lines)


def test_pods_of_an_earlier_attempt_are_not_in_view_and_ends_are_told() -> None:
    old = Pod(
        "demo-1-0", "job-1", 0, running=False, end=PodEnd("demo-1-0", 137), created=NOW - timedelta(hours=1)
    )
    ended = Pod("demo-2-1", "job-2", 1, running=False, end=PodEnd("demo-2-1", 1, reason="Error"), created=NOW)
    seen = gang([old, ended, RUNS])
    assert [(row.name, row.words, row.is_well) for row in seen.rows] == [
        ("demo-2-0", "Running", True),
        ("demo-2-1", "Error, exit code 1", False),
    ]


def test_of_a_large_gang_the_first_pods_are_shown_and_the_others_counted() -> None:
    pods = [
        Pod(f"demo-1-{number}", "job-1", number, running=number != 11, created=NOW) for number in range(12)
    ]
    assert drawn(FineTuneJobStatus(phase=Phase.RUNNING), gang(pods))[-1].strip() == "and 4 more"


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 10, ""),
        ([None, 1.0], 10, "▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], 8, "█▇▆▅▄▃▂▁"),
        ([8, 8, 1, 1], 2, "█▁"),
        ([3, 3, 3], 10, "▁▁▁"),
    ],
)
def test_a_course_is_one_line_from_the_lowest_to_the_highest(
    values: list[float | None], width: int, line: str
) -> None:
    assert sparkline(values, width) == line


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32)),
    st.integers(min_value=1, max_value=80),
)
def test_it_is_never_wider_than_there_is_room(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


def test_news_stand_above_the_view_which_is_gone_in_the_end() -> None:
    written = io.StringIO()
    with Display(Console(file=written, width=100, force_terminal=True, color_system=None)) as display:
        display.show(STATUS)
        display.show_pods(gang([RUNS]))
        display.show(STATUS.model_copy(update={"checkpoints": [*STATUS.checkpoints, newer()]}))
    text = written.getvalue()
    assert "demo-2-0  gpu-1  Running" in text
    assert "CheckpointSaved resume checkpoint of step 1300" in text
    # The view is drawn over with nothing: the line of a checkpoint is the last thing that stays.
    assert "\x1b[2K" in text.rpartition("CheckpointSaved")[2]


def newer() -> Checkpoint:
    return checkpoint(1300, "resume").model_copy(update={"time": NOW})
