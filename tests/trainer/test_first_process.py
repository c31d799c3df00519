"""A container's first process: what it makes of signals and of how its workers end, and when it starts them again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failure import ExitCode
from finetune_api.methods import Lora
from finetune_api.report import Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer.ends import causes
from finetune_trainer.processes import parent_environment
from tiny import save_chat_data, save_tiny_model
from trainer.gangs import PATIENCE, config, free_port, kept_report, metrics, run, running

HYPERPARAMETERS: dict[str, Any] = {"learningRate": 1e-3, "effectiveBatchSize": 2, "maxSeqLen": 128}
NOTHING_SAVED = "asked to stop, and ended without saving a newer state"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("first")
    save_tiny_model(made / "model")
    save_chat_data(made / "train.jsonl", samples=64)
    return made


class StandIn:
    """What runs in the place of the first process's child: it takes no time to start, and does what a test wants."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, processes: int) -> None:
        """In the place of torchrun where there are several processes to a node."""
        self._directory = directory
        self._processes = processes
        hook = """
import json, os, runpy, sys
if {{"finetune_trainer.agent", "finetune_trainer.worker"}} & set(sys.orig_argv):
    place = {{name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}}
    with open({started!r}, "a") as file:
        file.write(json.dumps([sys.orig_argv[1:], place]) + "\\n")
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

    def config(self, base: Path, name: str) -> RunConfig:
        """A run of so many processes."""
        gpus = 0 if self._processes == 1 else self._processes
        return config(base, name=name, **HYPERPARAMETERS).model_copy(update={"gpus_per_node": gpus})

    @property
    def starts(self) -> list[tuple[list[str], dict[str, str | None]]]:
        """With what arguments it was started, and what the environment told of its place in the gang."""
        file = self._directory / "started"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def wait(self) -> None:
        """Until it has started, and hears signals."""
        deadline = time.monotonic() + 60
        while not (self._directory / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch, processes=1)


@pytest.fixture
def torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch, processes=2)


def test_the_processes_start_again_as_long_as_the_token_budget_shrinks(base: Path, torchrun: StandIn) -> None:
    torchrun.does(f"if starts < 4: settle({str(base / 'again')!r}, 1000 >> starts); retreat()")
    with running(torchrun.config(base, "again")) as gang:
        [end] = gang.wait()
    assert end.exit_code == 0, end.output
    ports = [
        int(word.rpartition("=")[2])
        for arguments, _ in torchrun.starts
        for word in arguments
        if word.startswith("--master-port=")
    ]
    assert ports == [ports[0], ports[0] + 1, ports[0] + 2, ports[0] + 3]
    assert "memory ran out; start 2 of the training processes" in end.output


def test_a_process_that_trains_alone_is_plain_python(base: Path, child: StandIn) -> None:
    """As one is that trains a model that is split over the GPUs of its node."""
    child.does("os._exit(0)")
    lora = Lora.model_validate({"enableModelSplitting": True})
    split = config(base, name="split", **HYPERPARAMETERS).model_copy(
        update={"method": "lora", "lora": lora, "gpus_per_node": 4}
    )
    with running(split) as gang:
        [end] = gang.wait()
    assert end.exit_code == 0, end.output
    [(arguments, place)] = child.starts
    assert arguments[:2] == ["-m", "finetune_trainer.worker"]
    assert place == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def test_what_a_signal_ends_is_told_of_with_its_last_words(base: Path, child: StandIn) -> None:
    child.does("print('  what():  [Rank 0] CUDA error: uncorrectable ECC error', flush=True); os.abort()")
    with running(child.config(base, "aborted")) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.GPU_ERROR, end.output
    assert "ECC" in end.reason


def test_a_budget_that_does_not_shrink_ends_it(base: Path, child: StandIn) -> None:
    child.does(f"settle({str(base / 'endless')!r}, 1000); retreat()")
    with running(child.config(base, "endless")) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.OUT_OF_MEMORY
    assert end.reason == "memory ran out; the token budget did not become smaller than before"
    assert len(child.starts) == 2


def test_nothing_starts_again_after_a_request_to_stop(base: Path, child: StandIn) -> None:
    child.does(f"""
settle({str(base / "stopped")!r}, 1000)
os.kill(os.getppid(), signal.SIGTERM)
while not asked: time.sleep(0.01)
retreat()
""")
    with running(child.config(base, "stopped")) as gang:
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (
        ExitCode.TERMINATED,
        "asked to stop before the training processes started again",
    ), end.output
    assert len(child.starts) == 1


def test_a_volume_that_cannot_be_read_does_not_keep_the_cause_from_being_told(
    base: Path, child: StandIn
) -> None:
    report = base / "unreadable" / "report.json"
    child.does(f"""
