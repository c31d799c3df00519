"""The preparation as a process: as the first one of its pod, and by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import datasets
import pytest

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import MAX_DETAILS, Report, Stage
from finetune_api.runconfig import RunConfig
from tiny import conversation, save_chat_data, save_tiny_model
from trainer.gangs import PATIENCE, config, kept_report, needs_mount, small_volume
from trainer.sets import job

COMMAND = [sys.executable, "-m", "finetune_trainer", "prepare"]
BAD = '{"messages": [{"content": "nobody said this"}]}\n'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("preparing")
    save_tiny_model(made / "model")
    save_chat_data(made / "train.jsonl", samples=100, overlong=3)
    return made


class Stage0:
    """The preparation of a run, going on."""

    def __init__(self, run: RunConfig, inside: Sequence[str] = ()) -> None:
        self.storage = Path(run.locations.storage)
        self.prepared = Path(run.locations.prepared)
        self._scratch = Path(run.locations.model).with_name(f".{run.name}-prepare")
        self._scratch.mkdir()
        (self._scratch / "run.json").write_text(run.to_json())
        with (self._scratch / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*inside, *COMMAND, "--config", str(self._scratch / "run.json")],
                env={**os.environ, names.ENV_TERMINATION_LOG: str(self._scratch / "end")},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return (self._scratch / "output").read_text()

    def wait(self) -> tuple[int, Report]:
        code = self.process.wait(PATIENCE)
        return code, Report.model_validate_json((self._scratch / "end").read_text())


@contextmanager
def preparing(run: RunConfig, inside: Sequence[str] = ()) -> Iterator[Stage0]:
    stage = Stage0(run, inside)
    try:
        yield stage
    finally:
        stage.process.kill()
        stage.process.wait()


def test_it_leaves_data_and_plan_and_tells_them(base: Path) -> None:
    run = config(base, name="good", maxSeqLen=128, maxTokensPerGpu=256, effectiveBatchSize=10, nodes=2)
    with preparing(run) as stage:
        code, report = stage.wait()
    assert code == 0, stage.output
    assert (report.attempt, report.stage, report.preparation) == (names.PREPARATION, Stage.FINISHED, None)
    assert report.dataset is not None
    assert (report.dataset.samples, report.dataset.dropped) == (100, 3)
    assert report.plan is not None
    assert (report.plan.total_steps, report.plan.world_size) == (report.plan.num_epochs * 10, 2)
    assert report.plan.micro_batches_per_step is not None
    # Counted from the shapes alone, for nothing here loads a model.
    assert report.plan.trainable_parameters is not None
    directory = base / str(report.dataset.path)
    assert len(datasets.load_from_disk(str(directory))) == 100
    assert kept_report(stage.storage) == report
    assert (stage.storage / "logs" / "attempt-0" / "node-0.log").read_text() == stage.output
    assert "prepared 100 samples" in stage.output


def test_it_tells_of_data_to_evaluate_on_and_plans_without_what_is_held_back(
    base: Path, tmp_path: Path
) -> None:
    rows = [conversation("hi", f"you {number % 40}") for number in range(50)]
    run = job(tmp_path, base / "model", rows, split=0.2, sets={"general": rows[:5]}, effectiveBatchSize=10)
    with preparing(run) as stage:
        code, report = stage.wait()
    assert code == 0, stage.output
    assert report.dataset is not None
    assert report.plan is not None
    assert (report.dataset.samples, report.plan.steps_per_epoch) == (40, 4)
    held_back, general = report.evaluation_data
    assert (held_back.name, held_back.samples, held_back.in_training) == ("validation", 10, 0)
    assert (general.name, general.samples) == ("general", 5)
    assert general.in_training > 0
    assert "samples are trained on, too" in stage.output


def test_rows_that_cannot_be_trained_on_end_it_and_are_told_one_by_one(base: Path) -> None:
    good = json.dumps(conversation("x", "y")) + "\n"
    (base / "bad.jsonl").write_text(good + 150 * BAD)
    with preparing(config(base, name="bad", data="bad.jsonl")) as stage:
        code, report = stage.wait()
    assert code == ExitCode.INVALID_DATA, stage.output
    assert report.stage is Stage.FAILED
    assert report.failure is not None
    assert (report.failure.reason, report.failure.exit_code) == ("InvalidData", ExitCode.INVALID_DATA)
    assert (
        "150 rows of 151 cannot be trained on: line 2: messages[0].role: is missing" in report.failure.message
    )
    # The message of a container is short; the log and the Report have more.
    assert 10 < len(report.failure.details) < MAX_DETAILS
    last = kept_report(stage.storage)
    assert last.failure is not None
    assert len(last.failure.details) == MAX_DETAILS
    assert last.failure.details[-1].startswith("line 101: messages[0].role: is missing")
    assert "line 101: messages[0].role" in stage.output
    assert not list(stage.prepared.glob("*uid-of-bad*"))


def test_a_wrong_path_is_told_before_the_storage_is_touched(base: Path) -> None:
    with preparing(config(base, name="typo", data="typo.jsonl")) as stage:
        code, report = stage.wait()
    assert code == ExitCode.INVALID_CONFIGURATION
    assert report.failure is not None
    assert report.failure.message.startswith('spec.dataset.train: "typo.jsonl" on claim "data"')
    assert not stage.storage.exists()


def test_a_plan_that_cannot_be_is_told_before_there_are_gpus(base: Path) -> None:
    with preparing(config(base, name="tight", maxTokensPerGpu=20)) as stage:
        code, report = stage.wait()
    assert code == ExitCode.INVALID_CONFIGURATION, stage.output
    assert report.failure is not None
    assert "spec.hyperparameters.maxTokensPerGpu: 20 tokens do not hold the longest" in report.failure.message


def test_asked_to_stop_it_leaves_nothing_half_done(base: Path) -> None:
    row = json.dumps(conversation("x" * 50, "y" * 50)) + "\n"
    (base / "large.jsonl").write_text(row * 200_000)
    with preparing(config(base, name="stopped", data="large.jsonl")) as stage:
        deadline = time.monotonic() + PATIENCE
        while not (halves := list(stage.prepared.glob("*.uid-of-stopped.incomplete/*.arrow"))):
            assert time.monotonic() < deadline
            assert stage.process.poll() is None, stage.output
            time.sleep(0.05)
        assert len(halves) == 1
        stage.process.send_signal(signal.SIGTERM)
        code, report = stage.wait()
    assert code == ExitCode.TERMINATED, stage.output
    assert report.failure is not None
    assert report.failure.reason == "Terminated"
    assert not list(stage.prepared.glob("*uid-of-stopped*"))


@needs_mount
def test_a_full_volume_is_told_as_such(base: Path) -> None:
    run = config(base, name="full")
    # Room for the log and the Reports, not for the data.
    inside = small_volume(base / "small", "64k")
    locations = run.locations.model_copy(update={"storage": str(base / "small" / "full")})
    with preparing(run.model_copy(update={"locations": locations}), inside) as stage:
        code, report = stage.wait()
    assert code == ExitCode.STORAGE_FULL, stage.output
    assert report.failure is not None
    assert "No space left on device" in report.failure.message


def by_hand(*options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *map(str, options)], capture_output=True, text=True, check=False)


def test_by_hand_it_makes_a_data_set_and_says_what_is_in_it(base: Path, tmp_path: Path) -> None:
    rows = [{"chat": conversation("hi", "y" * n)["messages"]} for n in (3, 200, 4)]
    (tmp_path / "rows.json").write_text(json.dumps([*rows, {"chat": []}]))
    options = ("--model", base / "model", "--data", tmp_path / "rows.json", "--output", tmp_path / "out")
    done = by_hand(*options, "--columns", "messages=chat")
    assert done.returncode == ExitCode.INVALID_DATA
    assert "1 row of 4 cannot be trained on: row 4: chat: " in done.stderr
    assert not (tmp_path / "out").exists()
    done = by_hand(*options, "--columns", "messages=chat", "--drop-invalid-rows", "--max-seq-len", 100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 samples; left out: 1 too long, 1 invalid\n")
    assert datasets.load_from_disk(str(tmp_path / "out"))["sample"][:] == [0, 2]
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["samples"] == 2
    # What it made itself may be made anew, with other settings.
    done = by_hand(*options, "--columns", "messages=chat", "--drop-invalid-rows")
    assert done.returncode == 0, done.stderr
    assert len(datasets.load_from_disk(str(tmp_path / "out"))) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.json"]


def test_by_hand_documents_become_blocks(base: Path, tmp_path: Path) -> None:
    (tmp_path / "documents.csv").write_text("text\n" + "abcdefghi\n" * 5)
    options = ("--model", base / "model", "--data", tmp_path / "documents.csv", "--output", tmp_path / "out")
    done = by_hand(*options, "--block-size", 20, "--document-column", "text")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 samples\n60 tokens")


def test_by_hand_nothing_of_others_is_overwritten(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = by_hand("--model", base / "model", "--data", base / "train.jsonl", "--output", tmp_path)
    assert done.returncode == ExitCode.INVALID_CONFIGURATION
    assert "is not empty, and holds no prepared data" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--config is needed, or --model, --data and --output"),
        (("--config", "run.json", "--max-seq-len", "8"), "--config and --max-seq-len exclude one another"),
        (("--columns", "messages"), "'messages' is not FIELD=NAME"),
        (("--model=m", "--data=d", "--output=o", "--columns=message=x"), "message: Extra inputs"),
        (("--model=m", "--data=d", "--output=o", "--max-seq-len=1"), "maxSeqLen: Input should be"),
        (("--model=m", "--data=d", "--output=o", "--document-column=x"), "blockSize is required"),
    ],
)
def test_what_the_command_line_does_not_take(
    options: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune_trainer.main import main

    # What the command sets for its own process is not to stay in this one.
    with patch.dict(os.environ), pytest.raises(SystemExit) as ended:
        main(["prepare", *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_torch_is_not_needed(base: Path, tmp_path: Path) -> None:
    # Anybody who imports it ends here, and so does every process that is started.
    without = tmp_path / "torch.py"
    without.write_text("raise SystemExit('torch is imported')")
    found = os.environ | {"PYTHONPATH": str(tmp_path)}
    options = ("--model", base / "model", "--data", base / "train.jsonl", "--output", tmp_path / "out")
    done = subprocess.run(
        [*COMMAND, *map(str, options)], env=found, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "torch" in done.stderr.lower()) == (0, False), done.stderr
