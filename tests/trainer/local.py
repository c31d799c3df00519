"""`finetune run` as its users start it: a command whose nodes are processes of this machine."""

import os
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

    def command(self, **parts: Any) -> list[str]:
        """The command, with its file written."""
        file = self.root / "job.yaml"
        file.write_text(yaml.safe_dump(manifest(**parts)))
        claims = [f"--claim={claim}={self.root / claim}" for claim in ("models", "data", "runs")]
        return [FINETUNE, "run", str(file), *claims]

    def start(self, **parts: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(**parts),
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
