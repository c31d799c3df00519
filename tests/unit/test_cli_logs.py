"""`finetune logs`: whose log is shown, and in which order. Real pods have it shown in tests/e2e."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import names
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.gang_logs.choice import chosen, on_volume
from finetune_operator.cli.gang_logs.lines import merged, stamped
from terminal import finetune
from world import START, submitted

FAILED = FineTuneJobStatus(
    phase=Phase.FAILED,
    attempts=[
        Attempt(number=1, start_time=START, end_time=START, reason="Disrupted"),
        Attempt(number=2, start_time=START, end_time=START, reason="Error"),
    ],
)
MERGING = FAILED.model_copy(
    update={"attempts": [*FAILED.attempts, Attempt(number=3, start_time=START, reason="Completed")]}
)


def test_by_default_it_is_the_log_of_what_failed_or_runs() -> None:
    assert chosen(FineTuneJobStatus(phase=Phase.PREPARING), None, None) == names.PREPARATION
    assert chosen(FineTuneJobStatus(phase=Phase.FAILED), None, None) == names.PREPARATION
    assert chosen(FAILED, None, None) == 2
    assert chosen(MERGING, None, None) == names.MERGING
    assert chosen(MERGING.model_copy(update={"phase": Phase.SUCCEEDED}), None, None) == 3


def test_others_are_named_by_number_by_step_or_as_the_one_before() -> None:
    assert chosen(FAILED, None, None, previous=True) == 1
    assert chosen(MERGING, None, None, previous=True) == 3
    assert chosen(FAILED, 1, None) == 1
    assert chosen(FAILED, None, "publish") == names.PUBLISHING
    with pytest.raises(CommandError, match="there is no attempt 7: there are 1, 2"):
        chosen(FAILED, 7, None)
    with pytest.raises(CommandError, match="no attempt before the first one; --step prepare"):
        chosen(FAILED, 1, None, previous=True)
    with pytest.raises(CommandError, match="there is no attempt 1: there is none yet"):
        chosen(FineTuneJobStatus(), 1, None)


def test_where_it_lies_on_the_claim_is_where_the_trainer_puts_it() -> None:
    job = submitted().job
    assert job is not None
    assert on_volume(job, 2, 1) == "demo/logs/attempt-2/node-1.log"
    assert on_volume(job, 2, None) == "demo/logs/attempt-2/node-R.log"
    assert on_volume(job, names.MERGING, None) == "demo/logs/attempt-merge/node-0.log"


def test_lines_of_several_pods_are_merged_by_the_kubelets_times() -> None:
    zero = [stamped(0, line) for line in ("2026-01-01T12:00:01.5Z a", "2026-01-01T12:00:03.000000001Z c")]
    one = [stamped(1, "2026-01-01T12:00:02.123456789Z b: with: colons"), stamped(1, "no time")]
    assert [(line.rank, line.text) for line in merged([zero, one])] == [
        (0, "a"),
        (1, "b: with: colons"),
        (1, "no time"),
        (0, "c"),
    ]


@given(st.lists(st.lists(st.integers(min_value=0, max_value=50), max_size=8), max_size=4))
def test_nothing_is_lost_and_no_pods_own_order_is_changed(seconds: list[list[int]]) -> None:
    logs = [
        [stamped(rank, f"2026-01-01T12:00:{second:02}Z {number}") for number, second in enumerate(log)]
        for rank, log in enumerate(seconds)
    ]
    lines = list(merged(logs))
    for rank, log in enumerate(logs):
        assert [line.text for line in lines if line.rank == rank] == [line.text for line in log]


def write(directory: Path, attempt: str, **nodes: str) -> None:
    folder = directory / "logs" / f"attempt-{attempt}"
    folder.mkdir(parents=True)
    for node, text in nodes.items():
        (folder / f"node-{node.removeprefix('n')}.log").write_text(text)


def test_the_directory_of_a_run_has_them_with_tracebacks_in_one_piece(tmp_path: Path) -> None:
    write(tmp_path, "0", n0="2026-01-01 12:00:00,000 INFO prepared\n")
    write(tmp_path, "9", n0="2026-01-01 12:30:00,000 rank 0 INFO old\n")
    write(
        tmp_path,
        "10",
        n0="2026-01-01 13:00:01,500 rank 0 ERROR broken\nTraceback:\n  here\n",
        n1="2026-01-01 13:00:01,600 rank 1 INFO later\n10%\r100%\n",
    )
    shown = finetune("logs", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "0 | 2026-01-01 13:00:01,500 rank 0 ERROR broken",
        "0 | Traceback:",
        "0 |   here",
        "1 | 2026-01-01 13:00:01,600 rank 1 INFO later",
        "1 | 100%",
    ]
    assert finetune("logs", tmp_path, "--previous").stdout == "2026-01-01 12:30:00,000 rank 0 INFO old\n"
    assert finetune("logs", tmp_path, "--step", "prepare").stdout == "2026-01-01 12:00:00,000 INFO prepared\n"
    assert finetune("logs", tmp_path, "--rank", "1", "--tail", "1").stdout == "1 | 100%\n"


def test_a_log_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path) -> None:
    for arguments, code, words in (
        ([], 1, "there are no logs in"),
        (["--follow"], 2, "tail -f follows files"),
        (["--attempt", "1", "--step", "merge"], 2, "exclude one another"),
    ):
        refused = finetune("logs", tmp_path, *arguments)
        assert (refused.exit_code, words in refused.stderr) == (code, True), refused.output
    write(tmp_path, "2", n0="a\n", n1="b\n")
    for arguments, words in (
        (["--attempt", "1"], "there is no log of attempt 1"),
        (["--rank", "5"], "attempt 2 has no log of rank 5: there are 0, 1"),
        (["--step", "merge"], "there is no log of the merging"),
    ):
        refused = finetune("logs", tmp_path, *arguments)
        assert (refused.exit_code, words in refused.stderr) == (1, True), refused.output
