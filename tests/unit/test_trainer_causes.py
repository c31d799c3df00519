"""How a node finds, among the ends of its processes, the one that explains the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from finetune_api.report import Failure
from finetune_trainer.ends import causes


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes leave their causes."""
    monkeypatch.setenv(causes.ENV_CAUSES, str(tmp_path))
    return tmp_path


def explained(left: Path, output: str = "") -> Failure:
    failure = causes.explain(causes.collect(left), output)
    assert failure is not None
    return failure


def test_the_cause_is_found_among_its_consequences(left: Path) -> None:
    causes.leave("rank 1", ExitCode.COLLECTIVE_TIMEOUT, "rank 0 gave up", log="the peer's")
    causes.leave("rank 0", ExitCode.INVALID_DATA, "line 3 is bad", ["line 3", "line 4"], log="Traceback")
    failure = explained(left, "what all printed")
    assert (failure.exit_code, failure.reason, failure.message) == (65, "InvalidData", "line 3 is bad")
    assert (failure.details, failure.log) == (["line 3", "line 4"], "Traceback")


def test_of_equal_causes_the_earliest_is_told(left: Path) -> None:
    for rank, message in ((1, "first"), (0, "second"), (2, "third")):
        causes.leave(f"rank {rank}", ExitCode.ERROR, message)
    assert explained(left).message == "first"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (ExitCode.GPU_ERROR, ExitCode.COLLECTIVE_TIMEOUT),
        (ExitCode.ERROR, ExitCode.COLLECTIVE_TIMEOUT),
        (ExitCode.OUT_OF_MEMORY, ExitCode.SMALLER_BUDGET),
        (ExitCode.SMALLER_BUDGET, ExitCode.COLLECTIVE_TIMEOUT),
        (ExitCode.COLLECTIVE_TIMEOUT, ExitCode.TERMINATED),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_what_brings_others_down_is_told_whoever_was_faster(
    left: Path, first: ExitCode, later: ExitCode, order: int
) -> None:
    for code in (first, later)[::order]:
        causes.leave(f"rank {code}", code, code.name)
    assert explained(left).exit_code == first


def test_for_a_process_that_a_signal_ended_the_node_s_output_speaks(left: Path) -> None:
    causes.leave("signal to rank 0", ExitCode.KILLED, "was ended by SIGKILL", signal=9)
    assert explained(left, "...the last thing that it said").log == "...the last thing that it said"


def test_whoever_was_asked_to_stop_has_nothing_to_show(left: Path) -> None:
    causes.leave("rank 0", ExitCode.TERMINATED, "asked to stop")
    assert explained(left, "output").log is None


WATCHDOG = """\
[rank0]:[E1128 10:00:00.000 ProcessGroupNCCL.cpp:693] [Rank 0] Watchdog caught collective operation timeout: ...
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  {}
Exception raised from checkTimeout at ProcessGroupNCCL.cpp:696 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x80 (0x7f in libc10.so)
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, "
            "Timeout(ms)=600000) ran for 600012 milliseconds before timing out.",
            ExitCode.COLLECTIVE_TIMEOUT,
            "another process of the gang did not answer in time: [Rank 0] Watchdog caught collective operation "
            "timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE",
        ),
        (
            "NCCL watchdog thread terminated with exception: CUDA error: uncorrectable ECC error encountered",
            ExitCode.GPU_ERROR,
            "the GPU failed: NCCL watchdog",
        ),
        (
            "CUDA error: an illegal memory access was encountered",
            ExitCode.ERROR,
            "the program failed on the GPU",
        ),
        ("basic_string: construction from null", ExitCode.ERROR, "ended by SIGABRT: basic_string"),
    ],
)
def test_a_process_that_ends_itself_in_native_code_has_said_why(
    left: Path, words: str, code: ExitCode, said: str
) -> None:
    causes.leave("signal to rank 0", ExitCode.ERROR, "ended by SIGABRT", signal=signal.SIGABRT)
    failure = explained(left, WATCHDOG.format(words))
    assert failure.exit_code == code
    assert failure.message.startswith(said)


def test_without_a_cause_there_is_nothing_to_explain(tmp_path: Path) -> None:
    assert causes.explain(causes.collect(tmp_path), "output") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_children_go_with_their_parent() -> None:
    child = "from finetune_trainer.processes import die_with_parent; die_with_parent(); import time; time.sleep(60)"
    parent = (
        "import os, subprocess, sys, time; from finetune_trainer.processes import parent_environment; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=os.environ | parent_environment()); "
        "time.sleep(1); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]
    ):
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.05)
