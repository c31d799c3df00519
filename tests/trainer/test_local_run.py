"""`finetune run`, for real: two nodes on this machine that are killed, interrupted and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.report import StepRecord
from tiny import save_chat_data, save_tiny_model

FINETUNE = str(Path(sys.executable).with_name("finetune"))
NAME = "local-run"
STEPS = 100
# Importing torch and transformers, several times at once on a busy machine.
PATIENCE = 240


def manifest(**parts: Any) -> dict[str, Any]:
    """A FineTuneJob for two nodes without GPUs; `parts` replace those of its spec."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": NAME},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "tiny"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
            "storage": {"claimName": "runs"},
            "hyperparameters": {
                "learningRate": 1e-3,
                "effectiveBatchSize": 6,
                "numEpochs": 1000,
                "maxSteps": STEPS,
                "maxSeqLen": 128,
                "maxTokensPerGpu": 128,
            },
            "checkpoints": {"everyEpoch": False},
            "resources": {"nodes": 2, "gpusPerNode": 0},
        }
        | parts,
    }


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.stdout)["status"]
        return found


@dataclass(frozen=True)
class Folders:
    """What stands in for the claims."""

    root: Path

    @property
    def storage(self) -> Path:
        return self.root / "runs" / NAME

    def start(self, **parts: Any) -> subprocess.Popen[str]:
        file = self.root / "job.yaml"
        file.write_text(yaml.safe_dump(manifest(**parts)))
        claims = [f"--claim={claim}={self.root / claim}" for claim in ("models", "data", "runs")]
        return subprocess.Popen(
            [FINETUNE, "run", str(file), *claims],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.root)},
        )

    def trains(self, attempt: int) -> bool:
        """Whether this attempt has made some steps."""
        file = self.storage / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        steps = [StepRecord.model_validate_json(line) for line in lines if line.endswith("}")]
        return len([step for step in steps if step.attempt == attempt]) > 3

    def processes(self, *marks: str) -> list[int]:
        """Processes of all nodes whose command line or environment has all the marks."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = ((directory / file).read_text() for file in ("cmdline", "environ"))
            except OSError:
                continue
            if all(mark in command + environment for mark in (f"{self.root}/finetune-{NAME}", *marks)):
                found.append(int(directory.name))
        return found

    def expect_no_processes(self) -> None:
        """Wait a little for all processes of the trainer to go."""
        deadline = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def end(process: subprocess.Popen[str]) -> Ended:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, stdout, stderr)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, end(process)
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"waited in vain: {end(process)}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model and 20 samples, one of which is longer than maxSeqLen."""
    made = Folders(tmp_path_factory.mktemp("claims"))
    save_tiny_model(made.root / "models" / "tiny")
    save_chat_data(made.root / "data" / "train.jsonl", samples=19, overlong=1)
    return made


@pytest.fixture(scope="module")
def interrupted(folders: Folders) -> Ended:
    """A run one of whose nodes is killed, and that is interrupted once its second attempt trains."""
    process = folders.start()
    wait_for(lambda: folders.trains(attempt=1), process)
    [victim] = folders.processes("LOCAL_RANK=0", "PET_NODE_RANK=1")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: folders.trains(attempt=2), process)
    process.send_signal(signal.SIGINT)
    return end(process)


@pytest.fixture(scope="module")
def finished(folders: Folders, interrupted: Ended) -> Ended:
    """The same command once more."""
    return end(folders.start())


def test_a_killed_node_ends_its_peer_and_the_gang_starts_again(interrupted: Ended) -> None:
    assert "local-run-1-1: the training process of rank 1 was ended by SIGKILL" in interrupted.stderr
    assert "Restarting" in interrupted.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(folders: Folders, interrupted: Ended) -> None:
    assert interrupted.exit_code == 130
    assert interrupted.stdout == ""
    assert "Stopping        the nodes save their state" in interrupted.stderr
    assert interrupted.stderr.endswith("is saved: the same command goes on from there.\n")
    assert not folders.processes()


def test_the_same_command_goes_on_to_the_end_and_prints_the_status(
    interrupted: Ended, finished: Ended
) -> None:
    assert finished.exit_code == 0, finished.stderr
    status = finished.status
    assert status["phase"] == "Succeeded"
    truths = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert truths["Accepted"] == truths["Succeeded"] == truths["Ready"] == "True"
    [attempt] = status["attempts"]
    assert f"The state of step {attempt['resumedFromStep']} is saved" in interrupted.stderr
    assert status["progress"]["summary"] == f"{STEPS}/{STEPS} (100%)"
    assert status["progress"]["loss"] < status["progress"]["initialLoss"]
    assert (status["dataset"]["samples"], status["dataset"]["dropped"]) == (19, 1)


