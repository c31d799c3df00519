"""A container's first process: what it makes of signals and of how its workers end, and when it starts them again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failure import ExitCode
from finetune_trainer.ends import causes
from finetune_trainer.processes import parent_environment
from tiny import save_chat_data, save_tiny_model
from trainer.gangs import config, free_port, kept_report, metrics, running

HYPERPARAMETERS: dict[str, Any] = {"learningRate": 1e-3, "effectiveBatchSize": 2, "maxSeqLen": 128}
NOTHING_SAVED = "asked to stop, and ended without saving a newer state"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("first")
    save_tiny_model(made / "model")
    save_chat_data(made / "train.jsonl", samples=64)
    return made


class StandIn:
    """What runs in the place of torchrun: it takes no time to start, and does what a test wants."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        hook = """
import os, runpy, sys
if "finetune_trainer.agent" in sys.orig_argv:
    [port] = [word.rpartition("=")[2] for word in sys.orig_argv if word.startswith("--master-port=")]
    with open({started!r}, "a") as file:
        file.write(port + "\\n")
    runpy.run_path({script!r})
    os._exit(0)
"""
        paths = {"started": str(directory / "started"), "script": str(directory / "script.py")}
        (directory / "sitecustomize.py").write_text(hook.format(**paths))
        monkeypatch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)

    def does(self, script: str) -> None:
        """What it does at every start; `starts` counts them, and `asked` tells whether it was asked to stop."""
        prelude = f"""
import os, signal, time
from pathlib import Path
from finetune_trainer import precedents
from finetune_trainer.ends import causes
from finetune_api.precedents import TokenBudget
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
starts = len(Path({str(self._directory / "started")!r}).read_text().splitlines())

def settle(storage, tokens):
    budget = TokenBudget(
        max_tokens_per_gpu=tokens, reason="x", world_size=1, on_gpu=False, activation_checkpointing=False,
        accumulate_locally=False,
    )
    (Path(storage) / "token-budget.json").write_text(budget.model_dump_json(by_alias=True))

def retreat():
    causes.leave("rank 0", 75, "memory ran out")
    os._exit(1)

Path({str(self._directory / "ready")!r}).touch()
"""
        (self._directory / "script.py").write_text(prelude + script)

    @property
    def ports(self) -> list[int]:
        """Where the workers of each start met."""
        file = self._directory / "started"
        return [int(port) for port in file.read_text().splitlines()] if file.exists() else []

    def wait(self) -> None:
        """Until it has started, and hears signals."""
        deadline = time.monotonic() + 60
        while not (self._directory / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def test_the_processes_start_again_as_long_as_the_token_budget_shrinks(base: Path, torchrun: StandIn) -> None:
    torchrun.does(f"if starts < 4: settle({str(base / 'again')!r}, 1000 >> starts); retreat()")
    with running(config(base, name="again", **HYPERPARAMETERS)) as gang:
        [end] = gang.wait()
    assert end.exit_code == 0, end.output
    first = torchrun.ports[0]
    assert torchrun.ports == [first, first + 1, first + 2, first + 3]
    assert "memory ran out; start 2 of the training processes" in end.output


def test_a_budget_that_does_not_shrink_ends_it(base: Path, torchrun: StandIn) -> None:
    torchrun.does(f"settle({str(base / 'endless')!r}, 1000); retreat()")
    with running(config(base, name="endless", **HYPERPARAMETERS)) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.OUT_OF_MEMORY
    assert end.reason == "memory ran out; the token budget did not become smaller than before"
    assert len(torchrun.ports) == 2


def test_nothing_starts_again_after_a_request_to_stop(base: Path, torchrun: StandIn) -> None:
    torchrun.does(f"""
settle({str(base / "stopped")!r}, 1000)
os.kill(os.getppid(), signal.SIGTERM)
while not asked: time.sleep(0.01)
retreat()
""")
    with running(config(base, name="stopped", **HYPERPARAMETERS)) as gang:
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (
        ExitCode.TERMINATED,
        "asked to stop before the training processes started again",
    ), end.output
    assert len(torchrun.ports) == 1


def test_a_volume_that_cannot_be_read_does_not_keep_the_cause_from_being_told(
    base: Path, torchrun: StandIn
) -> None:
    report = base / "unreadable" / "report.json"
    torchrun.does(f"""
Path({str(report)!r}).mkdir()
causes.leave("rank 0", 1, "OSError: Input/output error")
os._exit(1)
""")
    with running(config(base, name="unreadable", **HYPERPARAMETERS)) as gang:
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (ExitCode.ERROR, "OSError: Input/output error")
    assert "what was reported before cannot be read: [Errno 21] Is a directory" in end.output


def test_what_a_failed_gang_did_not_complete_is_removed(base: Path, torchrun: StandIn) -> None:
    resume = base / "incomplete" / "resume"
    torchrun.does(f"""