Path({str(report)!r}).mkdir()
causes.leave("rank 0", 1, "OSError: Input/output error")
os._exit(1)
""")
    with running(child.config(base, "unreadable")) as gang:
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (ExitCode.ERROR, "OSError: Input/output error")
    assert "what was reported before cannot be read: [Errno 21] Is a directory" in end.output


def test_what_a_failed_gang_did_not_complete_is_removed(base: Path, child: StandIn) -> None:
    resume = base / "incomplete" / "resume"
    child.does(f"""
for name in ("step-00000001", "step-00000002.incomplete"):
    (Path({str(resume)!r}) / name).mkdir(parents=True)
causes.leave("rank 0", 79, "the loss is nan")
os._exit(1)
""")
    with running(child.config(base, "incomplete")) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.LOSS_NOT_FINITE, end.output
    assert [path.name for path in resume.iterdir()] == ["step-00000001"]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        # The state is behind the name, which is in parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def handled(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    ]
    return bool(int(line.split()[1], 16) & 1 << number - 1)


@pytest.mark.parametrize("milliseconds", [0, 100, 300, 1000])
def test_a_request_to_stop_is_heard_before_there_are_workers(
    base: Path, child: StandIn, milliseconds: int
) -> None:
    child.does("while not asked: time.sleep(0.01)\nos._exit(143)")
    with running(child.config(base, f"early-{milliseconds}")) as gang:
        # From the moment on at which signals are heard, which is before anything heavy is imported.
        while not handled(gang.nodes[0].pid, signal.SIGTERM):
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        gang.terminate()
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output
    assert kept_report(base / f"early-{milliseconds}").failure == end.report.failure


@pytest.mark.parametrize("started", ["child", "torchrun"])
def test_a_child_that_does_not_end_is_killed_within_the_grace_period(
    base: Path, tmp_path: Path, request: pytest.FixtureRequest, started: str
) -> None:
    stand_in: StandIn = request.getfixturevalue(started)
    alive = tmp_path / "alive"
    stand_in.does(f"while True: Path({str(alive)!r}).touch(); time.sleep(0.05)")
    stubborn = stand_in.config(base, f"stubborn-{started}")
    with running(stubborn.model_copy(update={"grace_period_seconds": 5})) as gang:
        stand_in.wait()
        gang.terminate()
        asked = time.time()
        [end] = gang.wait()
    # How long the rest takes to end is up to the machine.
    assert 0 < alive.stat().st_mtime - asked < 5
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output


def test_a_worker_that_does_not_react_is_killed_within_the_grace_period(base: Path) -> None:
    hanging = config(base, name="hanging", numEpochs=1000, **HYPERPARAMETERS)
    with running(hanging.model_copy(update={"grace_period_seconds": 10})) as gang:
        gang.wait_for_step(2)
        first = gang.nodes[0].pid
        [worker] = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
        gang.stop_worker(node=0)
        gang.terminate()
        asked = time.monotonic()
        while not gone(worker) and time.monotonic() < asked + PATIENCE:
            time.sleep(0.02)
        # How long the rest takes to end is up to the machine.
        assert 4 < time.monotonic() - asked < 10
        [end] = gang.wait()
    assert (end.exit_code, end.reason) == (ExitCode.TERMINATED, NOTHING_SAVED), end.output
    assert end.report.metrics == metrics(base / "hanging")[-1]


def test_a_request_that_comes_when_all_is_told_changes_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose peer ends at the same time is asked to stop for that, in its last moments."""
    # Modules go last of all, when Python has given up its handlers.
    (tmp_path / "sitecustomize.py").write_text("""
import os, signal
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)
last = Last()
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    late = config(base, name="late", data="missing.jsonl", **HYPERPARAMETERS)
    [end] = run(late)
    assert (end.exit_code, end.report.stage) == (ExitCode.INVALID_CONFIGURATION, Stage.FAILED), end.output


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


def test_a_killed_process_is_told_of_by_a_node_that_is_asked_to_stop_before_it_has_seen_it(
    base: Path,
) -> None:
    """The other node may have ended of it before, and whoever watches the gang ends this one for that."""
    unseen = config(base, name="unseen", nodes=2, numEpochs=1000, **HYPERPARAMETERS)
    with running(unseen) as gang:
        gang.wait_for_step(2)
        gang.kill_worker_unseen(node=1)
        first, second = gang.wait()
    assert first.exit_code == ExitCode.COLLECTIVE_TIMEOUT, first.output
    assert second.exit_code == ExitCode.KILLED, second.output
    assert second.reason == "the training process of rank 1 was ended by SIGKILL"


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
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
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