def test_the_model_is_where_the_status_says(folders: Folders, finished: Ended) -> None:
    output = folders.root / "runs" / finished.status["output"]["path"]
    assert f"The model is in {output}" in finished.stderr
    assert json.loads((output / "config.json").read_text())["model_type"] == "llama"
    assert list(output.glob("*.safetensors"))


def test_a_run_that_is_over_is_not_trained_again(folders: Folders, finished: Ended) -> None:
    before = (folders.storage / "output" / "model.safetensors").stat().st_mtime_ns
    again = end(folders.start())
    assert (again.exit_code, again.status["phase"]) == (0, "Succeeded")
    assert again.status["output"] == finished.status["output"]
    assert (folders.storage / "output" / "model.safetensors").stat().st_mtime_ns == before


def test_another_spec_does_not_touch_the_results_of_this_one(folders: Folders, finished: Ended) -> None:
    other = manifest()["spec"]["hyperparameters"] | {"seed": 7}
    refused = end(folders.start(hyperparameters=other))
    assert refused.exit_code == 1
    assert "belongs to another run" in refused.stderr
    assert refused.status["phase"] == "Failed"


def test_a_wrong_path_exits_1_with_a_message_that_names_it(folders: Folders) -> None:
    wrong = {"train": {"volume": {"claimName": "data", "path": "no-such.jsonl"}}}
    failed = end(folders.start(dataset=wrong, storage={"claimName": "runs", "path": "wrong"}))
    assert failed.exit_code == 1
    assert "no-such.jsonl" in failed.stderr.split("Error: ")[1]
    status = failed.status
    assert (status["phase"], status["attempts"]) == ("Failed", [])
    [prepared] = [c for c in status["conditions"] if c["type"] == "Prepared"]
    assert (prepared["status"], prepared["reason"]) == ("False", "InvalidConfiguration")


def test_a_bad_row_ends_the_run_before_any_node_is_started(folders: Folders) -> None:
    good = (folders.root / "data" / "train.jsonl").read_text()
    (folders.root / "data" / "bad.jsonl").write_text('{"messages": [{"content": "hi"}]}\n' + good)
    bad = {"train": {"volume": {"claimName": "data", "path": "bad.jsonl"}}}
    failed = end(folders.start(dataset=bad, storage={"claimName": "runs", "path": "bad"}))
    assert failed.exit_code == 1
    assert "line 1: messages[0].role: " in failed.stderr
    assert (failed.status["phase"], failed.status["attempts"]) == ("Failed", [])
    assert "Started" not in failed.stderr


def test_ctrl_c_while_the_data_are_prepared_ends_it(folders: Folders) -> None:
    process = folders.start(storage={"claimName": "runs", "path": "unprepared"})
    wait_for(lambda: bool(folders.processes("finetune-trainer\0prepare")), process)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert (ended.exit_code, ended.stdout) == (130, "")
    assert "the same command starts from the beginning" in ended.stderr
    assert "Started" not in ended.stderr
    folders.expect_no_processes()


def test_two_runs_cannot_share_a_folder_and_a_second_ctrl_c_does_not_wait(folders: Folders) -> None:
    mine = {"claimName": "runs", "path": "locked"}
    first = folders.start(storage=mine)
    wait_for(lambda: bool(folders.processes("finetune_trainer.agent")), first)
    second = end(folders.start(storage=mine))
    assert second.exit_code == 1
    assert "another run is underway" in second.stderr
    # Like nodes that take their time to save.
    for node in folders.processes("finetune-trainer\0train"):
        os.kill(node, signal.SIGSTOP)
    first.send_signal(signal.SIGINT)
    time.sleep(1)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    ended = end(first)
    assert ended.exit_code == 130
    assert "the same command starts from the beginning" in ended.stderr
    folders.expect_no_processes()


def test_nodes_do_not_outlive_the_command(folders: Folders) -> None:
    killed = folders.start(storage={"claimName": "runs", "path": "killed"})
    wait_for(lambda: bool(folders.processes("finetune_trainer.agent")), killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    folders.expect_no_processes()