for name in ("step-00000001", "step-00000002.incomplete"):
    (Path({str(resume)!r}) / name).mkdir(parents=True)
causes.leave("rank 0", 79, "the loss is nan")
os._exit(1)
""")
    with running(config(base, name="incomplete", **HYPERPARAMETERS)) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.LOSS_NOT_FINITE, end.output
    assert [path.name for path in resume.iterdir()] == ["step-00000001"]


def handled(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    ]
    return bool(int(line.split()[1], 16) & 1 << number - 1)


@pytest.mark.parametrize("milliseconds", [0, 100, 300, 1000])
def test_a_request_to_stop_is_heard_before_there_are_workers(
    base: Path, torchrun: StandIn, milliseconds: int
) -> None:
    torchrun.does("while not asked: time.sleep(0.01)\nos._exit(143)")
    with running(config(base, name=f"early-{milliseconds}", **HYPERPARAMETERS)) as gang:
        # From the moment on at which signals are heard, which is before anything heavy is imported.
        while not handled(gang.nodes[0].pid, signal.SIGTERM):
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        gang.terminate()
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output
    assert kept_report(base / f"early-{milliseconds}").failure == end.report.failure


def test_a_torchrun_that_does_not_end_is_killed_within_the_grace_period(
    base: Path, torchrun: StandIn
) -> None:
    torchrun.does("while True: time.sleep(1)")
    stubborn = config(base, name="stubborn", **HYPERPARAMETERS)
    with running(stubborn.model_copy(update={"grace_period_seconds": 5})) as gang:
        torchrun.wait()
        gang.terminate()
        asked = time.monotonic()
        [end] = gang.wait()
    assert time.monotonic() - asked < 5
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output


def test_a_worker_that_does_not_react_is_killed_within_the_grace_period(base: Path) -> None:
    hanging = config(base, name="hanging", numEpochs=1000, **HYPERPARAMETERS)
    with running(hanging.model_copy(update={"grace_period_seconds": 10})) as gang:
        gang.wait_for_step(2)
        gang.stop_worker(node=0)
        gang.terminate()
        asked = time.monotonic()
        [end] = gang.wait()
    assert 4 < time.monotonic() - asked < 10
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output
    assert end.report.metrics == metrics(base / "hanging")[-1]


def test_whom_torchrun_kills_explains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ranks one fails, and the other, which waits for it in native code, hears of nothing."""
    # torchrun waits half a minute before it kills.
    (tmp_path / "sitecustomize.py").write_text("""
import sys
if "finetune_trainer.agent" in sys.orig_argv:
    from torch.distributed.elastic.multiprocessing.api import PContext
    PContext.close.__defaults__ = (None, 1)
""")
    (tmp_path / "ranks.py").write_text("""
import os, signal, time
from finetune_trainer.ends import causes
if os.environ["RANK"] == "0":
    time.sleep(1)
    causes.leave("rank 0", 1, "ZeroDivisionError: division by zero", log="Traceback")
    os._exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    left = tmp_path / "causes"
    left.mkdir()
    options = [
        "--rdzv-backend=static",
        "--nnodes=1",
        "--node-rank=0",
        "--nproc-per-node=2",
        "--max-restarts=0",
    ]
    place = ["--master-addr=127.0.0.1", f"--master-port={free_port()}", "-m", "ranks"]
    ended = subprocess.run(
        [sys.executable, "-m", "finetune_trainer.agent", *options, *place],
        env=os.environ | parent_environment() | {causes.ENV_CAUSES: str(left)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Unable to shutdown process" in ended.stderr
    failure = causes.explain(causes.collect(left), "")
    assert failure is not None
    assert (failure.exit_code, failure.log) == (ExitCode.ERROR, "Traceback"), ended.stderr


def test_a_gang_that_runs_out_of_memory_goes_on_in_the_same_pods(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, sys
from pathlib import Path
short = Path({str(tmp_path / "short")!r})
if "finetune_trainer.worker" in sys.orig_argv and os.environ["RANK"] == "1" and not short.exists():
    short.touch()
    from trainer.test_out_of_memory import Shortage
    Shortage(nth=8, rank=1)(1)
""")
    for directory in (Path(__file__).parent.parent, tmp_path):
        monkeypatch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)
    # Two micro-batches to a step: it is in the middle of the fourth.
    stated = HYPERPARAMETERS | {"effectiveBatchSize": 16, "maxTokensPerGpu": 320}
    both = config(base, name="both", nodes=2, numEpochs=2, maxSteps=6, **stated)
    with running(both) as gang:
        ends = gang.wait()
    assert [end.exit_code for end in ends] == [0, 0], ends[0].output
    assert all("start 2 of the training processes" in end.output for end in ends)
    report = ends[0].report
    assert (report.attempt, report.resumed_from_step) == (1, 3)
    assert report.plan is not None
    assert report.plan.max_tokens_per_gpu == 160
    assert len(metrics(base / "both")) == 6
