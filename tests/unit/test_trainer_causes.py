"""How a node finds, among the ends of its processes, the one that explains the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from finetune_trainer import causes


def test_the_cause_is_found_among_its_consequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(causes.ENV_CAUSES, str(tmp_path))
    causes.leave("rank 1", ExitCode.COLLECTIVE_TIMEOUT, "rank 0 gave up")
    causes.leave("rank 0", ExitCode.INVALID_DATA, "line 3 is bad", ["line 3", "line 4"])
    failure = causes.explain(causes.collect(tmp_path))
    assert failure is not None
    assert (failure.exit_code, failure.reason, failure.message) == (65, "InvalidData", "line 3 is bad")
    assert failure.details == ["line 3", "line 4"]


def test_of_equal_causes_the_earliest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(causes.ENV_CAUSES, str(tmp_path))
    for rank, message in ((1, "first"), (0, "second"), (2, "third")):
        causes.leave(f"rank {rank}", ExitCode.ERROR, message)
    failure = causes.explain(causes.collect(tmp_path))
    assert failure is not None
    assert failure.message == "first"


def test_without_a_cause_there_is_nothing_to_explain(tmp_path: Path) -> None:
    assert causes.explain(causes.collect(tmp_path)) is None


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
